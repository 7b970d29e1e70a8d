"""`attestation` 0.0.1: a signed in-toto statement, whole, with the key that signed it.

    {"apiVersion": "0.0.1", "kind": "attestation", "spec": {
        "envelope": {"payload": …, "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": …}]},
        "verifier": {"keyDetails": …, "publicKey": {"rawBytes": …}}}}

The names are in the leaf, so whoever follows the log sees who publishes what. The signature is over the DSSE
pre-authentication encoding of the statement.
"""

from __future__ import annotations

from treehead.dsse import Envelope, envelope_from_fields, envelope_to_json
from treehead.encoding import Fields, format_canonical_json
from treehead.entry.base import Artifact, Entry, verifier_from_fields, verifier_to_json
from treehead.errors import MalformedError, SignatureError
from treehead.publickey import PublicKey, Scheme
from treehead.statement import PAYLOAD_TYPE, Subject, parse_statement

KIND = "attestation"
API_VERSION = "0.0.1"

SCHEMES = (Scheme.ED25519, Scheme.P256, Scheme.P384, Scheme.RSA3072, Scheme.RSA4096)
"""What may sign an attestation."""


def format_leaf(envelope: Envelope, *, signer: PublicKey) -> bytes:
    """The leaf for a signed statement; neither signature nor statement is checked."""
    spec = {"envelope": envelope_to_json(envelope), "verifier": verifier_to_json(signer)}
    return format_canonical_json({"apiVersion": API_VERSION, "kind": KIND, "spec": spec})


def parse_spec(fields: Fields) -> Entry:
    """Read the `spec` of an attestation.

    Raises:
        MalformedError: a field is missing, unknown or of the wrong form, or the payload is no statement.
        UnsupportedError: the key is of none of `SCHEMES`.
    """
    envelope_fields = fields.object("envelope")
    envelope = envelope_from_fields(envelope_fields)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise MalformedError(f"field {envelope_fields.path('payloadType')} is not {PAYLOAD_TYPE}")
    try:
        statement = parse_statement(envelope.payload)
    except MalformedError as exc:
        raise type(exc)(f"field {envelope_fields.path('payload')}: {exc}") from exc
    verifier = verifier_from_fields(fields.object("verifier"), schemes=SCHEMES)
    fields.finish()
    return Entry(
        kind=f"{KIND}/{API_VERSION}",
        signer=verifier.key,
        signature=envelope.signature,
        artifacts=tuple(map(_artifact_of, statement.subjects)),
        release=statement.release,
        signed=envelope.signed_bytes(),
        certificate=verifier.certificate,
    )


def _artifact_of(subject: Subject) -> Artifact:
    return Artifact(name=subject.name, digests=subject.digests, further_digests=subject.further_digests)


def verify(entry: Entry) -> None:
    """Returns only if the signature over the statement verifies.

    Raises:
        SignatureError: it does not.
    """
    if entry.signed is None:
        raise SignatureError("field spec.envelope: the entry does not hold what was signed")
    try:
        entry.signer.verify(signature=entry.signature, message=entry.signed)
    except SignatureError as exc:
        raise SignatureError(f"field spec.envelope.signatures[0].sig: {exc}") from exc
