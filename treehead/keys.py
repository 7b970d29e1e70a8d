"""Keys: who signs checkpoints (note keys) and who signs artifacts (publisher keys).

A *note key* is named; its text form is the vkey of C2SP signed-note:

    vkey   = <name> "+" <8 hex digits: key id> "+" base64(type || public key)
    key id = SHA-256(name || 0A || type || public key)[0:4]          (type 02: SHA-256(public key)[0:4])

A *publisher key* has no name; its text form, used in trust.toml, is the kind and the shortest standard encoding of the
public key, and its long form is the SubjectPublicKeyInfo DER that entries carry:

    ed25519:<base64 of 32 bytes>      p256:, p384:, p521:<base64 of the compressed point>
                                      rsa:<base64 of the SubjectPublicKeyInfo>

Private keys of either use are PKCS#8, and Ed25519 or P-256. `cryptography` is imported where it is needed, for an
offline verification pays for each import; and SubjectPublicKeyInfo is matched against what is the same in all keys of
a scheme, which leaves one spelling and no DER parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache, lru_cache
from hashlib import sha256, sha384, sha512
from typing import TYPE_CHECKING, Protocol

from treehead.encoding import format_base64, parse_base64, parse_hex
from treehead.errors import MalformedError, SignatureError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

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
    def key_hash(self) -> bytes:
        """The 32 bytes of which the key id is the beginning."""
        if self.key_type is NoteKeyType.ECDSA:
            return sha256(self.public_key).digest()
        return sha256(self.name.encode() + b"\n" + bytes([self.key_type]) + self.public_key).digest()

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a signature line names its key."""
        return self.key_hash[:KEY_ID_BYTES]

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
    """How a publisher signs: a kind of key, its size, and the hash that goes with it."""

    ED25519 = "ed25519"
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"

    @property
    def digest(self) -> str | None:
        """The hash of the message that is signed, by its name in statements; None where the message itself is."""
        return _SHAPES[self].digest


PRIVATE_KEY_SCHEMES = (Scheme.ED25519, Scheme.P256)
"""Those whose private keys are made and used here; signatures by the others are made by other programs."""

RSA = "rsa"
"""In trust.toml, RSA keys of all sizes: the key says how large it is."""

_RSA_EXPONENT = 65_537


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """A scheme's SubjectPublicKeyInfo: all of it is given but `key_bytes` between prefix and suffix."""

    label: str
    prefix: bytes
    key_bytes: int
    suffix: bytes = b""
    digest: str | None


def _rsa_shape(bits: int, prefix: bytes) -> _Shape:
    """A modulus of exactly so many bits, and the one exponent that is in use."""
    return _Shape(
        label=f"RSA {bits}",
        prefix=prefix,
        key_bytes=bits // 8,
        suffix=b"\x02\x03" + _RSA_EXPONENT.to_bytes(3, "big"),
        digest="sha256",
    )


