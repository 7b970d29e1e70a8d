"""What somebody sent to a log, and what the log said to it: one file for each process, read when all is over.

A leaf is kept as its hash: submitted when it is about to be sent, placed when its index has come back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.keys import VerifierKey
from treehead.merkle import hash_leaf, verify_inclusion

_LINE = struct.Struct(">?Q32s")


class Record:
    """The file of one process. A context."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def submitted(self, leaf: bytes) -> None:
        """The leaf is about to be sent."""
        self._file.write(_LINE.pack(False, 0, hash_leaf(leaf)))

    def placed(self, leaf: bytes, index: int) -> None:
        """The log acknowledged the leaf."""
        self._file.write(_LINE.pack(True, index, hash_leaf(leaf)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(slots=True, kw_only=True)
class Told:
    """What a log was sent by anybody, and what it told them.

    Attributes:
        submitted: hashes of all leaves that were sent.
        places: hashes of those that were acknowledged, or given out, by index.
        acknowledged: how many answers gave somebody's entry a place.
        heads: checkpoints that were handed out, by size.
    """

    vkey: VerifierKey
    submitted: set[bytes] = field(default_factory=set)
    places: dict[int, bytes] = field(default_factory=dict)
    acknowledged: int = 0
    heads: dict[int, Checkpoint] = field(default_factory=dict)
    _opened: dict[bytes, Checkpoint] = field(default_factory=dict)

    def note_record(self, path: Path) -> None:
        """Add what a process has recorded."""
        for is_placed, index, leaf_hash in _LINE.iter_unpack(path.read_bytes()):
            if is_placed:
                self._note_acknowledged(index, leaf_hash)
            else:
                self.submitted.add(leaf_hash)

    def note_submitted(self, leaves: Iterable[bytes]) -> None:
        """These leaves are sent, or were there before."""
        self.submitted.update(map(hash_leaf, leaves))

    def note_index(self, leaf: bytes, index: int) -> None:
        """The log acknowledged the leaf."""
        self._note_acknowledged(index, hash_leaf(leaf))

    def note_shown(self, leaf: bytes, index: int) -> None:
        """The log gave out the leaf as the one at this index."""
        self._note_place(index, hash_leaf(leaf))

    def note_head(self, data: bytes) -> Checkpoint:
        """The log handed out a checkpoint, which it signed; two of one size must be equal."""
        head = self._opened.get(data)
        if head is None:
            head = self._opened[data] = open_checkpoint(data, key=self.vkey)
            assert self.heads.setdefault(head.size, head) == head, f"two heads of size {head.size}"
        return head

    def note_proof(self, leaf: bytes, index: int, *, hashes: Iterable[bytes], checkpoint: bytes) -> None:
        """The log proved that it has the leaf at this index."""
        head, leaf_hash = self.note_head(checkpoint), hash_leaf(leaf)
        verify_inclusion(index=index, size=head.size, leaf_hash=leaf_hash, proof=list(hashes), root=head.root)
        self._note_acknowledged(index, leaf_hash)

    def _note_acknowledged(self, index: int, leaf_hash: bytes) -> None:
        self._note_place(index, leaf_hash)
        self.acknowledged += 1

    def _note_place(self, index: int, leaf_hash: bytes) -> None:
        assert self.places.setdefault(index, leaf_hash) == leaf_hash, f"index {index} has two leaves"
