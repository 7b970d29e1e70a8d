// Command sigstore writes entries to a log with sigstore-go, the library in cosign, and verifies the bundles that come of
// it with the same library, which trusts nothing but the log's trusted root and the signers' keys.
//
// It signs a file and an attestation, each with a bare key and with a certificate, by every kind of key that Rekor v2
// takes and Treehead verifies; sends one entry twice; and damages a bundle in several ways. It prints a JSON object that
// says what was logged and what was refused, or ends with exit code 1 and the reason on stderr.
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/proto"
)

const (
	statementType = "application/vnd.in-toto+json"
	statement     = `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.org/made/v1","predicate":{},` +
		`"subject":[{"name":"a file","digest":{"sha256":"9b0a4ab6f2e5c3eb1f39c9bd0e1fdcc3a2b7d4ae0f5b1a7ac6a1c6d0b3cf1d2e"}}]}`
)

var (
	content = []byte("what was made")
	keys    = []protocommon.PublicKeyDetails{
		protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
		protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
	}
)

// summary is what was logged and verified, and what was refused.
type summary struct {
	Logged    []logged          `json:"logged"`
	Duplicate []int64           `json:"duplicate"`
	Refused   map[string]string `json:"refused"`
}

type logged struct {
	What  string `json:"what"`
	Index int64  `json:"index"`
}

func main() {
	trustedRoot := flag.String("trusted-root", "", "the file with the log's trusted root")
	signingConfig := flag.String("signing-config", "", "the file with the log's signing config")
	flag.Parse()
	told, err := run(*trustedRoot, *signingConfig)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(told)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sigstore: %v\n", err)
		os.Exit(1)
	}
}

func run(rootFile, configFile string) (*summary, error) {
	log, err := root.NewTrustedRootFromPath(rootFile)
	if err != nil {
		return nil, fmt.Errorf("the trusted root: %w", err)
	}
	url, err := logURL(configFile)
	if err != nil {
		return nil, fmt.Errorf("the signing config: %w", err)
	}
	told := &summary{}
	for _, details := range keys {
		pair, err := sign.NewEphemeralKeypair(&sign.EphemeralKeypairOptions{Algorithm: details})
		if err != nil {
			return nil, err
		}
		authority, err := newAuthority()
		if err != nil {
			return nil, err
		}
		for _, made := range []making{{pair: pair}, {pair: pair, authority: authority}} {
			entries, err := made.logBoth(url, log)
			if err != nil {
				return nil, err
			}
			told.Logged = append(told.Logged, entries...)
		}
	}
	if told.Duplicate, err = sendTwice(url); err != nil {
		return nil, fmt.Errorf("one entry twice: %w", err)
	}
	if told.Refused, err = damage(url, log); err != nil {
		return nil, err
	}
	return told, nil
}

// logURL chooses a log of version 2 by the signing config, as cosign does.
func logURL(file string) (string, error) {
	config, err := root.NewSigningConfigFromPath(file)
	if err != nil {
		return "", err
	}
	services, err := root.SelectServices(
		config.RekorLogURLs(), config.RekorLogURLsConfig(), sign.RekorAPIVersions, time.Now())
	if err != nil {
		return "", err
	}
	if len(services) != 1 || services[0].MajorAPIVersion != 2 {
		return "", fmt.Errorf("has %v in place of one log of version 2", services)
	}
	// There are no time stamps to be had by it, and cosign has to be able to find that out.
	if urls := config.TimestampAuthorityURLs(); len(urls) != 0 {
		return "", fmt.Errorf("has time stamp authorities: %v", urls)
	}
	return services[0].URL, nil
}

// making is how bundles are made: with a bare key, or with a certificate for it if there is an authority.
type making struct {
	pair      sign.Keypair
	authority *authority
}

func (m making) String() string {
	holder := "key"
	if m.authority != nil {
		holder = "certificate"
	}
	return fmt.Sprintf("%s %s", m.pair.GetSigningAlgorithm(), holder)
}

