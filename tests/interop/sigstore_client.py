"""What the sigstore package makes of a log: run by an interpreter that has that package, and nothing of Treehead.

It has the package sign a file and a statement, and its client log them, and verifies what comes back by the package's
own code; then it damages entries, and has them verified again. The one thing that is missing is an authority: the
package verifies no whole bundle without Fulcio and a time stamp, so its parts are called here one by one. What happened
goes to stdout as a JSON object; whatever goes wrong is a traceback.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore._internal.trust import KeyringPurpose
from sigstore._utils import sha256_digest
from sigstore.dsse import DigestSet, StatementBuilder, Subject
from sigstore.dsse import _verify as verify_envelope
from sigstore.errors import Error, VerificationError
from sigstore.models import Bundle, SigningConfig, TransparencyLogEntry, TrustedRoot
from sigstore.sign import Signer, SigningContext
from sigstore.verify import Verifier
from sigstore.verify.verifier import (
    _validate_hashedrekord_v002_dsse_entry_body,
    _validate_hashedrekord_v002_entry_body,
)
from sigstore_models.common.v1 import PublicKeyDetails, X509Certificate
from sigstore_models.rekor.v1 import TransparencyLogEntry as LogEntryMessage
from sigstore_models.rekor.v2 import dsse, entry, verifier

CONTENT = b"what was made"
OTHER_CONTENT = b"what was not made"


class UntimedBundle(Bundle):  # type: ignore[misc]
    """A bundle without a time stamp, over which the package would not come to look at the log entry."""

    def _verify(self) -> None:
        material = self._inner.verification_material
        self._signing_certificate = x509.load_der_x509_certificate(material.certificate.raw_bytes)
        (logged,) = material.tlog_entries
        self._log_entry = TransparencyLogEntry(logged)


class HolderOfACertificate(Signer):  # type: ignore[misc]
    """The package's signer, with a self-made certificate in place of one from Fulcio, which the log does not mind."""

    def __init__(self, log: RekorV2Client, trusted_root: TrustedRoot) -> None:
        context = SigningContext(fulcio=None, rekor=log, trusted_root=trusted_root)
        super().__init__(identity_token=None, signing_ctx=context, cache=False)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self_signed(self.key)

    @property
    def _private_key(self) -> ec.EllipticCurvePrivateKey:
        return self.key

    def _signing_cert(self) -> x509.Certificate:
        return self.certificate

    def _finalize_sign(self, cert: x509.Certificate, content: Any, proposed_entry: Any) -> UntimedBundle:
        logged = self._signing_ctx._rekor.create_entry(proposed_entry)
        return UntimedBundle._from_parts(cert, content, logged)


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate that vouches for itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a signer")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )


def verify(bundle: Bundle, trusted_root: TrustedRoot, *, content: bytes = CONTENT) -> None:
    """Everything that the package verifies of a bundle, but for what needs Fulcio: steps 4, 7 and 8 of its verifier."""
    bundle.log_entry._verify(trusted_root.rekor_keyring(KeyringPurpose.VERIFY))
    if bundle._dsse_envelope is not None:
        verify_envelope(bundle.signing_certificate.public_key(), bundle._dsse_envelope)
        _validate_hashedrekord_v002_dsse_entry_body(bundle)
    else:
        _validate_hashedrekord_v002_entry_body(bundle, sha256_digest(content))


def sign_both(signer: HolderOfACertificate) -> tuple[Bundle, Bundle]:
    """A file and a statement about it, signed and logged; each bundle as it is after it was written and read."""
    subject = Subject(name="a file", digest=DigestSet(root={"sha256": hashlib.sha256(CONTENT).hexdigest()}))
    statement = (
        StatementBuilder().subjects([subject]).predicate_type("https://example.org/made/v1").predicate({}).build()
    )
    made = signer.sign_artifact(CONTENT), signer.sign_dsse(statement)
    file, attestation = (UntimedBundle.from_json(bundle.to_json()) for bundle in made)
    return file, attestation


