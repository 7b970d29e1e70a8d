"""Keys: who signs checkpoints (note keys) and who signs artifacts (publisher keys).

A *note key* is named; its text form is the vkey of C2SP signed-note:

    vkey   = <name> "+" <8 hex digits: key id> "+" base64(type || public key)
    key id = SHA-256(name || 0A || type || public key)[0:4]          (type 02: SHA-256(public key)[0:4])

A *publisher key* has no name; its text form, used in trust.toml, is the scheme and the shortest standard encoding of
the public key, and its long form is the SubjectPublicKeyInfo DER that entries carry:

    ed25519:<base64 of 32 bytes>      p256:<base64 of the 33-byte compressed point>

Private keys of either use are PKCS#8. `cryptography` is imported where it is needed, for an offline verification pays
for each import; and SubjectPublicKeyInfo is matched against its fixed prefix, which leaves one spelling and no DER
parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from treehead.encoding import format_base64, parse_base64, parse_hex
from treehead.errors import MalformedError, SignatureError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_ID_BYTES = 4
SEED_BYTES = 32
VKEY_CHARS_MAX = 4_096
PRIVATE_KEY_BYTES_MAX = 16_384
PASSPHRASE_BYTES_MAX = 1_023
"""The limit of the library that encrypts."""


# --- note keys -------------------------------------------------------------------------------------------------------


class NoteKeyType(IntEnum):
    """The signature types of C2SP signed-note whose keys we can read."""

    ED25519 = 0x01
    ECDSA = 0x02
    COSIGNATURE_ED25519 = 0x04
    RFC6962 = 0x05
    COSIGNATURE_MLDSA44 = 0x06


_NOTE_KEY_BYTES = {
    NoteKeyType.ED25519: 32,
    NoteKeyType.COSIGNATURE_ED25519: 32,
    NoteKeyType.RFC6962: 32,
    NoteKeyType.COSIGNATURE_MLDSA44: 1312,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A named public key for signed notes.

    `public_key` is raw: 32 bytes for the Ed25519 types, SubjectPublicKeyInfo for ECDSA.
    """

    name: str
    key_type: NoteKeyType
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a signature line names its key."""
        if self.key_type is NoteKeyType.ECDSA:
            return sha256(self.public_key).digest()[:KEY_ID_BYTES]
        return sha256(self.name.encode() + b"\n" + bytes([self.key_type]) + self.public_key).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return format_vkey(self)


def is_key_name(name: str) -> bool:
    """Whether a note can be signed under this name: not empty, no plus sign, no white space, no control bytes.

    A command-line argument that was not UTF-8 arrives with surrogates in it, and has no key id.
    """
    return bool(name) and all(
        char != "+" and char >= " " and not char.isspace() and not "\ud800" <= char <= "\udfff" for char in name
    )


def parse_vkey(text: str) -> VerifierKey:
    """Parse a verifier key, the exact inverse of `format_vkey`.

    Raises:
        MalformedError: text is not a vkey, or its key id does not belong to its name and key.
        UnsupportedError: the signature type is not one of `NoteKeyType`.
    """
    name, plus, rest = text.partition("+")
    hex_id, plus2, encoded = rest.partition("+")
    if len(text) > VKEY_CHARS_MAX or not (plus and plus2 and is_key_name(name)):
        raise MalformedError("not a verifier key: expected NAME+KEYID+BASE64")
    key_id = parse_hex(hex_id, what="key id of the verifier key", length=KEY_ID_BYTES)
    blob = parse_base64(encoded, what="verifier key")
    if not blob:
        raise MalformedError("verifier key is empty")
    try:
        key_type = NoteKeyType(blob[0])
    except ValueError as exc:
        raise UnsupportedError(
            f"verifier key {name} has signature type 0x{blob[0]:02x}, which is not known here"
        ) from exc
    length = _NOTE_KEY_BYTES.get(key_type)
    if len(blob) == 1 or length not in (None, len(blob) - 1):
        raise MalformedError(f"verifier key {name} has a public key of {len(blob) - 1} bytes")
    key = VerifierKey(name=name, key_type=key_type, public_key=blob[1:])
    if key.key_id != key_id:
        raise MalformedError(f"verifier key {name} has key id {hex_id}, but its key hashes to {key.key_id.hex()}")
    return key


def format_vkey(key: VerifierKey) -> str:
    """Print a verifier key as `name+keyid+base64` (C2SP signed-note, "Verifier keys")."""
    return f"{key.name}+{key.key_id.hex()}+{format_base64(bytes([key.key_type]) + key.public_key)}"


def verify_ed25519(*, public_key: bytes, signature: bytes, message: bytes) -> None:
    """Returns only if the Ed25519 signature of `message` verifies under the raw 32-byte key.

    Raises:
        SignatureError: it does not.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise SignatureError("Ed25519 signature does not verify") from exc


