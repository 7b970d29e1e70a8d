"""The newest head of the log, for all who answer from it, and word of newer ones for those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

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
    """The newest head, and a way to wait for the next. For one event loop."""

    def __init__(self, newest: Head) -> None:
        self._newest = newest
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def newest(self) -> Head:
        """The newest head that may be given out."""
        return self._newest

    def release(self, head: Head) -> None:
        """Make a larger head the newest, once its commit has returned."""
        if head.size <= self._newest.size:
            raise ValueError(f"a head of size {head.size} does not follow one of size {self._newest.size}")
        self._newest = head
        self._wake()

    async def after(self, size: int) -> Head | None:
        """Wait for a head larger than `size`; the newest then, or None when there will be no more."""
        while self._newest.size <= size:
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
