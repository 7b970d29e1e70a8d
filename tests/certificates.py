"""Certificates for tests with real TLS: authorities, and what they issue for servers and clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

HERE = ("localhost", "127.0.0.1")
"""The names of a server on this machine."""
DAY = timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key of the usual kind."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: CertificateIssuerPrivateKeyTypes, *, passphrase: bytes | None = None) -> bytes:
    """A key as PKCS#8."""
    encryption = (
        serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A certificate and its key, as files that a program can be given."""

    certificate: Path
    key: Path

    def write(self, certificate: bytes, key: bytes) -> None:
        """Put others in their place, as a renewal does: each at once, and the key readable for nobody else."""
        for path, data in ((self.key, key), (self.certificate, certificate)):
            new = path.with_name(f"{path.name}.new")
            new.touch(mode=0o600)
            new.write_bytes(data)
            new.replace(path)


class Authority:
    """A certificate authority, which may itself be one that another one made."""

    def __init__(self, name: str = "authority", *, parent: Authority | None = None) -> None:
        self.key = new_key()
        self._name = _named(name)
        self._parent = parent
        issuer = self if parent is None else parent
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = (
            _builder(self._name, issuer._name, self.key, begin=-DAY, end=DAY)
            .add_extension(basic, critical=True)
            .sign(issuer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        key: CertificateIssuerPrivateKeyTypes,
        *names: str,
        begin: timedelta = -DAY,
        end: timedelta = DAY,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> bytes:
        """A certificate for a key, valid from `begin` to `end` after now, with that of an intermediate authority."""
        certificate = (
            _builder(_named(names[0]), self._name, key, begin=begin, end=end)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + (b"" if self._parent is None else self.pem)

    def server(self, folder: Path, *names: str, end: timedelta = DAY) -> Files:
        """A certificate for a server of these names, else of this machine, in files of a new folder."""
        key = new_key()
        return _filed(folder, self.issue(key, *(names or HERE), begin=-2 * DAY, end=end), key_pem(key))

    def client(self, folder: Path, name: str = "client.example") -> Files:
        """A certificate for a client, in files of a new folder."""
        key = new_key()
        return _filed(folder, self.issue(key, name, usage=ExtendedKeyUsageOID.CLIENT_AUTH), key_pem(key))

    def file(self, path: Path) -> Path:
        """Its certificate as a file."""
        path.write_bytes(self.pem)
        return path


def _filed(folder: Path, certificate: bytes, key: bytes) -> Files:
    folder.mkdir()
    files = Files(certificate=folder / "cert.pem", key=folder / "key.pem")
    files.write(certificate, key)
    return files


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    *,
    begin: timedelta,
    end: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
    )
