"""The high-water mark: the newest checkpoint that may have been given out, in a file beside the database.

    DIR/high-water   two slots of 4,096 bytes, each empty or a signed checkpoint filled up with zeros

A database that was restored from an older copy fits together and knows nothing of what was signed since; to go on from
it would fork the log. The mark knows: it is raised after each commit and before the commit's checkpoint is shown, so
the database has at least the mark's tree, unless it was put back. It is written to the slot of the older of its two
checkpoints, so a write that is torn leaves the newer one; and it is as hard to forge as any checkpoint.

It does not help against who puts both back, as one does who restores the whole directory: then monitors and witnesses
remember.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError, TreeheadError
from treehead.files import read_limited, sync_data, write_new
from treehead.keys import VerifierKey

SLOT_BYTES = 4_096
SLOTS = 2


class MissingMarkError(StorageError):
    """There is no mark."""


class HighWaterMark:
    """The mark of one log, held by its one process. Its methods may be called from one thread at a time."""

    def __init__(self, path: Path, descriptor: int, *, slot: int, newest: Checkpoint) -> None:
        self.newest = newest
        """The newest checkpoint that was noted when the file was opened."""
        self._path = path
        self._descriptor = descriptor
        self._slot = slot
        self._size = newest.size

    @classmethod
    def open(cls, path: Path, *, vkey: VerifierKey) -> HighWaterMark:
        """Open the mark of a log.

        Raises:
            MissingMarkError: there is none.
            StorageError: it cannot be read or written, or holds no checkpoint by `vkey`.
        """
        slot, newest = _newest(path, vkey=vkey)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
        return cls(path, descriptor, slot=slot, newest=newest)

    def raise_to(self, size: int, checkpoint: bytes) -> None:
        """Note, durably, the signed checkpoint of a tree that has grown; does nothing for a smaller one.

        Not checked: that it is signed, and extends the one before.

        Raises:
            StorageError: it could not be written; what was noted before still is.
        """
        if size < self._size:
            return
        slot = (self._slot + 1) % SLOTS
        try:
            if os.pwrite(self._descriptor, _format_slot(checkpoint), slot * SLOT_BYTES) != SLOT_BYTES:
                raise StorageError(f"cannot write {self._path}: the disk took a part only")
            sync_data(self._descriptor)
        except OSError as exc:
            raise StorageError(f"cannot write {self._path}: {exc.strerror}") from exc
        self._slot, self._size = slot, size

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def create_mark(path: Path, checkpoint: bytes) -> None:
    """Make the file, durably, with a signed checkpoint.

    Raises:
        UsageError: it exists, or cannot be created.
        StorageError: it cannot be written.
    """
    write_new(path, _format_slot(checkpoint) + bytes(SLOT_BYTES * (SLOTS - 1)), mode=0o600)


def read_mark(path: Path, *, vkey: VerifierKey) -> Checkpoint:
    """The newest checkpoint that was noted; raises as `HighWaterMark.open` does."""
    return _newest(path, vkey=vkey)[1]


def _newest(path: Path, *, vkey: VerifierKey) -> tuple[int, Checkpoint]:
    """The newest checkpoint of a file, and its slot."""
    if not path.exists():
        raise MissingMarkError(f"there is no high-water mark {path}")
    try:
        data = read_limited(path, bytes_max=SLOT_BYTES * SLOTS, what="high-water mark")
    except TreeheadError as exc:
        raise StorageError(str(exc)) from exc
    noted: list[tuple[int, Checkpoint]] = []
    for slot in range(SLOTS):
        note = data[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES].rstrip(b"\0")
        # A slot that does not verify was being written when the power failed, and then what it was to hold was never
        # shown; or it has been damaged since, and the mark is one commit behind. That cannot be told, but by fsck.
        with contextlib.suppress(MalformedError, SignatureError):
            noted.append((slot, open_checkpoint(note, key=vkey)))
    if not noted:
        raise StorageError(f"{path} is damaged: none of its slots holds a checkpoint by {vkey.name}")
    return max(noted, key=lambda item: item[1].size)


def _format_slot(checkpoint: bytes) -> bytes:
    if len(checkpoint) > SLOT_BYTES:
        raise ValueError(f"a checkpoint of {len(checkpoint)} bytes does not fit a slot of {SLOT_BYTES}")
    return checkpoint.ljust(SLOT_BYTES, b"\0")
