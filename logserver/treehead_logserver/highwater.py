"""The high-water mark: the newest checkpoint that may have been given out, in a file beside the database.

    DIR/high-water   two slots of 4,096 bytes, each empty or a signed checkpoint filled up with zeros

A database that was restored from an older copy fits together and knows nothing of what was signed since; to go on from
it would fork the log. The mark knows: it is raised after each commit and before the commit's checkpoint is shown, so
the database has at least the mark's tree, unless it was put back. It is written to the slot of the older of its two
checkpoints, so a write that is torn leaves the newer one; and it is as hard to forge as any checkpoint.

The note that ends a log is the last that is noted. It is of the same tree as the last checkpoint, and counts for more;
so a database from before it, which has that tree as well, does not undo the end: see `freeze`.

It does not help against who puts both back, as one does who restores the whole directory: then monitors and witnesses
remember.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError, TreeheadError
from treehead.files import read_limited, sync_data, write_new
from treehead.keys import VerifierKey
from treehead_logserver.freeze import is_freeze

SLOT_BYTES = 4_096
SLOTS = 2


class MissingMarkError(StorageError):
    """There is no mark."""


class HighWaterMark:
    """The mark of one log, held by its one process. Its methods may be called from one thread at a time."""

    def __init__(self, path: Path, descriptor: int, *, noted: _Noted) -> None:
        self.newest = noted.checkpoint
        """The newest checkpoint that was noted when the file was opened."""
        self.note = noted.note
        """The signed note that it is in."""
        self._path = path
        self._descriptor = descriptor
        self._slot = noted.slot
        self._size = noted.checkpoint.size
        self._is_frozen = is_freeze(noted.checkpoint)

    @classmethod
    def open(cls, path: Path, *, vkey: VerifierKey) -> HighWaterMark:
        """Open the mark of a log.

        Raises:
            MissingMarkError: there is none.
            StorageError: it cannot be read or written, or holds no checkpoint by `vkey`.
        """
        noted = _newest(path, vkey=vkey)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
        return cls(path, descriptor, noted=noted)

    def raise_to(self, size: int, checkpoint: bytes) -> None:
        """Note, durably, the signed checkpoint of a tree that has grown; does nothing for a smaller one.

        Nor for one of the tree that the log was frozen with. Not checked: that it is signed, and extends the last one.

        Raises:
            StorageError: it could not be written, or the log was frozen before; what was noted then still is.
        """
        if size < self._size:
            return
        if not self._is_frozen:
            self._write(size, checkpoint)
        elif size > self._size:
            raise StorageError(f"{self._path} says that the log was frozen at {self._size} entries, so it cannot grow")

    def freeze(self, size: int, note: bytes) -> None:
        """Note, durably, the signed note that ends the log, of a tree of `size`; after it nothing else is noted.

        Not checked: that it is one.

        Raises:
            StorageError: it could not be written, or a larger tree was signed; what was noted before still is.
        """
        if size < self._size:
            raise StorageError(f"{self._path} is of {self._size} entries, so the log cannot have ended at {size}")
        self._write(size, note)
        self._is_frozen = True

    def _write(self, size: int, note: bytes) -> None:
        slot = (self._slot + 1) % SLOTS
        try:
            if os.pwrite(self._descriptor, _format_slot(note), slot * SLOT_BYTES) != SLOT_BYTES:
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
    return _newest(path, vkey=vkey).checkpoint


class _Noted(NamedTuple):
    slot: int
    note: bytes
    checkpoint: Checkpoint


def _newest(path: Path, *, vkey: VerifierKey) -> _Noted:
    """The newest checkpoint of a file; of two of the same size, the one that ends the log."""
    if not path.exists():
        raise MissingMarkError(f"there is no high-water mark {path}")
    try:
        data = read_limited(path, bytes_max=SLOT_BYTES * SLOTS, what="high-water mark")
    except TreeheadError as exc:
        raise StorageError(str(exc)) from exc
    noted: list[_Noted] = []
    for slot in range(SLOTS):
        note = data[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES].rstrip(b"\0")
        # A slot that does not verify was being written when the power failed, and then what it was to hold was never
        # shown; or it has been damaged since, and the mark is one commit behind. That cannot be told, but by fsck.
        with contextlib.suppress(MalformedError, SignatureError):
            noted.append(_Noted(slot, note, open_checkpoint(note, key=vkey)))
    if not noted:
        raise StorageError(f"{path} is damaged: none of its slots holds a checkpoint by {vkey.name}")
    return max(noted, key=lambda item: (item.checkpoint.size, is_freeze(item.checkpoint)))


def _format_slot(checkpoint: bytes) -> bytes:
    if len(checkpoint) > SLOT_BYTES:
        raise ValueError(f"a checkpoint of {len(checkpoint)} bytes does not fit a slot of {SLOT_BYTES}")
    return checkpoint.ljust(SLOT_BYTES, b"\0")
