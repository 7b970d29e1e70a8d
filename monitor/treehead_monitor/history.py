"""The monitor's own tree of one log: its root at any past size, and the proofs between them, without asking anyone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from treehead.errors import MalformedError, StorageError
from treehead.merkle import EMPTY_ROOT, Plan, assemble, plan_consistency, plan_root
from treehead.tile import ExpandedTile, RightEdge, TileId, TileReader, tiles_of
from treehead_monitor.head import LogId


class TileStore(Protocol):
    """Where full tiles are kept."""

    async def read_tiles(self, log: LogId, tiles: Sequence[TileId]) -> Mapping[TileId, bytes]:
        """The bytes of full tiles; those that are not there are left out.

        Raises:
            StorageError: the store cannot be read.
        """


class TileCache:
    """The expanded tiles that were read last, of all logs, up to `tiles_max`."""

    def __init__(self, store: TileStore, *, tiles_max: int) -> None:
        self._store = store
        self._tiles_max = tiles_max
        self._tiles: OrderedDict[tuple[LogId, TileId], ExpandedTile] = OrderedDict()

    async def read(self, log: LogId, tiles: Sequence[TileId]) -> dict[TileId, ExpandedTile]:
        """The expanded tiles that are there.

        Raises:
            StorageError: the store cannot be read, or holds what is no tile.
        """
        found = {tile: self._tiles[log, tile] for tile in tiles if (log, tile) in self._tiles}
        missing = [tile for tile in tiles if tile not in found]
        for tile, data in (await self._store.read_tiles(log, missing)).items() if missing else ():
            try:
                found[tile] = ExpandedTile.of(data)
            except MalformedError as exc:
                raise StorageError(f"the stored tile {tile.level}/{tile.number} is damaged: {exc}") from exc
        for tile, expanded in found.items():
            self._tiles[log, tile] = expanded
            self._tiles.move_to_end((log, tile))
        while len(self._tiles) > self._tiles_max:
            self._tiles.popitem(last=False)
        return found


class History:
    """The verified tree of one log. Only full tiles within its size are read from the store; they never change."""

    def __init__(self, *, log: LogId, edge: RightEdge, cache: TileCache) -> None:
        self._log = log
        self._cache = cache
        self._edge = edge
        self._partial = edge.tiles()

    @property
    def size(self) -> int:
        """The verified size."""
        return self._edge.size

    def edge(self) -> RightEdge:
        """A copy of the right edge, to grow from."""
        return self._edge.copy()

    def root(self) -> bytes:
        """The root at the verified size."""
        return self._edge.root()

    def advance(self, edge: RightEdge) -> None:
        """Take over a larger tree of which this one is a prefix, once it and its full tiles are durable."""
        if edge.size < self._edge.size:
            raise ValueError(f"a tree of size {edge.size} does not extend one of size {self._edge.size}")
        self._edge = edge.copy()
        self._partial = edge.tiles()

    async def root_at(self, size: int) -> bytes:
        """The root that the tree had at a size up to the present one.

        Raises:
            StorageError: a tile cannot be read.
        """
        return (await self._assemble(plan_root(size)))[0] if size else EMPTY_ROOT

    async def consistency(self, size1: int, size2: int) -> tuple[bytes, ...]:
        """The consistency proof between two sizes up to the present one.

        Raises:
            StorageError: a tile cannot be read.
        """
        return await self._assemble(plan_consistency(size1=size1, size2=size2))

    async def _assemble(self, plan: Plan) -> tuple[bytes, ...]:
        wanted = tiles_of(plan)
        # Taken before the read: the tree may grow meanwhile, and a tile that was partial then is none of these now.
        partial = {tile: self._partial[tile] for tile in wanted if tile in self._partial}
        full = await self._cache.read(self._log, sorted(wanted - partial.keys()))
        return assemble(plan, TileReader(partial, full))
