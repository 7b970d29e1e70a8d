"""Heads: what a followed log signed, opened once, and the short form in which monitors speak of them.

Pure, like every module that `gossip` stands on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple, NewType

from treehead.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from treehead.errors import TooLargeError
from treehead.keys import VerifierKey, format_vkey
from treehead.note import Note, format_note, parse_note

LogId = NewType("LogId", bytes)
"""SHA-256 of a log's verifier key in text form: 32 bytes."""

HEAD_BYTES_MAX = 65_536
"""A signed note with all its cosignatures: more than a checkpoint with twenty of the largest kind takes."""


NOTE_KEPT_BYTES_MAX = 4_096
"""A larger note is kept without its cosignatures: anyone can add lines, and our disk is not theirs to fill."""


class HeadDigest(NamedTuple):
    """A head in short; equal digests are one head, whatever cosignatures its notes carry."""

    log: LogId
    size: int
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """A head that a followed log signed: `open_head` verified the signature.

    Attributes:
        note: the note with the log's signature line alone.
        data: the note as it was received, byte for byte; `note` alone if that is more than 4 KiB.
    """

    log: LogId
    checkpoint: Checkpoint
    note: Note
    data: bytes

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        """The 32-byte root that the log signed."""
        return self.checkpoint.root

    @property
    def told(self) -> bytes:
        """The note as it is told to peers: without lines that others added."""
        return format_note(self.note)

    @property
    def digest(self) -> HeadDigest:
        """The head in short."""
        return HeadDigest(self.log, self.size, self.root)


def log_id(key: VerifierKey) -> LogId:
    """The name of a log between monitors."""
    return LogId(sha256(format_vkey(key).encode()).digest())


def open_head(data: bytes, *, key: VerifierKey) -> LogHead:
    """The head in a signed note of the log `key`.

    Not checked: cosignatures, and anything about the tree.

    Raises:
        MalformedError: data is no signed checkpoint, or larger than one may be.
        SignatureError: it is another log's, or the signature does not verify.
        UnsupportedError: the key's signature type cannot be verified here.
    """
    return read_claim(data).verify(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A note that says to be a log's head, before its signature is checked."""

    note: Note
    checkpoint: Checkpoint
    data: bytes

    def find_key(self, keys: Iterable[VerifierKey]) -> VerifierKey | None:
        """The one of `keys` by which it claims to be signed, by origin and signature line."""
        origin = self.checkpoint.origin
        return next((key for key in keys if key.name == origin and self.note.by(key) is not None), None)

    def digest(self, key: VerifierKey) -> HeadDigest:
        """The digest of the head that it is if the log `key` signed it."""
        return HeadDigest(log_id(key), self.checkpoint.size, self.checkpoint.root)

    def verify(self, key: VerifierKey) -> LogHead:
        """The head; raises as `open_head` does."""
        checkpoint = verify_checkpoint(self.note, key=key)
        signed = replace(
            self.note, signatures=tuple(line for line in self.note.signatures if line == self.note.by(key))
        )
        data = self.data if len(self.data) <= NOTE_KEPT_BYTES_MAX else format_note(signed)
        return LogHead(log=log_id(key), checkpoint=checkpoint, note=signed, data=data)


def read_claim(data: bytes) -> Claim:
    """Parse a note; no signature is checked.

    Raises:
        MalformedError: data is no signed checkpoint, or larger than one may be.
    """
    if len(data) > HEAD_BYTES_MAX:
        raise TooLargeError(f"signed checkpoint is larger than {HEAD_BYTES_MAX} bytes")
    note = parse_note(data)
    return Claim(note=note, checkpoint=parse_checkpoint(note.text), data=data)
