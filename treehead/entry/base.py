"""What every kind of entry has in common: what it is about, and who signed it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from treehead.encoding import Fields, JsonValue, format_base64
from treehead.errors import MalformedError, UnsupportedError
from treehead.publickey import PublicKey, Scheme, public_key_from_spki
from treehead.statement import Release

KEY_DETAILS = {
    Scheme.ED25519: "PKIX_ED25519",
    Scheme.P256: "PKIX_ECDSA_P256_SHA_256",
    Scheme.P384: "PKIX_ECDSA_P384_SHA_384",
    Scheme.P521: "PKIX_ECDSA_P521_SHA_512",
    Scheme.RSA2048: "PKIX_RSA_PKCS1V15_2048_SHA256",
    Scheme.RSA3072: "PKIX_RSA_PKCS1V15_3072_SHA256",
    Scheme.RSA4096: "PKIX_RSA_PKCS1V15_4096_SHA256",
}
"""Sigstore's names (PublicKeyDetails) for a signature scheme with its hash.

Of those that Rekor takes, `PKIX_ED25519_PH` is missing: nothing here verifies an Ed25519 signature of a digest.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One artifact that an entry speaks of.

    Attributes:
        digests: by algorithm, at least one that a verification goes by; all of them have to be the artifact's.
        name: its name if the signature covers one.
        further_digests: by algorithm, those that only serve to find the entry.
    """

    digests: Mapping[str, bytes]
    name: str | None = None
    further_digests: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A parsed log entry, whose signature has not been looked at; see `Kind.verify`.

    Attributes:
        kind: kind and version, such as "attestation/0.0.1".
        signer: the key that the entry says signed it.
        artifacts: what was signed, at least one.
        release: the package version it belongs to, if the entry is a release attestation.
        signed: what `signature` is over: the message itself, or for digest signatures None.
        certificate: the one, in DER, that `signer` came in, if it did; anyone can make one for anybody's key.
    """

    kind: str
    signer: PublicKey
    signature: bytes
    artifacts: tuple[Artifact, ...]
    release: Release | None = None
    signed: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """The `verifier` member of an entry: a key, and in DER the certificate that it came in, if it came in one."""

    key: PublicKey
    certificate: bytes | None = field(default=None, repr=False)


class Kind(Protocol):
    """One kind of entry, at one version. New kinds are a module with these four names and a line in the registry."""

    KIND: str
    API_VERSION: str

    def parse_spec(self, fields: Fields) -> Entry:
        """Read the `spec` object; raises `MalformedError` or `UnsupportedError` naming the field."""

    def verify(self, entry: Entry) -> None:
        """Return only if the entry's signature verifies; raises `SignatureError` naming the field."""


def verifier_to_json(key: PublicKey, *, certificate: bytes | None = None) -> JsonValue:
    """The `verifier` member of an entry: the certificate (DER) for `key` if there is one, else the bare key."""
    details = KEY_DETAILS[key.scheme]
    if certificate is not None:
        return {"keyDetails": details, "x509Certificate": {"rawBytes": format_base64(certificate)}}
    return {"keyDetails": details, "publicKey": {"rawBytes": format_base64(key.spki)}}


def verifier_from_fields(fields: Fields, *, schemes: Collection[Scheme]) -> Verifier:
    """Read the `verifier` member: a public key of one of the schemes, or an X.509 certificate for one.

    Not checked: the certificate's chain, validity and names. A log records a certificate; it does not vouch for it.

    Raises:
        MalformedError: a field is missing, unknown or of the wrong form.
        UnsupportedError: the key is of another scheme.
    """
    details = fields.text("keyDetails")
    taken = ", ".join(KEY_DETAILS[scheme] for scheme in schemes)
    if details not in KEY_DETAILS.values():
        raise UnsupportedError(f"field {fields.path('keyDetails')} is {details[:64]!r}, not one of {taken}")
    certificate = None
    if fields.has("x509Certificate"):
        holder = fields.object("x509Certificate")
        certificate = holder.base64("rawBytes")
        key = _certified_key(certificate, where=holder.path("rawBytes"))
    else:
        holder = fields.object("publicKey")
        key = _bare_key(holder.base64("rawBytes"), where=holder.path("rawBytes"))
    holder.finish()
    fields.finish()
    if KEY_DETAILS[key.scheme] != details:
        raise MalformedError(f"field {fields.path('keyDetails')} says {details}, the key is {key.scheme.value}")
    if key.scheme not in schemes:
        raise UnsupportedError(f"field {fields.path('keyDetails')} is {details}; this kind takes {taken} only")
    return Verifier(key=key, certificate=certificate)


def _bare_key(spki: bytes, *, where: str) -> PublicKey:
    try:
        return public_key_from_spki(spki)
    except UnsupportedError as exc:
        raise UnsupportedError(f"field {where}: {exc}") from exc
    except MalformedError as exc:
        raise MalformedError(f"field {where}: {exc}") from exc


def _certified_key(der: bytes, *, where: str) -> PublicKey:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        public_key = x509.load_der_x509_certificate(der).public_key()
        spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as exc:
        raise MalformedError(f"field {where} is not an X.509 certificate") from exc
    return _bare_key(spki, where=where)
