"""Checkpoints: what a log signs to commit to its tree (C2SP tlog-checkpoint).

    <origin> LF <size> LF <base64 of the 32-byte root> LF [<extension line> LF]*

The origin names the log and is never an address. A log must not sign two checkpoints of which neither tree is a prefix
of the other; `treehead.evidence` is for when one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treehead.encoding import format_base64, format_decimal, parse_base64, parse_decimal
from treehead.errors import MalformedError, SignatureError, TooLargeError
from treehead.keys import VerifierKey
from treehead.merkle import HASH_BYTES
from treehead.note import Note, format_note, parse_note, sign_text, verify_note

if TYPE_CHECKING:
    from treehead.privatekey import SigningKey

ORIGIN_BYTES_MAX = 255
"""C2SP tlog-cosignature gives the origin's length one byte in subtree signatures."""
CHECKPOINT_CHARS_MAX = 4_096
"""So that two of them always fit into one evidence file: a log must not escape proof by signing what is too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's claim: the log `origin` has `size` entries, and their tree has this 32-byte `root`."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse a checkpoint's text (the text of a note, without signatures), the exact inverse of `format_checkpoint`.

    Raises:
        MalformedError: text is not a checkpoint.
    """
    if len(text) > CHECKPOINT_CHARS_MAX:
        raise TooLargeError(f"checkpoint is longer than {CHECKPOINT_CHARS_MAX} characters")
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "" or not all(lines):
        raise MalformedError("checkpoint does not have an origin, a size and a root, each on a line")
    origin, size, root, *extensions = lines
    if len(origin.encode("utf-8", "surrogatepass")) > ORIGIN_BYTES_MAX:
        raise TooLargeError(f"checkpoint origin is longer than {ORIGIN_BYTES_MAX} bytes")
    return Checkpoint(
        origin=origin,
        size=parse_decimal(size, what="checkpoint size"),
        root=parse_base64(root, what="checkpoint root", length=HASH_BYTES),
        extensions=tuple(extensions),
    )


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Print a checkpoint's text."""
    lines = (checkpoint.origin, format_decimal(checkpoint.size), format_base64(checkpoint.root), *checkpoint.extensions)
    return "".join(f"{line}\n" for line in lines)


def sign_checkpoint(checkpoint: Checkpoint, *, key: SigningKey) -> bytes:
    """The signed note of a checkpoint, with the origin as the key's name.

    Raises:
        UsageError: the key is not Ed25519, or the origin cannot be a key name.
        StorageError: the key is in a token that does not sign.
    """
    text = format_checkpoint(checkpoint)
    return format_note(Note(text=text, signatures=(sign_text(text, key=key, name=checkpoint.origin),)))


def verify_checkpoint(note: Note, *, key: VerifierKey) -> Checkpoint:
    """The checkpoint of a note that the log `key` signed. The key's name must be the checkpoint's origin.

    Not checked: cosignatures, freshness, consistency with any other checkpoint.

    Raises:
        MalformedError: the note's text is not a checkpoint.
        SignatureError: it is another log's, or not signed by the key.
        UnsupportedError: the key's signature type cannot be verified here.
    """
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != key.name:
        raise SignatureError(f"checkpoint is of the log {checkpoint.origin!r}, not of {key.name!r}")
    verify_note(note, key=key)
    return checkpoint


def open_checkpoint(data: bytes, *, key: VerifierKey) -> Checkpoint:
    """Parse a signed note and verify it as `verify_checkpoint` does."""
    return verify_checkpoint(parse_note(data), key=key)
