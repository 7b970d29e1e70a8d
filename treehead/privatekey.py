"""Private keys of logs, monitors and publishers: PKCS#8, and Ed25519 or ECDSA P-256.

`cryptography` is imported where it is needed, for an offline verification pays for each import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from treehead.errors import UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.publickey import PRIVATE_KEY_SCHEMES, PublicKey, Scheme, public_key_from_spki

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES = 32
PRIVATE_KEY_BYTES_MAX = 16_384
PASSPHRASE_BYTES_MAX = 1_023
"""The limit of the library that encrypts."""


class SigningKey(Protocol):
    """A private key, wherever it is: in a file (`PrivateKey`) or in a token (`treehead.pkcs11`).

    To sign may wait for a device, and is not for the event loop then. Several threads may sign.
    """

    @property
    def public(self) -> PublicKey:
        """Its public half, which does not change."""

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, which verifies under `public`.

        Raises:
            StorageError: where the key is does not answer as it should; nothing was signed that anybody has seen.
        """

    def verifier_key(self, *, name: str, key_type: NoteKeyType) -> VerifierKey:
        """The vkey under which this Ed25519 key signs notes.

        Raises:
            UsageError: the key is not Ed25519, or the name cannot be a key name.
        """


_PEM_STARTS = (b"-----BEGIN PRIVATE KEY-----\n", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")


class PrivateKey:
    """A private key of one of `PRIVATE_KEY_SCHEMES`. It prints and represents itself by its public half."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives import serialization

        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._key = key
        self.public = public_key_from_spki(spki)

    @classmethod
    def from_seed(cls, *, scheme: Scheme, seed: bytes) -> PrivateKey:
        """The key that 32 bytes of fresh randomness determine.

        Raises:
            ValueError: the seed is not 32 bytes, or (with negligible probability) no P-256 scalar; or the scheme is not
                one of `PRIVATE_KEY_SCHEMES`.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes")
        if scheme not in PRIVATE_KEY_SCHEMES:
            raise ValueError(f"private keys of the scheme {scheme.value} are not made here")
        if scheme is Scheme.ED25519:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            return cls(Ed25519PrivateKey.from_private_bytes(seed))
        from cryptography.hazmat.primitives.asymmetric import ec

        return cls(ec.derive_private_key(int.from_bytes(seed, "big"), ec.SECP256R1()))

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`: Ed25519, or deterministic ECDSA (RFC 6979) with SHA-256 in DER."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self._key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def verifier_key(self, *, name: str, key_type: NoteKeyType) -> VerifierKey:
        """The vkey under which this Ed25519 key signs notes.

        Raises:
            UsageError: the key is not Ed25519, or the name cannot be a key name.
        """
        return self.public.verifier_key(name=name, key_type=key_type)

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public})"


def parse_private_key(pem: bytes, *, passphrase: bytes | None) -> PrivateKey:
    """Read a PKCS#8 private key in PEM, encrypted exactly when a passphrase is given.

    Raises:
        UsageError: the passphrase is missing, wrong or not needed, it is no such file, or the key is of no scheme known
        here.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(pem) > PRIVATE_KEY_BYTES_MAX:
        raise UsageError(f"private key is larger than {PRIVATE_KEY_BYTES_MAX} bytes")
    if not pem.startswith(_PEM_STARTS):
        raise UsageError("not a PKCS#8 private key in PEM")
    if passphrase is not None:
        _check_passphrase(passphrase)
    try:
        key = serialization.load_pem_private_key(pem, password=passphrase)
    except TypeError as exc:
        raise UsageError(
            "private key is encrypted: give its passphrase" if passphrase is None else "private key is not encrypted"
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        reason = (
            "not a PKCS#8 private key in PEM" if passphrase is None else "wrong passphrase, or not a PKCS#8 private key"
        )
        raise UsageError(reason) from exc
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return PrivateKey(key)
    raise UsageError("private key is neither Ed25519 nor ECDSA P-256")


def format_private_key(key: PrivateKey, *, passphrase: bytes | None) -> bytes:
    """Print a private key as PKCS#8 in PEM, encrypted when a passphrase is given.

    Raises:
        UsageError: the passphrase is empty or too long.
    """
    from cryptography.hazmat.primitives import serialization

    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        _check_passphrase(passphrase)
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _check_passphrase(passphrase: bytes) -> None:
    if not 0 < len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise UsageError(f"the passphrase has {len(passphrase)} bytes, not 1 to {PASSPHRASE_BYTES_MAX}")
