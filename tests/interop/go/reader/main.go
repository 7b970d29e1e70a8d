// Command reader reads a log over HTTP with the Merkle tree and signed notes of the Go project (golang.org/x/mod/sumdb),
// and then once more with torchwood's client, and believes none of what it is sent before it is verified.
//
// It prints a JSON object that says what was verified, or ends with exit code 1 and the reason on stderr. Nothing in it
// knows Treehead: what the two libraries leave to their users, the layout of C2SP tlog-tiles, is written down here again.
package main

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/torchwood"
	cosignature "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight    = 8
	tileWidth     = 1 << tileHeight
	bodyBytesMax  = 64 << 20
	requestTimeS  = 30
	entriesTimeS  = 60
	lengthPrefix  = 2
	checkpointLen = 3
)

// summary is what was verified.
type summary struct {
	Origin         string     `json:"origin"`
	Size           int64      `json:"size"`
	Root           string     `json:"root"`
	Proofs         int        `json:"proofs"`
	ConsistentFrom int64      `json:"consistent_from"`
	Entries        int64      `json:"entries"`
	GzipBodies     int        `json:"gzip_bodies"`
	Paths          []string   `json:"paths"`
	Cosignatures   []cosigned `json:"cosignatures"`
}

type cosigned struct {
	Name string `json:"name"`
	Time int64  `json:"time"`
}

type vkeys []string

func (v *vkeys) String() string     { return strings.Join(*v, " ") }
func (v *vkeys) Set(s string) error { *v = append(*v, s); return nil }

func main() {
	var witnesses vkeys
	url := flag.String("url", "", "where the log is read, without a slash at the end")
	vkey := flag.String("vkey", "", "the log's verifier key")
	proofs := flag.Int("proofs", 100, "how many entries to verify by an inclusion proof, spread over the tree")
	earlier := flag.String("earlier", "", "a file with an earlier checkpoint, from which the tree has to go on")
	flag.Var(&witnesses, "witness", "the verifier key of a witness that has to have cosigned; may be repeated")
	flag.Parse()
	told, err := read(*url, *vkey, *proofs, *earlier, witnesses)
	if err != nil {
		fmt.Fprintf(os.Stderr, "reader: %v\n", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		fmt.Fprintf(os.Stderr, "reader: %v\n", err)
		os.Exit(1)
	}
}

func read(url, vkey string, proofs int, earlier string, witnesses []string) (*summary, error) {
	log := &logSite{url: url}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("the log's verifier key: %w", err)
	}
	signed, err := log.get("checkpoint")
	if err != nil {
		return nil, err
	}
	tree, told, err := openCheckpoint(signed, verifier, witnesses)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint: %w", err)
	}
	hashes := tlog.TileHashReader(tree, log)
	if err := checkRoot(tree, hashes); err != nil {
		return nil, err
	}
	if told.Proofs, err = checkInclusion(log, tree, hashes, proofs); err != nil {
		return nil, err
	}
	if earlier != "" {
		if told.ConsistentFrom, err = checkConsistency(tree, hashes, earlier, verifier); err != nil {
			return nil, err
		}
	}
	if told.Entries, err = checkAllEntries(url, tree); err != nil {
		return nil, fmt.Errorf("torchwood: %w", err)
	}
	told.GzipBodies = log.gzipBodies
	slices.Sort(log.paths)
	told.Paths = slices.Compact(log.paths)
	return told, nil
}

// openCheckpoint verifies the note of a checkpoint: signed by the log, and cosigned by every witness named.
func openCheckpoint(data []byte, log note.Verifier, witnesses []string) (tlog.Tree, *summary, error) {
	known := []note.Verifier{log}
	for _, vkey := range witnesses {
		verifier, err := cosignature.NewVerifierForCosignatureV1(vkey)
		if err != nil {
			return tlog.Tree{}, nil, fmt.Errorf("the verifier key of a witness: %w", err)
		}
		known = append(known, verifier)
	}
	opened, err := note.Open(data, note.VerifierList(known...))
	if err != nil {
		return tlog.Tree{}, nil, err
	}
	told := &summary{Cosignatures: []cosigned{}}
	missing := map[string]bool{}
	for _, verifier := range known {
		missing[fmt.Sprintf("%s+%08x", verifier.Name(), verifier.KeyHash())] = true
	}
	for _, line := range opened.Sigs {
		delete(missing, fmt.Sprintf("%s+%08x", line.Name, line.Hash))
		if line.Name == log.Name() && line.Hash == log.KeyHash() {
			continue
		}
		at, err := cosignature.CoSigV1Timestamp(line)
		if err != nil {
			return tlog.Tree{}, nil, err
		}
		told.Cosignatures = append(told.Cosignatures, cosigned{Name: line.Name, Time: at.Unix()})
	}
	for name := range missing {
		return tlog.Tree{}, nil, fmt.Errorf("%s has not signed it", name)
	}
	tree, err := parseCheckpoint(opened.Text, log.Name())
	if err != nil {
		return tlog.Tree{}, nil, err
	}
	told.Origin, told.Size, told.Root = log.Name(), tree.N, tree.Hash.String()
	return tree, told, nil
}