_SHAPES = {
    Scheme.ED25519: _Shape(
        label="Ed25519", prefix=bytes.fromhex("302a300506032b6570032100"), key_bytes=32, digest=None
    ),
    Scheme.P256: _Shape(
        label="ECDSA P-256",
        prefix=bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
        key_bytes=64,
        digest="sha256",
    ),
    Scheme.P384: _Shape(
        label="ECDSA P-384",
        prefix=bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
        key_bytes=96,
        digest="sha384",
    ),
    Scheme.P521: _Shape(
        label="ECDSA P-521",
        prefix=bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"),
        key_bytes=132,
        digest="sha512",
    ),
    Scheme.RSA2048: _rsa_shape(
        2048, bytes.fromhex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100")
    ),
    Scheme.RSA3072: _rsa_shape(
        3072, bytes.fromhex("308201a2300d06092a864886f70d01010105000382018f003082018a0282018100")
    ),
    Scheme.RSA4096: _rsa_shape(
        4096, bytes.fromhex("30820222300d06092a864886f70d01010105000382020f003082020a0282020100")
    ),
}
_CURVES = (Scheme.P256, Scheme.P384, Scheme.P521)
_HASHES = {"sha256": sha256, "sha384": sha384, "sha512": sha512}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A publisher's public key. Two keys are equal exactly when their `spki` is."""

    scheme: Scheme
    spki: bytes

    def verify(self, *, signature: bytes, message: bytes) -> None:
        """Returns only if the signature of `message` verifies: Ed25519, ECDSA (DER) or RSA PKCS#1 v1.5.

        Raises:
            SignatureError: it does not.
        """
        algorithm = self.scheme.digest
        if algorithm is None:
            verify_ed25519(public_key=self.spki[-32:], signature=signature, message=message)
        else:
            self._verify_prehashed(signature, _HASHES[algorithm](message).digest(), algorithm)

    def verify_digest(self, *, signature: bytes, digest: bytes) -> None:
        """Returns only if the signature verifies for a message whose hash, by `scheme.digest`, is `digest`.

        Raises:
            SignatureError: it does not.
            UnsupportedError: the scheme is Ed25519, which signs messages and not digests.
        """
        algorithm = self.scheme.digest
        if algorithm is None:
            raise UnsupportedError(f"an {self.scheme.value} signature cannot be checked against a digest alone")
        self._verify_prehashed(signature, digest, algorithm)

    def _verify_prehashed(self, signature: bytes, digest: bytes, algorithm: str) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec

        prehashed = _prehashed(algorithm)
        try:
            if self.scheme in _CURVES:
                _curve_key(self.scheme, b"\x04" + self._middle()).verify(signature, digest, ec.ECDSA(prehashed))
            else:
                from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

                _rsa_key(self._middle()).verify(signature, digest, PKCS1v15(), prehashed)
        except (InvalidSignature, ValueError, MalformedError) as exc:
            raise SignatureError(f"{_SHAPES[self.scheme].label} signature does not verify") from exc

    def verifier_key(self, *, name: str, key_type: NoteKeyType) -> VerifierKey:
        """The vkey of this Ed25519 key as `name`.

        Raises:
            UsageError: the key is not Ed25519, or the name cannot be a key name.
        """
        if self.scheme is not Scheme.ED25519:
            raise UsageError("signed notes need an Ed25519 key")
        if not is_key_name(name):
            raise UsageError(f"{name!r} cannot name a key: it must have no spaces, plus signs or control characters")
        return VerifierKey(name=name, key_type=key_type, public_key=self.spki[-32:])

    def _middle(self) -> bytes:
        """What is this key's own in its `spki`: the Ed25519 key, the two coordinates, or the modulus."""
        begin = len(_SHAPES[self.scheme].prefix)
        return self.spki[begin : begin + _SHAPES[self.scheme].key_bytes]

    def __str__(self) -> str:
        return format_public_key(self)


def public_key_from_ed25519(raw: bytes) -> PublicKey:
    """The key that the 32 bytes of an Ed25519 public key are.

    Raises:
        ValueError: they are not 32.
    """
    if len(raw) != _SHAPES[Scheme.ED25519].key_bytes:
        raise ValueError(f"an Ed25519 public key has {_SHAPES[Scheme.ED25519].key_bytes} bytes")
    return PublicKey(scheme=Scheme.ED25519, spki=_SHAPES[Scheme.ED25519].prefix + raw)


def public_key_from_spki(spki: bytes) -> PublicKey:
    """Read a SubjectPublicKeyInfo in DER.

    Raises:
        UnsupportedError: it is a key of no scheme known here, or an EC key that is compressed.
        MalformedError: its point is not on the curve, or its modulus is not what RSA needs.
    """
    for scheme, shape in _SHAPES.items():
        length = len(shape.prefix) + shape.key_bytes + len(shape.suffix)
        if len(spki) == length and spki.startswith(shape.prefix) and spki.endswith(shape.suffix):
            key = PublicKey(scheme=scheme, spki=spki)
            if scheme in _CURVES:
                _curve_key(scheme, b"\x04" + key._middle())
            elif scheme is not Scheme.ED25519:
                _check_modulus(key._middle())
            return key
    labels = ", ".join(shape.label for shape in _SHAPES.values())
    raise UnsupportedError(f"public key is none of {labels} (SubjectPublicKeyInfo DER, RSA exponent {_RSA_EXPONENT})")


