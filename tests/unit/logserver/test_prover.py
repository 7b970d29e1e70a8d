"""Proofs from tiles: the same as from a whole tree, through a cache of any size, at any size of the tree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.unit.library.specimens import Tree
from tests.unit.logserver.parts import Parts, create, parts, random_leaves
from treehead.errors import StorageError
from treehead.tile import ExpandedTile, TileId
from treehead_logserver.config import Limits
from treehead_logserver.prover import Prover
from treehead_logserver.storage.base import Term

SIZE = 66_000
TILES = [*(TileId(0, number) for number in range(4)), TileId(1, 0)]
"""The full tiles that proofs about the first 1,024 leaves are made of."""
LEAVES = random_leaves(SIZE, seed=5)


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(LEAVES)


@pytest.fixture(scope="module")
async def log(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    limits = Limits(commit_entries_max=SIZE, queue_entries_max=SIZE)
    async with parts(create(tmp_path_factory.mktemp("log")), limits=limits) as log:
        await log.submit(*LEAVES)
        yield log


def sizes(rng: random.Random) -> list[int]:
    """Tree sizes: around every tile boundary of the log, and some between."""
    corners = [size + step for size in (1, 256, 512, 32_768, 65_536, SIZE - 1) for step in (-1, 0, 1)]
    return [*(size for size in corners if size), *(rng.randrange(1, SIZE + 1) for _ in range(20))]


@pytest.mark.parametrize("tiles_max", [1, 3, 1_000])
async def test_inclusion_proofs_are_those_of_the_whole_tree(log: Parts, tree: Tree, tiles_max: int) -> None:
    rng = random.Random(tiles_max)
    prover = Prover(log.storage, tiles_max=tiles_max)
    for size in sizes(rng):
        for index in {0, size - 1, rng.randrange(size), rng.randrange(size)}:
            proof = await prover.prove_inclusion(index=index, size=size, head=log.heads.newest)
            assert proof == tree.inclusion(index, size)


@pytest.mark.parametrize("tiles_max", [1, 1_000])
async def test_consistency_proofs_are_those_of_the_whole_tree(log: Parts, tree: Tree, tiles_max: int) -> None:
    rng = random.Random(tiles_max)
    prover = Prover(log.storage, tiles_max=tiles_max)
    for size2 in sizes(rng):
        for size1 in {0, 1, size2, rng.randrange(size2), rng.randrange(size2)}:
            proof = await prover.prove_consistency(size1=size1, size2=size2, head=log.heads.newest)
            assert proof == tree.consistency(size1, size2)


async def test_proofs_hold_while_the_log_grows(tmp_path: Path) -> None:
    tree = Tree()
    rng = random.Random(11)
    async with parts(create(tmp_path), limits=Limits(tiles_max=2)) as log:
        while tree.size < 1_500:
            for leaf in (leaves := [rng.randbytes(8) for _ in range(rng.randrange(1, 120))]):
                tree.append(leaf)
            await log.submit(*leaves)
            head = log.heads.newest
            index, size1 = rng.randrange(tree.size), rng.randrange(1, tree.size + 1)
            inclusion = await log.prover.prove_inclusion(index=index, size=head.size, head=head)
            assert inclusion == tree.inclusion(index)
            consistency = await log.prover.prove_consistency(size1=size1, size2=head.size, head=head)
            assert consistency == tree.consistency(size1)


class CountingReader:
    """A store that counts how often each tile is read."""

    def __init__(self, tiles: Mapping[TileId, ExpandedTile]) -> None:
        self.tiles = tiles
        self.reads: list[TileId] = []

    async def read_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]:
        self.reads += tiles
        await asyncio.sleep(0)
        if missing := [tile for tile in tiles if tile not in self.tiles]:
            raise StorageError(f"the database has lost tile {missing[0].level}/{missing[0].number}")
        return {tile: self.tiles[tile] for tile in tiles}

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
        raise NotImplementedError

    async def read_leaf_sizes(self, *, first_index: int, end_index: int) -> Sequence[int]:
        raise NotImplementedError

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        raise NotImplementedError

    async def find_term(self, term: Term, *, first_index: int, end_index: int, count_max: int) -> Sequence[int]:
        raise NotImplementedError


async def test_a_tile_that_many_miss_at_once_is_read_once(log: Parts, tree: Tree) -> None:
    store = CountingReader(await log.storage.read_tiles(TILES))
    prover, head = Prover(store, tiles_max=10), log.heads.newest
    proofs = await asyncio.gather(
        *(prover.prove_inclusion(index=index, size=1_024, head=head) for index in range(0, 1_024, 8))
    )
    assert list(proofs) == [tree.inclusion(index, 1_024) for index in range(0, 1_024, 8)]
    assert sorted(store.reads) == TILES


async def test_the_cache_keeps_what_was_used_last_and_no_more(log: Parts) -> None:
    store = CountingReader(await log.storage.read_tiles(TILES))
    prover, head = Prover(store, tiles_max=3), log.heads.newest

    async def reads_to_prove_within(tile: int) -> list[TileId]:
        # The sibling of an even leaf is read from its own tile, and all to the left of that tile from tile 1/0.
        store.reads.clear()
        await prover.prove_inclusion(index=tile * 256, size=tile * 256 + 2, head=head)
        return sorted(store.reads)

    assert await reads_to_prove_within(1) == [TileId(0, 1), TileId(1, 0)]
    assert await reads_to_prove_within(1) == []
    assert await reads_to_prove_within(2) == [TileId(0, 2)]
    assert await reads_to_prove_within(1) == []
    assert await reads_to_prove_within(3) == [TileId(0, 3)]
    assert await reads_to_prove_within(1) == []
    assert await reads_to_prove_within(2) == [TileId(0, 2)]


async def test_a_missing_tile_is_a_storage_error(log: Parts) -> None:
    prover = Prover(CountingReader({}), tiles_max=2)
    with pytest.raises(StorageError, match=r"has lost tile 0/0"):
        await prover.prove_inclusion(index=0, size=SIZE, head=log.heads.newest)
