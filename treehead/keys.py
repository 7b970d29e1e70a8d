"""Note keys: the named keys of logs, monitors and witnesses, which sign notes (C2SP signed-note).

    vkey   = <name> "+" <8 hex digits: key id> "+" base64(type || public key)
    key id = SHA-256(name || 0A || type || public key)[0:4]          (type 02: SHA-256(public key)[0:4])

Those of publishers, which have no name, are in `publickey`, and private keys of either use in `privatekey`.
`cryptography` is imported where it is needed, for an offline verification pays for each import.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from treehead.encoding import format_base64, parse_base64, parse_hex
from treehead.errors import MalformedError, SignatureError, UnsupportedError

if TYPE_CHECKING:
    pass

KEY_ID_BYTES = 4
VKEY_CHARS_MAX = 4_096


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
