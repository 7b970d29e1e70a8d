"""`hashedrekord` 0.0.2: a detached signature over a digest, byte for byte the leaf of Rekor v2.

    {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": {
        "data": {"algorithm": "SHA2_256", "digest": …},
        "signature": {"content": …, "verifier": {"keyDetails": …, "publicKey" | "x509Certificate": {"rawBytes": …}}}}}}

No name is signed, so a trust rule for names never matches such an entry.
"""

from __future__ import annotations

from treehead.encoding import Fields, JsonValue, format_base64, format_canonical_json
from treehead.entry.base import Artifact, Entry, verifier_from_fields, verifier_to_json
from treehead.errors import MalformedError, SignatureError, UnsupportedError
from treehead.keys import PublicKey, Scheme

KIND = "hashedrekord"
API_VERSION = "0.0.2"

_ALGORITHM = "SHA2_256"
_DIGEST_BYTES = 32


def format_leaf(*, digest: bytes, signature: bytes, signer: PublicKey) -> bytes:
    """The leaf for an ECDSA P-256 signature over a SHA-256 digest; the signature is not checked."""
    record: JsonValue = {
        "data": {"algorithm": _ALGORITHM, "digest": format_base64(digest)},
        "signature": {"content": format_base64(signature), "verifier": verifier_to_json(signer)},
    }
    return format_canonical_json({"apiVersion": API_VERSION, "kind": KIND, "spec": {"hashedRekordV002": record}})


def parse_spec(fields: Fields) -> Entry:
    """Read the `spec` of a hashedrekord.

    Raises:
        MalformedError: a field is missing, unknown or of the wrong form.
        UnsupportedError: the digest or key is of an algorithm not known here, or signs messages rather than digests.
    """
    record = fields.object("hashedRekordV002")
    data = record.object("data")
    algorithm = data.text("algorithm")
    if algorithm != _ALGORITHM:
        raise UnsupportedError(f"field {data.path('algorithm')} is not {_ALGORITHM}")
    digest = data.base64("digest")
    if len(digest) != _DIGEST_BYTES:
        raise MalformedError(f"field {data.path('digest')} holds {len(digest)} bytes, not {_DIGEST_BYTES}")
    signature = record.object("signature")
    content = signature.base64("content")
    verifier = signature.object("verifier")
    signer = verifier_from_fields(verifier)
    if signer.scheme is not Scheme.P256:
        raise UnsupportedError(
            f"field {verifier.path('keyDetails')}: {signer.scheme.value} signs no digests; use P-256"
        )
    for left in (data, signature, record, fields):
        left.finish()
    return Entry(
        kind=f"{KIND}/{API_VERSION}",
        signer=signer,
        signature=content,
        artifacts=(Artifact(digests={"sha256": digest}),),
    )


def verify(entry: Entry) -> None:
    """Returns only if the signature over the digest verifies.

    Raises:
        SignatureError: it does not.
    """
    try:
        entry.signer.verify_digest(signature=entry.signature, digest=entry.artifacts[0].digests["sha256"])
    except SignatureError as exc:
        raise SignatureError(f"field spec.hashedRekordV002.signature.content: {exc}") from exc
