"""Publishers' public keys: who signs artifacts. A publisher's key has no name; see `keys` for those that have.

Its text form, used in trust.toml, is the kind and the shortest standard encoding of the public key, and its long form
is the SubjectPublicKeyInfo DER that entries carry:

    ed25519:<base64 of 32 bytes>      p256:, p384:, p521:<base64 of the compressed point>
                                      rsa:<base64 of the SubjectPublicKeyInfo>

`cryptography` is imported where it is needed, for an offline verification pays for each import; and
SubjectPublicKeyInfo is matched against what is the same in all keys of a scheme, which leaves one spelling and no DER
parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from hashlib import sha256, sha384, sha512
from typing import TYPE_CHECKING

from treehead.encoding import format_base64, parse_base64
from treehead.errors import MalformedError, SignatureError, UnsupportedError, UsageError
from treehead.keys import NoteKeyType, VerifierKey, is_key_name, verify_ed25519

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed


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