@cache
def _prehashed(algorithm: str) -> Prehashed:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    return Prehashed({"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[algorithm])


@lru_cache(maxsize=1_024)
def _curve_key(scheme: Scheme, encoded: bytes) -> EllipticCurvePublicKey:
    """The key of a point in either encoding. Kept: few sign much, and to load a key takes a fifth of a verification.

    Raises:
        MalformedError: it is no point of the curve.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    curves = {Scheme.P256: ec.SECP256R1(), Scheme.P384: ec.SECP384R1(), Scheme.P521: ec.SECP521R1()}
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curves[scheme], encoded)
    except ValueError as exc:
        raise MalformedError(f"public key is not a point of the curve {_SHAPES[scheme].label[-5:]}") from exc


@lru_cache(maxsize=256)
def _rsa_key(modulus: bytes) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    return RSAPublicNumbers(_RSA_EXPONENT, int.from_bytes(modulus, "big")).public_key()


def _check_modulus(modulus: bytes) -> None:
    # A first bit of zero would be a shorter key in a second spelling; and an even number is no product of two odd ones.
    if not (modulus[0] & 0x80 and modulus[-1] & 1):
        raise MalformedError(f"public key has an RSA modulus that is even, or has fewer than {len(modulus) * 8} bits")


def parse_public_key(text: str) -> PublicKey:
    """Parse a publisher key as trust.toml names it, the exact inverse of `format_public_key`.

    Raises:
        MalformedError: text is not one of the forms above, or not the base64 of such a key.
    """
    name, _, encoded = text.partition(":")
    if name == Scheme.ED25519.value:
        return public_key_from_ed25519(parse_base64(encoded, what="ed25519 public key", length=32))
    if name == RSA:
        return _parse_rsa(parse_base64(encoded, what="rsa public key"))
    for scheme in _CURVES:
        if name == scheme.value:
            return _decompress(scheme, encoded)
    names = (Scheme.ED25519.value, *(scheme.value for scheme in _CURVES), RSA)
    raise MalformedError(
        f"not a public key: expected {', '.join(f'{name}:BASE64' for name in names[:-1])} or rsa:BASE64"
    )


def _parse_rsa(spki: bytes) -> PublicKey:
    try:
        key = public_key_from_spki(spki)
    except UnsupportedError as exc:
        raise MalformedError(f"rsa {exc}") from exc
    if key.scheme is Scheme.ED25519 or key.scheme in _CURVES:
        raise MalformedError(f"rsa public key is a key of the scheme {key.scheme.value}")
    return key


def _decompress(scheme: Scheme, encoded: str) -> PublicKey:
    shape = _SHAPES[scheme]
    coordinate_bytes = shape.key_bytes // 2
    point = parse_base64(encoded, what=f"{scheme.value} public key", length=1 + coordinate_bytes)
    numbers = _curve_key(scheme, point).public_numbers()
    coordinates = (number.to_bytes(coordinate_bytes, "big") for number in (numbers.x, numbers.y))
    return PublicKey(scheme=scheme, spki=shape.prefix + b"".join(coordinates))


def format_public_key(key: PublicKey) -> str:
    """Print a publisher key as `kind:base64`."""
    if key.scheme is Scheme.ED25519:
        return f"{key.scheme.value}:{format_base64(key.spki[-32:])}"
    if key.scheme in _CURVES:
        coordinates = key._middle()
        compressed = bytes([2 + (coordinates[-1] & 1)]) + coordinates[: len(coordinates) // 2]
        return f"{key.scheme.value}:{format_base64(compressed)}"
    return f"{RSA}:{format_base64(key.spki)}"


# --- private keys ----------------------------------------------------------------------------------------------------


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
