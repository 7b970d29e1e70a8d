"""Certificates on disk, and the keys that belong to them: read for TLS, and found usable before anybody relies on them.

What is accepted is what gRPC's own TLS can use, so that one certificate serves all listeners of a program: keys are
ECDSA P-256 or P-384, or RSA of at least 2,048 bits. Whether a chain leads to an authority that a peer trusts, and for
which names, is the peer's to check.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from treehead.errors import TooLargeError, UsageError
from treehead.files import read_limited
from treehead.keyfile import read_guarded
from treehead.privatekey import PRIVATE_KEY_BYTES_MAX

if TYPE_CHECKING:
    # Who speaks no TLS does not wait for these.
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

CERTIFICATE_FLAG = "--tls-cert"
KEY_FLAG = "--tls-key"

CERTIFICATES_BYTES_MAX = 1_048_576
"""A chain has a few kilobytes, and all authorities of an operating system a few hundred."""

_RSA_BITS_MIN = 2_048
_PKCS8 = b"-----BEGIN PRIVATE KEY-----"
_PKCS8_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFiles:
    """Where a certificate with its intermediate ones is (PEM), and its key (PKCS#8 in PEM, mode 0600)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A chain of certificates and the key of its first one, both in PEM; valid until then."""

    chain: bytes
    key: bytes = field(repr=False)
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """Certificates that are trusted to vouch for others, in the two encodings that libraries take."""

    pem: bytes
    der: bytes


def identity_files(*, certificate: Path | None, key: Path | None) -> IdentityFiles | None:
    """What the two options say; None if neither is given.

    Raises:
        UsageError: one is given without the other.
    """
    if certificate is not None and key is not None:
        return IdentityFiles(certificate=certificate, key=key)
    if certificate is not None:
        raise UsageError(f"{CERTIFICATE_FLAG} needs the certificate's key: give {KEY_FLAG}, too")
    if key is not None:
        raise UsageError(f"{KEY_FLAG} needs the key's certificate: give {CERTIFICATE_FLAG}, too")
    return None


def read_identity(files: IdentityFiles) -> Identity:
    """A chain and a key that fit together and can be used today.

    Raises:
        UsageError: a file cannot be read or is not what it has to be, the key is encrypted, accessible to others, of a
            kind that gRPC cannot use or not the certificate's, or the certificate is not valid today.
    """
    where_certificate, where_key = f"{CERTIFICATE_FLAG} {files.certificate}", f"{KEY_FLAG} {files.key}"
    chain = _parse_certificates(_read(files.certificate, what=CERTIFICATE_FLAG), where=where_certificate)
    until = _check_time(chain[0], where=where_certificate)
    pem = read_guarded(files.key, bytes_max=PRIVATE_KEY_BYTES_MAX, what=KEY_FLAG)
    if not _is_of(_parse_key(pem, where=where_key), chain[0]):
        raise UsageError(f"{where_key} is not the key of the first certificate in {where_certificate}")
    return Identity(chain=_format_pem(chain), key=pem, until=until)


def read_authorities(path: Path, *, flag: str) -> Authorities:
    """The authorities in a file. Whether they may vouch for others, and still may, is checked where they do.

    Raises:
        UsageError: it cannot be read, or holds no certificates.
    """
    certificates = _parse_certificates(_read(path, what=flag), where=f"{flag} {path}")
    return Authorities(pem=_format_pem(certificates), der=_format_der(certificates))


def read_system_authorities() -> bytes | None:
    """The authorities that OpenSSL trusts on this machine, in PEM; None if it names no file of them.

    Raises:
        UsageError: the file that the environment names cannot be read.
    """
    import ssl

    paths = ssl.get_default_verify_paths()
    if named := os.environ.get("SSL_CERT_FILE"):
        return _read(Path(named), what="$SSL_CERT_FILE")
    return None if not paths.cafile else _read(Path(paths.cafile), what="the system's authorities")


def format_day(time: datetime) -> str:
    """A time as it is shown to operators."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _read(path: Path, *, what: str) -> bytes:
    try:
        return read_limited(path, bytes_max=CERTIFICATES_BYTES_MAX, what=what)
    except TooLargeError as exc:
        raise UsageError(str(exc)) from exc


def _parse_certificates(pem: bytes, *, where: str) -> list[Certificate]:
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(pem)
    except (ValueError, InvalidVersion) as exc:
        raise UsageError(f"{where} does not hold certificates in PEM, or one of them is damaged") from exc


def _format_pem(certificates: list[Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _format_der(certificates: list[Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _check_time(certificate: Certificate, *, where: str) -> datetime:
    """Returns until when it is valid, if it is so now."""
    from datetime import UTC, datetime

    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise UsageError(f"{where} has expired on {format_day(end)}: renew it")
    if now < begin:
        raise UsageError(f"{where} is valid from {format_day(begin)} only: wait, or set this machine's clock")
    return end


def _parse_key(pem: bytes, *, where: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if pem.startswith(_PKCS8_ENCRYPTED):
        raise UsageError(f"{where} is encrypted: write it out with openssl pkcs8, into a file of mode 0600")
    if not pem.startswith(_PKCS8):
        raise UsageError(f"{where} is not a PKCS#8 private key in PEM: openssl pkcs8 -topk8 -nocrypt makes it one")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise UsageError(f"{where} is not a PKCS#8 private key in PEM: it is damaged, or of an unknown kind") from exc
    match key:
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPrivateKey(key_size=bits) if bits >= _RSA_BITS_MIN:
            return key
    raise UsageError(
        f"{where} is of a kind that gRPC's TLS does not take: use ECDSA P-256 or P-384, or RSA of {_RSA_BITS_MIN} bits"
        " or more"
    )


def _is_of(key: PrivateKeyTypes, certificate: Certificate) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return key.public_key() == certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a public key of a kind that no accepted private key has
        return False
