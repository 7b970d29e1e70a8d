"""Inclusion and consistency proofs, from tiles.

Full tiles come from the store through a bounded cache. What is cached is *expanded*: with the inner hashes of a tile at
hand a proof is a few look-ups, and without them a few hundred hashes. The right edge comes with the head.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from treehead import merkle
from treehead.errors import MalformedError, StorageError
from treehead.tile import TILE_WIDTH, ExpandedTile, TileId, TileReader, split_hashes, tiles_of
from treehead_logserver.heads import Head
from treehead_logserver.storage.base import Reading


class Prover:
    """Makes proofs about the tree of a head, at its size or any smaller one. For one event loop."""

    def __init__(self, storage: Reading, *, tiles_max: int) -> None:
        self._storage = storage
        self._tiles_max = tiles_max
        self._tiles: OrderedDict[TileId, ExpandedTile] = OrderedDict()
        self._loading = asyncio.Lock()

    def add(self, tiles: Mapping[TileId, bytes]) -> None:
        """Keep tiles that just became full: proofs of the newest entries come from them."""
        self._keep({tile: expand_tile(tile, data) for tile, data in tiles.items()})

    def _keep(self, tiles: Mapping[TileId, ExpandedTile]) -> None:
        for tile, expanded in tiles.items():
            self._tiles[tile] = expanded
            self._tiles.move_to_end(tile)
        while len(self._tiles) > self._tiles_max:
            self._tiles.popitem(last=False)

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
        tiles = {}
        missing = []
        for tile in tiles_of(plan):
            expanded = head.expanded_edge.get(tile) or self._cached(tile)
            if expanded is None:
                missing.append(tile)
            else:
                tiles[tile] = expanded
        if missing:
            tiles.update(await self._load(missing))
        return merkle.assemble(plan, TileReader(tiles))

    def _cached(self, tile: TileId) -> ExpandedTile | None:
        expanded = self._tiles.get(tile)
        if expanded is not None:
            self._tiles.move_to_end(tile)
        return expanded

    async def _load(self, tiles: list[TileId]) -> Mapping[TileId, ExpandedTile]:
        # One at a time: many callers that miss the same tile at once have it read and expanded once.
        async with self._loading:
            loaded = {tile: expanded for tile in tiles if (expanded := self._cached(tile)) is not None}
            data = await self._storage.read_tiles([tile for tile in tiles if tile not in loaded])
            read = {tile: expand_tile(tile, data[tile]) for tile in data}
            self._keep(read)
            return loaded | read


def expand_tile(tile: TileId, data: bytes) -> ExpandedTile:
    """A full tile, ready to be read from.

    Raises:
        StorageError: data is not 256 hashes.
    """
    try:
        hashes = split_hashes(data)
    except MalformedError as exc:
        raise StorageError(f"tile {tile.level}/{tile.number} is damaged: {exc}") from exc
    if len(hashes) != TILE_WIDTH:
        raise StorageError(f"tile {tile.level}/{tile.number} is damaged: it has {len(hashes)} hashes, not {TILE_WIDTH}")
    return ExpandedTile(hashes)
