"""`hashedrekord` 0.0.2: a detached signature over a digest, byte for byte the leaf of Rekor v2.

    {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": {
        "data": {"algorithm": "SHA2_256", "digest": …},
        "signature": {"content": …, "verifier": {"keyDetails": …, "publicKey" | "x509Certificate": {"rawBytes": …}}}}}}

The key says which digest it is: SHA-256 for ECDSA P-256 and RSA, SHA-384 for P-384, SHA-512 for P-521. No name is
signed, so a trust rule for names never matches such an entry.
"""

from __future__ import annotations

from treehead.encoding import Fields, JsonValue, format_base64, format_canonical_json
from treehead.entry.base import KEY_DETAILS, Artifact, Entry, verifier_from_fields, verifier_to_json
from treehead.errors import MalformedError, SignatureError, UnsupportedError
from treehead.publickey import PublicKey, Scheme

KIND = "hashedrekord"
API_VERSION = "0.0.2"

SCHEMES = tuple(scheme for scheme in Scheme if scheme.digest is not None)
"""What may sign a digest: those of Rekor's that can be verified here, which leaves out Ed25519ph only."""

_ALGORITHMS = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}
"""Sigstore's names (HashAlgorithm) for digests."""
_DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}


def format_leaf(*, digest: bytes, signature: bytes, signer: PublicKey, certificate: bytes | None = None) -> bytes:
    """The leaf for a signature over a digest, neither of which is checked; see `check_digest`.

    With a certificate (DER), which is one for `signer`, the leaf has that in place of the bare key.

    Raises:
        UnsupportedError: the signer is not of one of `SCHEMES`.
    """
    record: JsonValue = {
        "data": {"algorithm": _ALGORITHMS[digest_algorithm(signer)], "digest": format_base64(digest)},
        "signature": {
            "content": format_base64(signature),
            "verifier": verifier_to_json(signer, certificate=certificate),
        },
    }
    return format_canonical_json({"apiVersion": API_VERSION, "kind": KIND, "spec": {"hashedRekordV002": record}})


def digest_algorithm(signer: PublicKey) -> str:
    """The one hash whose digests a key signs here, by its name in statements.

    Raises:
        UnsupportedError: the signer is not of one of `SCHEMES`.
    """
    algorithm = signer.scheme.digest
    if algorithm is None:
        raise UnsupportedError(f"a key of the scheme {signer.scheme.value} signs no digests")
    return algorithm


def check_digest(digest: bytes, *, signer: PublicKey, where: str) -> None:
    """Returns only if a digest has the length that it has for this signer; `where` names its field.

    Raises:
        MalformedError: it has not.
    """
    length = _DIGEST_BYTES[digest_algorithm(signer)]
    if len(digest) != length:
        raise MalformedError(f"field {where} holds {len(digest)} bytes, not {length}")


def parse_spec(fields: Fields) -> Entry:
    """Read the `spec` of a hashedrekord.

    Raises:
        MalformedError: a field is missing, unknown or of the wrong form.
        UnsupportedError: the key is of none of `SCHEMES`, or the digest is not of the hash that goes with it.
    """
    record = fields.object("hashedRekordV002")
    data = record.object("data")
    named = data.text("algorithm")
    digest = data.base64("digest")
    signature = record.object("signature")
    content = signature.base64("content")
    verifier = verifier_from_fields(signature.object("verifier"), schemes=SCHEMES)
    for left in (data, signature, record, fields):
        left.finish()
    signer = verifier.key
    algorithm = digest_algorithm(signer)
    if named != _ALGORITHMS[algorithm]:
        raise UnsupportedError(
            f"field {data.path('algorithm')} is {named[:64]!r}; "
            f"{KEY_DETAILS[signer.scheme]} goes with {_ALGORITHMS[algorithm]}"
        )
    check_digest(digest, signer=signer, where=data.path("digest"))
    return Entry(
        kind=f"{KIND}/{API_VERSION}",
        signer=signer,
        signature=content,
        artifacts=(Artifact(digests={algorithm: digest}),),
        certificate=verifier.certificate,
    )


def verify(entry: Entry) -> None:
    """Returns only if the signature over the digest verifies.

    Raises:
        SignatureError: it does not.
    """
    digest = entry.artifacts[0].digests[digest_algorithm(entry.signer)]
    try:
        entry.signer.verify_digest(signature=entry.signature, digest=digest)
    except SignatureError as exc:
        raise SignatureError(f"field spec.hashedRekordV002.signature.content: {exc}") from exc
