"""Inclusion and consistency proofs, from tiles.

Full tiles come from the store through a bounded cache, the right edge comes with the head. All of them are expanded:
with the inner nodes of a tile at hand a proof is a few look-ups, and without them a few hundred hashes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from treehead import merkle
from treehead.tile import ExpandedTile, MissingTileError, TileId, TileReader
from treehead_logserver.heads import Head
from treehead_logserver.storage.base import Reading

_FOLDED_MAX = 1_024
"""Of the subtrees that reach to the end of a tree, a few for each head."""


class Prover:
    """Makes proofs about the tree of a head, at its size or any smaller one. For one event loop."""

    def __init__(self, storage: Reading, *, tiles_max: int) -> None:
        self._storage = storage
        self._cache = _TileCache(tiles_max)
        self._loading = asyncio.Lock()
        self._folded: dict[tuple[merkle.NodeId, ...], bytes] = {}

    def add(self, tiles: Mapping[TileId, ExpandedTile]) -> None:
        """Keep tiles that just became full: proofs of the newest entries come from them."""
        self._cache.keep(tiles)

    async def prove_inclusion(self, *, index: int, size: int, head: Head) -> tuple[bytes, ...]:
        """The inclusion proof of leaf `index` in the tree of `size`, where 0 <= index < size <= head.size.

        Raises:
            StorageError: a tile cannot be read.
        """
        return await self._assemble(merkle.plan_inclusion(index=index, size=size), head)

    async def prove_consistency(self, *, size1: int, size2: int, head: Head) -> tuple[bytes, ...]:
        """The consistency proof between two sizes, where 0 <= size1 <= size2 <= head.size.

        Raises:
            StorageError: a tile cannot be read.
        """
        return await self._assemble(merkle.plan_consistency(size1=size1, size2=size2), head)

    async def _assemble(self, plan: merkle.Plan, head: Head) -> tuple[bytes, ...]:
        if len(self._folded) > _FOLDED_MAX:
            self._folded.clear()
        loaded: dict[TileId, ExpandedTile] = {}
        while True:
            try:
                return merkle.assemble(plan, TileReader(head.edge, self._cache, loaded), folded=self._folded)
            except MissingTileError as exc:
                loaded[exc.tile] = await self._load(exc.tile)

    async def _load(self, tile: TileId) -> ExpandedTile:
        # One at a time: what many callers miss at once is read once.
        async with self._loading:
            expanded = self._cache.get(tile)
            if expanded is None:
                read = await self._storage.read_tiles([tile])
                self._cache.keep(read)
                expanded = read[tile]
            return expanded


class _TileCache(OrderedDict[TileId, ExpandedTile]):
    """The tiles that were used last."""

    def __init__(self, tiles_max: int) -> None:
        super().__init__()
        self._tiles_max = tiles_max

    def get(self, tile: TileId) -> ExpandedTile | None:  # type: ignore[override] # narrower: no default
        expanded = super().get(tile)
        if expanded is not None:
            self.move_to_end(tile)
        return expanded

    def keep(self, tiles: Mapping[TileId, ExpandedTile]) -> None:
        for tile, expanded in tiles.items():
            self[tile] = expanded
        while len(self) > self._tiles_max:
            self.popitem(last=False)
