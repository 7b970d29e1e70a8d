"""Heads of the log, for all who answer from them, and word of newer ones for those who wait.

There are two: the *newest* is of the last commit and goes to submitters with their proofs; the *published* is the one
that everybody else is shown, with the cosignatures of the log's witnesses: see `publisher`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from treehead.errors import UnavailableError
from treehead.tile import ExpandedTile, RightEdge, TileId


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A tree that is durable and whose checkpoint may be given out, with the tiles that are not full."""

    size: int
    checkpoint: bytes
    edge: Mapping[TileId, ExpandedTile]

    @classmethod
    def of(cls, edge: RightEdge, *, checkpoint: bytes) -> Head:
        """The head of the tree that ends in `edge`; not checked: that this is what `checkpoint` signs."""
        return cls(size=edge.size, checkpoint=checkpoint, edge=edge.tiles())


class Heads:
    """The newest head of a kind, and a way to wait for the next. For one event loop."""

    def __init__(self, newest: Head | None) -> None:
        self._newest = newest
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def newest(self) -> Head:
        """The newest head that may be given out.

        Raises:
            UnavailableError: there is none yet.
        """
        if self._newest is None:
            raise UnavailableError("the log has not published a checkpoint yet; try again later")
        return self._newest

    @property
    def size(self) -> int:
        """The size of the newest head; -1 if there is none yet."""
        return -1 if self._newest is None else self._newest.size

    def release(self, head: Head) -> None:
        """Make a larger head the newest, once it is durable."""
        if head.size <= self.size:
            raise ValueError(f"a head of size {head.size} does not follow one of size {self.size}")
        self._newest = head
        self._wake()

    def amend(self, checkpoint: bytes) -> None:
        """Have the newest head carry another note about the same tree: one with more, or newer, cosignatures.

        Who waits for a larger one goes on waiting.
        """
        head = self.newest
        self._newest = Head(size=head.size, checkpoint=checkpoint, edge=head.edge)
        self._wake()

    async def change(self) -> bool:
        """Wait until the newest head is another one, or carries another note; False when there will be no more."""
        if not self._closed:
            await self._changed.wait()
        return not self._closed

    async def after(self, size: int) -> Head | None:
        """Wait for a head larger than `size`; the newest then, or None when there will be no more."""
        while self._newest is None or self._newest.size <= size:
            if self._closed:
                return None
            await self._changed.wait()
        return self._newest

    def close(self) -> None:
        """Let everyone who waits know that no head will come."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        # Whoever waits holds the old event; whoever comes later waits for the next one.
        self._changed.set()
        self._changed = asyncio.Event()