# --- publisher keys --------------------------------------------------------------------------------------------------


class Scheme(Enum):
    """How a publisher signs; the value is the scheme's name in trust.toml."""

    ED25519 = "ed25519"
    P256 = "p256"


_SPKI_PREFIX = {
    Scheme.ED25519: bytes.fromhex("302a300506032b6570032100"),
    Scheme.P256: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
}
_SPKI_KEY_BYTES = {Scheme.ED25519: 32, Scheme.P256: 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A publisher's public key. Two keys are equal exactly when their `spki` is."""

    scheme: Scheme
    spki: bytes

    def verify(self, *, signature: bytes, message: bytes) -> None:
        """Returns only if the signature of `message` verifies: Ed25519, or ECDSA with SHA-256 (DER).

        Raises:
            SignatureError: it does not.
        """
        if self.scheme is Scheme.ED25519:
            verify_ed25519(public_key=self.spki[-32:], signature=signature, message=message)
        else:
            self._verify_p256(signature, sha256(message).digest())

    def verify_digest(self, *, signature: bytes, digest: bytes) -> None:
        """Returns only if the signature verifies for a message whose SHA-256 is `digest`.

        Raises:
            SignatureError: it does not.
            UnsupportedError: the scheme is Ed25519, which signs messages and not digests.
        """
        if self.scheme is not Scheme.P256:
            raise UnsupportedError(f"an {self.scheme.value} signature cannot be checked against a digest alone")
        self._verify_p256(signature, digest)

    def _verify_p256(self, signature: bytes, digest: bytes) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        try:
            _p256_key(self.spki[-65:]).verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        except (InvalidSignature, ValueError, MalformedError) as exc:
            raise SignatureError("ECDSA P-256 signature does not verify") from exc

    def __str__(self) -> str:
        return format_public_key(self)


def public_key_from_spki(spki: bytes) -> PublicKey:
    """Read a SubjectPublicKeyInfo in DER.

    Raises:
        UnsupportedError: it is not an Ed25519 key, nor an uncompressed P-256 key.
        MalformedError: the P-256 point is not on the curve.
    """
    for scheme, prefix in _SPKI_PREFIX.items():
        if spki.startswith(prefix) and len(spki) == len(prefix) + _SPKI_KEY_BYTES[scheme]:
            if scheme is Scheme.P256:
                _p256_key(spki[-65:])
            return PublicKey(scheme=scheme, spki=spki)
    raise UnsupportedError("public key is neither Ed25519 nor ECDSA P-256 (SubjectPublicKeyInfo DER)")


@lru_cache(maxsize=1_024)
def _p256_key(encoded: bytes) -> EllipticCurvePublicKey:
    """The key of a point in either encoding. Kept: few sign much, and to load a key takes a fifth of a verification.

    Raises:
        MalformedError: it is no point of the curve.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
    except ValueError as exc:
        raise MalformedError("public key is not a point of the curve P-256") from exc


def parse_public_key(text: str) -> PublicKey:
    """Parse a publisher key as trust.toml names it, the exact inverse of `format_public_key`.

    Raises:
        MalformedError: text is not `ed25519:` or `p256:` and the base64 of a key.
    """
    name, _, encoded = text.partition(":")
    if name == Scheme.ED25519.value:
        raw = parse_base64(encoded, what="ed25519 public key", length=32)
        return PublicKey(scheme=Scheme.ED25519, spki=_SPKI_PREFIX[Scheme.ED25519] + raw)
    if name == Scheme.P256.value:
        raw = parse_base64(encoded, what="p256 public key", length=33)
        numbers = _p256_key(raw).public_numbers()
        point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        return PublicKey(scheme=Scheme.P256, spki=_SPKI_PREFIX[Scheme.P256] + point)
    raise MalformedError("not a public key: expected ed25519:BASE64 or p256:BASE64")


def format_public_key(key: PublicKey) -> str:
    """Print a publisher key as `scheme:base64`."""
    if key.scheme is Scheme.ED25519:
        raw = key.spki[-32:]
    else:
        raw = bytes([2 + (key.spki[-1] & 1)]) + key.spki[-64:-32]
    return f"{key.scheme.value}:{format_base64(raw)}"


# --- private keys ----------------------------------------------------------------------------------------------------

_PEM_STARTS = (b"-----BEGIN PRIVATE KEY-----\n", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")


class PrivateKey:
    """A private key of either scheme. It prints and represents itself by its public half."""

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
            ValueError: the seed is not 32 bytes, or (with negligible probability) no P-256 scalar.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes")
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
        if self.public.scheme is not Scheme.ED25519:
            raise UsageError("signed notes need an Ed25519 key")
        if not is_key_name(name):
            raise UsageError(f"{name!r} cannot name a key: it must have no spaces, plus signs or control characters")
        return VerifierKey(name=name, key_type=key_type, public_key=self.public.spki[-32:])

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
