"""Signed notes: text, a blank line, and signature lines (C2SP signed-note).

    <text, ends in LF, may contain blank lines> LF <signature line>+
    signature line = U+2014 SP <key name> SP base64(key id[4] || signature) LF

The signed bytes are the text with its final LF and without the blank line. A note splits at its *last* blank line.
Lines by keys that the reader does not know are ignored, so that a log may add signatures without asking; a line by a
known key that does not verify condemns the whole note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treehead.encoding import format_base64, parse_base64, parse_utf8
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from treehead.keys import KEY_ID_BYTES, NoteKeyType, VerifierKey, is_key_name, verify_ed25519

if TYPE_CHECKING:
    from treehead.privatekey import SigningKey

NOTE_BYTES_MAX = 524_288
SIGNATURES_MAX = 100
"""More than any signed checkpoint has, and Go's limit."""

_LINE_START = "\N{EM DASH} "


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line. `signature` is what follows the key id; its layout depends on the key's type."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A signed note. Having parsed one says nothing about its signatures."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def by(self, key: VerifierKey) -> NoteSignature | None:
        """The signature line that claims to be by `key`, by name and key id; unverified."""
        for signature in self.signatures:
            if signature.name == key.name and signature.key_id == key.key_id:
                return signature
        return None


def parse_note(data: bytes) -> Note:
    """Parse a signed note, the exact inverse of `format_note`.

    Raises:
        MalformedError: data is not a note, or two of its lines have the same name and key id.
    """
    text = parse_utf8(data, what="signed note", bytes_max=NOTE_BYTES_MAX)
    if any(char < " " and char != "\n" for char in text):
        raise MalformedError("signed note has a control character")
    body, blank, lines = text.rpartition("\n\n")
    if not (blank and body and lines.endswith("\n")):
        raise MalformedError("signed note has no text, blank line and signature lines, or lacks its final newline")
    signatures = tuple(_parse_line(line) for line in _split_lines(lines))
    if len({(signature.name, signature.key_id) for signature in signatures}) != len(signatures):
        raise MalformedError("signed note has two signature lines of one key")
    return Note(text=body + "\n", signatures=signatures)


def _split_lines(lines: str) -> list[str]:
    split = lines[:-1].split("\n", SIGNATURES_MAX)
    if len(split) > SIGNATURES_MAX:
        raise TooLargeError(f"signed note has more than {SIGNATURES_MAX} signature lines")
    return split


def _parse_line(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_LINE_START).partition(" ")
    if not (line.startswith(_LINE_START) and space and is_key_name(name)):
        raise MalformedError("signed note has a line after its last blank line that is no signature line")
    blob = parse_base64(encoded, what="signature line of a note")
    if len(blob) <= KEY_ID_BYTES:
        raise MalformedError("signature line of a note holds no signature")
    return NoteSignature(name=name, key_id=blob[:KEY_ID_BYTES], signature=blob[KEY_ID_BYTES:])


def format_note(note: Note) -> bytes:
    """Print a signed note."""
    return (note.text + "\n" + "".join(map(format_signature_line, note.signatures))).encode()


def format_signature_line(signature: NoteSignature) -> str:
    """Print one signature line with its LF."""
    return f"{_LINE_START}{signature.name} {format_base64(signature.key_id + signature.signature)}\n"


def sign_text(text: str, *, key: SigningKey, name: str) -> NoteSignature:
    """Sign a note's text as `name` with a plain Ed25519 signature (type 0x01).

    Raises:
        UsageError: the key or name cannot sign notes.
        StorageError: the key is in a token that does not sign.
    """
    vkey = key.verifier_key(name=name, key_type=NoteKeyType.ED25519)
    return NoteSignature(name=name, key_id=vkey.key_id, signature=key.sign(text.encode()))


def verify_note(note: Note, *, key: VerifierKey) -> None:
    """Returns only if the note carries a plain Ed25519 signature by `key` that verifies.

    Raises:
        SignatureError: there is no line by this key, or its signature does not verify.
        UnsupportedError: the key is not of type 0x01.
    """
    if key.key_type is not NoteKeyType.ED25519:
        raise UnsupportedError(f"note signatures of type 0x{key.key_type:02x} ({key.name}) cannot be verified here")
    signature = note.by(key)
    if signature is None:
        raise SignatureError(f"note is not signed by {key.name} (key id {key.key_id.hex()})")
    try:
        verify_ed25519(public_key=key.public_key, signature=signature.signature, message=note.text.encode())
    except SignatureError as exc:
        raise SignatureError(f"note has a signature by {key.name} that does not verify") from exc
