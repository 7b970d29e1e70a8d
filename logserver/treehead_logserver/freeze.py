"""The end of a log: a signed note that says that there will be no more entries, and which log takes them from then on.

It is the log's last checkpoint again, with two extension lines, signed by the log's key (docs/formats/freeze.md):

    <origin> LF <size> LF <root> LF "frozen" LF "successor " <verifier key> LF

Witnesses are not asked to cosign it, because some refuse checkpoints with extension lines; the last checkpoint without
them is published and cosigned as any other. The note is kept in the database, so a copy of that is frozen as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from treehead.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from treehead.errors import RefusedError, StorageError, TreeheadError, UsageError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.privatekey import SigningKey
from treehead_logserver.opening import OpenedLog

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
        successor = parse_vkey(text)
    except TreeheadError as exc:
        raise UsageError(f"--successor: {exc}") from exc
    if successor.key_type is not NoteKeyType.ED25519:
        raise UsageError(f"--successor: a key of signature type 0x{successor.key_type:02x} cannot be a log's here")
    if successor.name == vkey.name:
        raise UsageError(f"--successor: a log cannot succeed itself: {successor.name} is the name of this one")
    return successor


def sign_freeze(checkpoint: Checkpoint, *, successor: VerifierKey, key: SigningKey) -> bytes:
    """The note that ends the log whose last checkpoint this is."""
    extensions = (_FROZEN, _SUCCESSOR + format_vkey(successor))
    return sign_checkpoint(
        Checkpoint(origin=checkpoint.origin, size=checkpoint.size, root=checkpoint.root, extensions=extensions), key=key
    )


async def freeze_log(log: OpenedLog, *, successor: VerifierKey) -> Freeze:
    """End the log, for good; returns its last word.

    Raises:
        UsageError: it is frozen already.
        StorageError: that could not be written; the log goes on, or is frozen: try again.
    """
    there = await log.storage.read_freeze()
    if there is not None:
        raise UsageError(f"--data: {open_freeze(there, vkey=log.vkey).describe()}")
    checkpoint = Checkpoint(origin=log.vkey.name, size=log.edge.size, root=log.edge.root())
    note = sign_freeze(checkpoint, successor=successor, key=log.key)
    await log.storage.freeze(note)
    return open_freeze(note, vkey=log.vkey)


def open_freeze(note: bytes, *, vkey: VerifierKey) -> Freeze:
    """What such a note says.

    Raises:
        StorageError: it is not signed by the log, or says something else.
    """
    try:
        checkpoint = open_checkpoint(note, key=vkey)
        match checkpoint.extensions:
            case (first, second) if first == _FROZEN and second.startswith(_SUCCESSOR):
                successor = parse_vkey(second.removeprefix(_SUCCESSOR))
                return Freeze(note=note, size=checkpoint.size, successor=successor)
    except TreeheadError as exc:
        raise StorageError(f"the note that froze the log is damaged: {exc}") from exc
    raise StorageError("the note that froze the log is damaged: it does not name a successor")