func (m making) logBoth(url string, log root.TrustedMaterial) ([]logged, error) {
	var entries []logged
	for _, what := range []struct {
		name     string
		data     sign.Content
		artifact verify.ArtifactPolicyOption
	}{
		{"file", &sign.PlainData{Data: content}, verify.WithArtifact(bytes.NewReader(content))},
		{"attestation", &sign.DSSEData{Data: []byte(statement), PayloadType: statementType}, verify.WithoutArtifactUnsafe()},
	} {
		name := fmt.Sprintf("%s %s", what.name, m)
		made, err := m.sign(url, log, what.data)
		if err != nil {
			return nil, fmt.Errorf("signing: %s: %w", name, err)
		}
		if err := m.verify(made, log, what.artifact); err != nil {
			return nil, fmt.Errorf("verifying: %s: %w", name, err)
		}
		entries = append(entries, logged{What: name, Index: entryOf(made).GetLogIndex()})
	}
	return entries, nil
}

// sign has the library sign and log something. With a bare key it verifies what it made before it gives it.
func (m making) sign(url string, log root.TrustedMaterial, data sign.Content) (*protobundle.Bundle, error) {
	options := sign.BundleOptions{
		TransparencyLogs: []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: url, Version: 2})},
	}
	if m.authority != nil {
		options.CertificateProvider = m.authority
	} else {
		trusted, err := m.trusted(log)
		if err != nil {
			return nil, err
		}
		options.TrustedRoot = trusted
	}
	return sign.Bundle(data, m.pair, options)
}

// trusted is the log, and the signer or its authority.
func (m making) trusted(log root.TrustedMaterial) (root.TrustedMaterial, error) {
	if m.authority != nil {
		return &withAuthority{TrustedMaterial: log, authority: &root.FulcioCertificateAuthority{Root: m.authority.root}}, nil
	}
	verifier, err := loadVerifier(m.pair)
	if err != nil {
		return nil, err
	}
	known := map[string]*root.ExpiringKey{
		string(m.pair.GetHint()): root.NewExpiringKey(verifier, time.Time{}, time.Time{}),
	}
	return root.TrustedMaterialCollection{log, root.NewTrustedPublicKeyMaterialFromMapping(known)}, nil
}

func loadVerifier(pair sign.Keypair) (signature.Verifier, error) {
	details, err := signature.GetAlgorithmDetails(pair.GetSigningAlgorithm())
	if err != nil {
		return nil, err
	}
	return signature.LoadVerifier(pair.GetPublicKey(), details.GetHashType())
}

func (m making) verify(made *protobundle.Bundle, log root.TrustedMaterial, artifact verify.ArtifactPolicyOption) error {
	trusted, err := m.trusted(log)
	if err != nil {
		return err
	}
	options, policy := []verify.VerifierOption{verify.WithTransparencyLog(1)}, verify.WithKey()
	if m.authority != nil {
		options, policy = append(options, verify.WithCurrentTime()), verify.WithoutIdentitiesUnsafe()
	} else {
		options = append(options, verify.WithNoObserverTimestamps())
	}
	verifier, err := verify.NewVerifier(trusted, options...)
	if err != nil {
		return err
	}
	entity, err := bundle.NewBundle(made)
	if err != nil {
		return err
	}
	_, err = verifier.Verify(entity, verify.NewPolicy(artifact, policy))
	return err
}

func entryOf(made *protobundle.Bundle) interface{ GetLogIndex() int64 } {
	return made.GetVerificationMaterial().GetTlogEntries()[0]
}

// sendTwice sends the very same request again, as a client does whose first answer was lost.
func sendTwice(url string) ([]int64, error) {
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	signed, digest, err := pair.SignData(context.Background(), content)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKIXPublicKey(pair.GetPublicKey())
	if err != nil {
		return nil, err
	}
	request := &rekortiles.HashedRekordRequestV002{
		Digest: digest,
		Signature: &rekortiles.Signature{Content: signed, Verifier: &rekortiles.Verifier{
			KeyDetails: pair.GetSigningAlgorithm(),
			Verifier:   &rekortiles.Verifier_PublicKey{PublicKey: &rekortiles.PublicKey{RawBytes: key}},
		}},
	}
	client, err := write.NewWriter(url)
	if err != nil {
		return nil, err
	}
	var indices []int64
	for range 2 {
		entry, err := client.Add(context.Background(), request)
		if err != nil {
			return nil, err
		}
		indices = append(indices, entry.GetLogIndex())
	}
	return indices, nil
}

