"""The end of a log: a signed note that says that there will be no more entries, and which log takes them from then on.

It is the log's last checkpoint again, with two extension lines, signed by the log's key (docs/formats/freeze.md):

    <origin> LF <size> LF <root> LF "frozen" LF "successor " <verifier key> LF

Witnesses are not asked to cosign it, because some refuse checkpoints with extension lines; the last checkpoint without
them is published and cosigned as any other.

The note is kept twice. In the database, so a copy of that is frozen as well; and as the high-water mark, so a copy from
before does not undo it: the mark is of the same tree, and the next start puts the note back (see `opening`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treehead.checkpoint import ORIGIN_BYTES_MAX, Checkpoint, open_checkpoint, sign_checkpoint
from treehead.errors import MalformedError, RefusedError, StorageError, TreeheadError, UsageError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.privatekey import SigningKey

if TYPE_CHECKING:
    from treehead_logserver.opening import OpenedLog  # which needs the rest of this module

_FROZEN = "frozen"
_SUCCESSOR = "successor "


class FrozenError(RefusedError):
    """The log takes no more entries.

    Attributes:
        successor: the log that takes them.
    """

    def __init__(self, successor: VerifierKey) -> None:
        super().__init__(f"this log is frozen and takes no more entries; its successor is {format_vkey(successor)}")
        self.successor = successor


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A frozen log's last word: the signed note, and what it says."""

    note: bytes
    size: int
    root: bytes
    successor: VerifierKey

    def describe(self) -> str:
        """What it says, in one sentence."""
        return f"the log is frozen at {self.size} entries, and its successor is {format_vkey(self.successor)}"


def parse_successor(text: str, *, vkey: VerifierKey) -> VerifierKey:
    """The verifier key of the log that takes over.

    Raises:
        UsageError: text is none, cannot be a log's, or names the log itself.
    """
    try:
        return _parse_successor(text, origin=vkey.name)
    except TreeheadError as exc:
        raise UsageError(f"--successor: {exc}") from exc


def _parse_successor(text: str, *, origin: str) -> VerifierKey:
    successor = parse_vkey(text)
    if successor.key_type is not NoteKeyType.ED25519:
        raise MalformedError(f"a key of signature type 0x{successor.key_type:02x} cannot be a log's here")
    if len(successor.name.encode()) > ORIGIN_BYTES_MAX:
        raise MalformedError(f"a name of more than {ORIGIN_BYTES_MAX} bytes cannot be a log's")
    if successor.name == origin:
        raise MalformedError(f"a log cannot succeed itself: {successor.name} is the name of this one")
    return successor


def sign_freeze(checkpoint: Checkpoint, *, successor: VerifierKey, key: SigningKey) -> bytes:
    """The note that ends the log whose last checkpoint this is."""
    extensions = (_FROZEN, _SUCCESSOR + format_vkey(successor))
    return sign_checkpoint(
        Checkpoint(origin=checkpoint.origin, size=checkpoint.size, root=checkpoint.root, extensions=extensions), key=key
    )


async def freeze_log(log: OpenedLog, *, successor: VerifierKey) -> Freeze:
    """End the log, for good; returns its last word, which is to be shown to nobody before.

    The database is written first, as for every commit, and the high-water mark second. After a crash between the two
    the log is frozen, and its next start notes that in the mark before it shows the note to anyone.

    Raises:
        UsageError: it is frozen already.
        StorageError: that could not be written; the log goes on, or is frozen: try again.
    """
    if log.freeze is not None:
        raise UsageError(f"--data: {log.freeze.describe()}")
    checkpoint = Checkpoint(origin=log.vkey.name, size=log.edge.size, root=log.edge.root())
    freeze = open_freeze(sign_freeze(checkpoint, successor=successor, key=log.key), vkey=log.vkey)
    await log.storage.freeze(freeze.note)
    log.mark.freeze(freeze.size, freeze.note)
    return freeze


def open_freeze(note: bytes, *, vkey: VerifierKey) -> Freeze:
    """What such a note says. Not checked: that the log's tree is the one it names.

    Raises:
        StorageError: it is not signed by the log, or says something else.
    """
    try:
        checkpoint = open_checkpoint(note, key=vkey)
    except TreeheadError as exc:
        raise StorageError(f"the note that froze the log is damaged: {exc}") from exc
    successor = successor_in(checkpoint)
    if successor is None:
        raise StorageError("the note that froze the log is damaged: it is a checkpoint, and ends nothing")
    return Freeze(note=note, size=checkpoint.size, root=checkpoint.root, successor=successor)


def is_freeze(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint begins as a note that ends its log does; see `successor_in`."""
    return checkpoint.extensions[:1] == (_FROZEN,)


def successor_in(checkpoint: Checkpoint) -> VerifierKey | None:
    """The successor that a checkpoint names as the note that ended its log; None if it is no such note.

    Raises:
        StorageError: it begins as one, and is none.
    """
    if not is_freeze(checkpoint):
        return None
    lines = checkpoint.extensions[1:]
    if len(lines) != 1 or not lines[0].startswith(_SUCCESSOR):
        raise StorageError("the note that froze the log is damaged: it does not name a successor, and nothing else")
    try:
        return _parse_successor(lines[0].removeprefix(_SUCCESSOR), origin=checkpoint.origin)
    except TreeheadError as exc:
        raise StorageError(f"the note that froze the log is damaged: {exc}") from exc