// parseCheckpoint reads the three lines of C2SP tlog-checkpoint. Extension lines are refused: nobody here has any.
func parseCheckpoint(text, origin string) (tlog.Tree, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != checkpointLen {
		return tlog.Tree{}, fmt.Errorf("has %d lines, not %d", len(lines), checkpointLen)
	}
	if lines[0] != origin {
		return tlog.Tree{}, fmt.Errorf("is of %q, not of %q", lines[0], origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, fmt.Errorf("%q is no size", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("%q is no root", lines[2])
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

func checkRoot(tree tlog.Tree, hashes tlog.HashReader) error {
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return fmt.Errorf("the tiles: %w", err)
	}
	if root != tree.Hash {
		return errors.New("the tiles make another root than the checkpoint has")
	}
	return nil
}

// checkInclusion proves entries from the first to the last, and returns how many.
func checkInclusion(log *logSite, tree tlog.Tree, hashes tlog.HashReader, wanted int) (int, error) {
	if int64(wanted) > tree.N {
		return 0, fmt.Errorf("the log has %d entries, of which %d cannot be proved", tree.N, wanted)
	}
	for i := range int64(wanted) {
		index := i * (tree.N - 1) / max(int64(wanted)-1, 1)
		entry, err := log.entry(index, tree.N)
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", index, err)
		}
		proof, err := tlog.ProveRecord(tree.N, index, hashes)
		if err != nil {
			return 0, fmt.Errorf("the proof of entry %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
			return 0, fmt.Errorf("entry %d is not in the tree: %w", index, err)
		}
	}
	return wanted, nil
}

// checkConsistency proves that the tree goes on from the one of an earlier checkpoint, and returns the size of that.
func checkConsistency(tree tlog.Tree, hashes tlog.HashReader, file string, log note.Verifier) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	before, _, err := openCheckpoint(data, log, nil)
	if err != nil {
		return 0, fmt.Errorf("the earlier checkpoint: %w", err)
	}
	proof, err := tlog.ProveTree(tree.N, before.N, hashes)
	if err != nil {
		return 0, fmt.Errorf("the proof from size %d: %w", before.N, err)
	}
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, before.N, before.Hash); err != nil {
		return 0, fmt.Errorf("the tree does not go on from size %d: %w", before.N, err)
	}
	return before.N, nil
}

// checkAllEntries reads every entry with torchwood's client, and counts them. The client holds each against its hash in a
// tile; that all tiles belong to the tree is left to nobody, so the root is also made of nothing but the entries.
func checkAllEntries(url string, tree tlog.Tree) (int64, error) {
	fetcher, err := torchwood.NewTileFetcher(url)
	if err != nil {
		return 0, err
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), entriesTimeS*time.Second)
	defer cancel()
	var count int64
	var stored storedHashes
	// It stops before a partial bundle, and takes that when asked to begin with it.
	for range 2 {
		for index, entry := range client.Entries(ctx, tree, count) {
			if index != count {
				return count, fmt.Errorf("entry %d comes after %d entries", index, count)
			}
			hashes, err := tlog.StoredHashes(count, entry, stored)
			if err != nil {
				return count, err
			}
			stored = append(stored, hashes...)
			count++
		}
		if err := client.Err(); err != nil {
			return count, err
		}
	}
	if count != tree.N {
		return count, fmt.Errorf("has read %d of %d entries", count, tree.N)
	}
	root, err := tlog.TreeHash(count, stored)
	if err != nil {
		return count, err
	}
	if root != tree.Hash {
		return count, errors.New("the entries make another root than the checkpoint has")
	}
	return count, nil
}

// storedHashes are the hashes of a tree in the order of its growth. It is a tlog.HashReader.
type storedHashes []tlog.Hash

func (s storedHashes) ReadHashes(indices []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indices))
	for i, index := range indices {
		hashes[i] = s[index]
	}
	return hashes, nil
}

// logSite is a log as C2SP tlog-tiles publishes it. It is a tlog.TileReader.
type logSite struct {
	url        string
	client     http.Client
	gzipBodies int
	paths      []string
	bundle     []byte
	bundlePath string
}

func (l *logSite) Height() int { return tileHeight }

func (l *logSite) SaveTiles([]tlog.Tile, [][]byte) {}

func (l *logSite) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		var err error
		if data[i], err = l.get(tilePath(tile)); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// tilePath is that of C2SP, which is that of the Go project without the height, and with entries for data.
func tilePath(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
	if rest, isData := strings.CutPrefix(path, "data/"); isData {
		path = "entries/" + rest
	}
	return "tile/" + path
}

// entry reads an entry from the bundle that a tree of this size has it in.
func (l *logSite) entry(index, size int64) ([]byte, error) {
	number := index / tileWidth
	width := min(size-number*tileWidth, tileWidth)
	path := tilePath(tlog.Tile{H: tileHeight, L: -1, N: number, W: int(width)})
	if l.bundlePath != path {
		bundle, err := l.get(path)
		if err != nil {
			return nil, err
		}
		l.bundle, l.bundlePath = bundle, path
	}
	rest := l.bundle
	for at := number * tileWidth; ; at++ {
		if len(rest) < lengthPrefix {
			return nil, fmt.Errorf("%s ends before it", path)
		}
		length := int(binary.BigEndian.Uint16(rest))
		rest = rest[lengthPrefix:]
		if len(rest) < length {
			return nil, fmt.Errorf("%s ends in the middle of entry %d", path, at)
		}
		if at == index {
			return rest[:length], nil
		}
		rest = rest[length:]
	}
}

// get reads a resource, compressed if the log likes.
func (l *logSite) get(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeS*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := l.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", path, response.StatusCode)
	}
	l.paths = append(l.paths, path)
	body := io.Reader(response.Body)
	switch encoding := response.Header.Get("Content-Encoding"); encoding {
	case "":
	case "gzip":
		if body, err = gzip.NewReader(body); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		l.gzipBodies++
	default:
		return nil, fmt.Errorf("%s: comes in the encoding %q", path, encoding)
	}
	data, err := io.ReadAll(io.LimitReader(body, bodyBytesMax))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