// damage verifies a bundle after each of several changes, and returns why it was refused. One that was not is an error.
func damage(url string, log *root.TrustedRoot) (map[string]string, error) {
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	made := making{pair: pair}
	sound, err := made.sign(url, log, &sign.PlainData{Data: content})
	if err != nil {
		return nil, err
	}
	stranger, err := withAnotherKey(log)
	if err != nil {
		return nil, err
	}
	refused := map[string]string{}
	for name, change := range map[string]func(*protobundle.Bundle, *verification){
		"another file":    func(_ *protobundle.Bundle, v *verification) { v.content = []byte("what was not made") },
		"another log key": func(_ *protobundle.Bundle, v *verification) { v.log = stranger },
		"hash of the proof": func(b *protobundle.Bundle, _ *verification) {
			b.VerificationMaterial.TlogEntries[0].InclusionProof.Hashes[0][0] ^= 1
		},
		"index": func(b *protobundle.Bundle, _ *verification) {
			b.VerificationMaterial.TlogEntries[0].LogIndex--
		},
		"size in the checkpoint": func(b *protobundle.Bundle, _ *verification) {
			checkpoint := b.VerificationMaterial.TlogEntries[0].InclusionProof.Checkpoint
			lines := strings.SplitN(checkpoint.Envelope, "\n", 3)
			checkpoint.Envelope = strings.Join([]string{lines[0], lines[1] + "0", lines[2]}, "\n")
		},
		"signature": func(b *protobundle.Bundle, _ *verification) {
			signed := b.GetMessageSignature().Signature
			signed[len(signed)-1] ^= 1
		},
		"log id": func(b *protobundle.Bundle, _ *verification) {
			b.VerificationMaterial.TlogEntries[0].LogId.KeyId[31] ^= 1
		},
	} {
		damaged, ok := proto.Clone(sound).(*protobundle.Bundle)
		if !ok {
			return nil, errors.New("a clone is of another type")
		}
		under := &verification{log: log, content: content}
		change(damaged, under)
		err := made.verify(damaged, under.log, verify.WithArtifact(bytes.NewReader(under.content)))
		if err == nil {
			return nil, fmt.Errorf("a bundle is verified although this was changed: %s", name)
		}
		refused[name] = err.Error()
	}
	return refused, nil
}

// verification is by what a bundle is verified.
type verification struct {
	log     root.TrustedMaterial
	content []byte
}

// withAnotherKey is the trusted root of a log that is the same but for its key.
func withAnotherKey(log *root.TrustedRoot) (root.TrustedMaterial, error) {
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err := log.MarshalJSON()
	if err != nil {
		return nil, err
	}
	other, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, err
	}
	for _, instance := range other.RekorLogs() {
		instance.PublicKey = crypto.PublicKey(key)
	}
	return other, nil
}

// authority issues certificates for whoever asks.
type authority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "an authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{key: key, root: root}, nil
}

// GetCertificate makes authority a sign.CertificateProvider.
func (a *authority) GetCertificate(_ context.Context, pair sign.Keypair, _ *sign.CertificateProviderOptions) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber:   big.NewInt(2),
		NotBefore:      time.Now().Add(-time.Hour),
		NotAfter:       time.Now().Add(time.Hour),
		EmailAddresses: []string{"signer@example.org"},
		KeyUsage:       x509.KeyUsageDigitalSignature,
		ExtKeyUsage:    []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	return x509.CreateCertificate(rand.Reader, template, a.root, pair.GetPublicKey(), a.key)
}

// withAuthority is a log's trusted root with a certificate authority.
type withAuthority struct {
	root.TrustedMaterial
	authority root.CertificateAuthority
}

func (w *withAuthority) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{w.authority}
}
