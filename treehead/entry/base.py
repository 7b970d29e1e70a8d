"""What every kind of entry has in common: what it is about, and who signed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from treehead.encoding import Fields, JsonValue, format_base64
from treehead.errors import MalformedError, UnsupportedError
from treehead.keys import PublicKey, Scheme, public_key_from_spki
from treehead.statement import Release

KEY_DETAILS = {Scheme.ED25519: "PKIX_ED25519", Scheme.P256: "PKIX_ECDSA_P256_SHA_256"}
"""Sigstore's names (PublicKeyDetails) for a signature scheme with its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One artifact that an entry speaks of: digests by algorithm name, and its name if the signature covers one."""

    digests: Mapping[str, bytes]
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A parsed log entry, whose signature has not been looked at; see `Kind.verify`.

    Attributes:
        kind: kind and version, such as "attestation/0.0.1".
        signer: the key that the entry says signed it.
        artifacts: what was signed, at least one.
        release: the package version it belongs to, if the entry is a release attestation.
        signed: what `signature` is over: the message itself, or for digest signatures None.
    """

    kind: str
    signer: PublicKey
    signature: bytes
    artifacts: tuple[Artifact, ...]
    release: Release | None = None
    signed: bytes | None = field(default=None, repr=False)


class Kind(Protocol):
    """One kind of entry, at one version. New kinds are a module with these four names and a line in the registry."""

    KIND: str
    API_VERSION: str

    def parse_spec(self, fields: Fields) -> Entry:
        """Read the `spec` object; raises `MalformedError` or `UnsupportedError` naming the field."""

    def verify(self, entry: Entry) -> None:
        """Return only if the entry's signature verifies; raises `SignatureError` naming the field."""


def verifier_to_json(key: PublicKey) -> JsonValue:
    """The `verifier` member of an entry for a bare public key, the inverse of `verifier_from_fields`."""
    return {"keyDetails": KEY_DETAILS[key.scheme], "publicKey": {"rawBytes": format_base64(key.spki)}}


def verifier_from_fields(fields: Fields) -> PublicKey:
    """Read the `verifier` member: a public key, or an X.509 certificate for the key in it.

    Not checked: the certificate's chain, validity and names. A log records a certificate; it does not vouch for it.

    Raises:
        MalformedError: a field is missing, unknown or of the wrong form.
        UnsupportedError: the key is of a scheme not known here.
    """
    details = fields.text("keyDetails")
    if details not in KEY_DETAILS.values():
        raise UnsupportedError(f"field {fields.path('keyDetails')} is not {' or '.join(KEY_DETAILS.values())}")
    if fields.has("x509Certificate"):
        holder = fields.object("x509Certificate")
        key = _certified_key(holder.base64("rawBytes"), where=holder.path("rawBytes"))
    else:
        holder = fields.object("publicKey")
        key = _bare_key(holder.base64("rawBytes"), where=holder.path("rawBytes"))
    holder.finish()
    fields.finish()
    if KEY_DETAILS[key.scheme] != details:
        raise MalformedError(f"field {fields.path('keyDetails')} says {details}, the key is {key.scheme.value}")
    return key


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