def send_again(log: RekorV2Client, bundle: Bundle) -> dict[str, Any]:
    """Send what a bundle's entry was made of once more: as before, and as clients did before they made it one."""
    envelope = bundle._dsse_envelope
    certificate = bundle.signing_certificate
    again = log._build_dsse_request(envelope, certificate)
    details = PublicKeyDetails.PKIX_ECDSA_P256_SHA_256
    raw = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER))
    older = entry.CreateEntryRequest(
        dsse_request_v002=dsse.DSSERequestV002(
            envelope=envelope._inner,
            verifiers=[verifier.Verifier(key_details=details, x509_certificate=X509Certificate(raw_bytes=raw))],
        )
    ).to_dict()
    return {
        "first": bundle.log_entry._inner.log_index,
        "again": log.create_entry(again)._inner.log_index,
        "as_envelope": log.create_entry(older)._inner.log_index,
        "status": requests.post(f"{log.url}/log/entries", json=again, timeout=30).status_code,
    }


def damage(bundle: Bundle, trusted_root: TrustedRoot, stranger: TrustedRoot) -> dict[str, str]:
    """Verify a bundle after each of several changes; why each was refused. One that was not is an error."""

    def flipped(text: str) -> str:
        data = bytearray(base64.b64decode(text))
        data[0] ^= 1  # of a log id the package looks at the first bytes only
        return base64.b64encode(data).decode()

    def proof(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        return lambda logged: change(logged["inclusionProof"])

    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "hash of the proof": proof(lambda it: it["hashes"].append(flipped(it["hashes"].pop()))),
        "one hash less": proof(lambda it: it["hashes"].pop()),
        "root": proof(lambda it: it.update(rootHash=flipped(it["rootHash"]))),
        "size": proof(lambda it: it.update(treeSize=str(int(it["treeSize"]) + 1))),
        "index": proof(lambda it: it.update(logIndex=str(int(it["logIndex"]) - 1))),
        "checkpoint": proof(
            lambda it: it["checkpoint"].update(envelope=it["checkpoint"]["envelope"].replace("\n", "\n1", 1))
        ),
        "log id": lambda logged: logged["logId"].update(keyId=flipped(logged["logId"]["keyId"])),
        "body": lambda logged: logged.update(canonicalizedBody=flipped(logged["canonicalizedBody"])),
    }
    refused = {}
    for name, change in changes.items():
        logged = bundle.log_entry._inner.to_dict()
        change(logged)
        refused[name] = refusal(name, TransparencyLogEntry(LogEntryMessage.from_dict(logged)), trusted_root)
    refused["another log key"] = refusal("another log key", bundle.log_entry, stranger)
    try:
        verify(bundle, trusted_root, content=OTHER_CONTENT)
    except VerificationError as exc:
        return {**refused, "another file": str(exc)}
    raise AssertionError("a bundle is verified for another file")


def refusal(name: str, logged: TransparencyLogEntry, trusted_root: TrustedRoot) -> str:
    """Why an entry is not verified."""
    try:
        logged._verify(trusted_root.rekor_keyring(KeyringPurpose.VERIFY))
    except Error as exc:
        return str(exc)
    raise AssertionError(f"an entry is verified although this was changed: {name}")


def with_another_key(trusted_root: Path) -> TrustedRoot:
    """The trusted root of a log that is the same but for its key."""
    document = json.loads(trusted_root.read_bytes())
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    document["tlogs"][0]["publicKey"]["rawBytes"] = base64.b64encode(der).decode()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "root.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        return TrustedRoot.from_file(str(file))


def main() -> None:
    """Do it all, and tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trusted-root", type=Path, required=True)
    parser.add_argument("--signing-config", type=Path, required=True)
    options = parser.parse_args()
    trusted_root = TrustedRoot.from_file(str(options.trusted_root))
    (log,) = SigningConfig.from_file(str(options.signing_config)).get_tlogs()
    assert isinstance(log, RekorV2Client), log
    file, attestation = sign_both(HolderOfACertificate(log, trusted_root))
    for bundle in (file, attestation):
        verify(bundle, trusted_root)
    try:
        Verifier(trusted_root=trusted_root)
    except Error as exc:
        whole_bundle = str(exc)
    else:
        whole_bundle = ""
    told = {
        "log_url": log.url,
        "indices": [bundle.log_entry._inner.log_index for bundle in (file, attestation)],
        "kinds": [bundle.log_entry._inner.kind_version.to_dict() for bundle in (file, attestation)],
        "again": send_again(log, attestation),
        "refused": damage(file, trusted_root, with_another_key(options.trusted_root)),
        "whole_bundle": whole_bundle,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
