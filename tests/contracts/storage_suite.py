"""What `treehead_logserver.storage.base` asks of an engine, as tests; an engine's test module inherits them all."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from treehead.errors import StorageError
from treehead.merkle import hash_leaf
from treehead.tile import TILE_BYTES, ExpandedTile, TileId
from treehead_logserver.storage.base import Candidate, Extension, Placed, Storage, Term, TreeState, UnknownOutcomeError

EMPTY = TreeState(size=0, compact_range=(), checkpoint=b"checkpoint 0")


def candidate(leaf: bytes, *terms: Term) -> Candidate:
    return Candidate(leaf, hash_leaf(leaf), frozenset(terms))


def candidates(*leaves: bytes) -> list[Candidate]:
    return [candidate(leaf) for leaf in leaves]


def sha256_of(content: bytes) -> Term:
    return Term("sha256", sha256(content).digest())


class Extender:
    """Stands for the log's tree: says which state follows, and remembers what it was asked."""

    def __init__(
        self,
        tiles: Mapping[TileId, ExpandedTile] | None = None,
        *,
        error: Exception | None = None,
        settle_error: StorageError | None = None,
    ) -> None:
        self.tiles = tiles or {}
        self.error = error
        self.settle_error = settle_error
        self.calls: list[tuple[int, list[bytes]]] = []
        self.settled: list[TreeState] = []

    def __call__(self, size: int, leaf_hashes: Sequence[bytes]) -> Extension:
        self.calls.append((size, list(leaf_hashes)))
        if self.error is not None:
            raise self.error
        return Extension(state=state_at(size + len(leaf_hashes)), tiles=self.tiles)

    def settle(self, state: TreeState) -> None:
        self.settled.append(state)
        if self.settle_error is not None:
            raise self.settle_error


async def append(storage: Storage, entries: Sequence[Candidate], extender: Extender) -> Sequence[Placed]:
    return await storage.append(entries, extender, extender.settle)


def state_at(size: int) -> TreeState:
    compact_range = tuple(sha256(b"%d of %d" % (bit, size)).digest() for bit in range(size.bit_count()))
    return TreeState(size=size, compact_range=compact_range, checkpoint=b"checkpoint %d" % size)


class StorageSuite(ABC):
    """The tests. A subclass says how to make and open the database of one log in a folder of its own."""

    @abstractmethod
    async def create(self, folder: Path, state: TreeState) -> None: ...

    @abstractmethod
    async def open(self, folder: Path) -> Storage: ...

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Storage]:
        storage = await self.open(folder)
        try:
            yield storage
        finally:
            await storage.close()

    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[Storage]:
        await self.create(tmp_path, EMPTY)
        async with self.opened(tmp_path) as storage:
            yield storage

    # --- appending

    async def test_a_new_log_has_the_state_it_was_made_with(self, storage: Storage) -> None:
        assert await storage.read_state() == EMPTY

    async def test_new_entries_get_the_next_indices_in_their_order(self, storage: Storage) -> None:
        assert await append(storage, candidates(b"a", b"b"), Extender()) == [Placed(0, False), Placed(1, False)]
        assert await append(storage, candidates(b"c"), Extender()) == [Placed(2, False)]
        assert await storage.read_leaves(first_index=0, end_index=3, bytes_max=100) == [b"a", b"b", b"c"]

    async def test_the_tree_is_extended_by_the_new_hashes_and_its_state_kept(self, storage: Storage) -> None:
        extender = Extender()
        await append(storage, candidates(b"a", b"b", b"c"), extender)
        await append(storage, candidates(b"d"), extender)
        assert extender.calls == [(0, [hash_leaf(b"a"), hash_leaf(b"b"), hash_leaf(b"c")]), (3, [hash_leaf(b"d")])]
        assert await storage.read_state() == state_at(4)

    async def test_an_entry_that_is_there_gets_its_first_index(self, storage: Storage) -> None:
        await append(storage, candidates(b"a", b"b"), Extender())
        extender = Extender()
        placed = await append(storage, candidates(b"new", b"b", b"newer", b"a"), extender)
        assert placed == [Placed(2, False), Placed(1, True), Placed(3, False), Placed(0, True)]
        assert extender.calls == [(2, [hash_leaf(b"new"), hash_leaf(b"newer")])]

    async def test_nothing_new_signs_and_writes_nothing(self, storage: Storage) -> None:
        await append(storage, candidates(b"a", b"b"), Extender())
        extender = Extender(error=AssertionError("nothing is new"))
        assert await append(storage, candidates(b"b", b"a"), extender) == [Placed(1, True), Placed(0, True)]
        assert extender.calls == []
        assert await storage.read_state() == state_at(2)

    async def test_hashes_that_begin_alike_are_two_leaves(self, storage: Storage) -> None:
        known = candidate(b"a")
        alike = Candidate(leaf=b"b", leaf_hash=known.leaf_hash[:-1] + bytes([known.leaf_hash[-1] ^ 1]))
        assert await append(storage, [known, alike], Extender()) == [Placed(0, False), Placed(1, False)]
        assert await append(storage, [known], Extender()) == [Placed(0, True)]
        assert await storage.find_leaf(known.leaf_hash) == 0

    async def test_every_byte_of_an_entry_is_kept(self, storage: Storage) -> None:
        leaves = [bytes(range(256)), b"", bytes(65_535)]
        await append(storage, candidates(*leaves), Extender())
        assert await storage.read_leaves(first_index=0, end_index=3, bytes_max=1_000_000) == leaves

    async def test_what_follows_a_commit_is_told_its_state_once_it_is_durable(self, storage: Storage) -> None:
        seen: list[TreeState] = []
        for leaf in (b"a", b"b", b"a"):
            extender = Extender()
            await append(storage, candidates(leaf), extender)
            seen += extender.settled
        assert seen == [state_at(1), state_at(2)]

    async def test_nothing_is_told_of_a_commit_that_did_not_come_about(self, storage: Storage) -> None:
        extender = Extender(error=ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await append(storage, candidates(b"a"), extender)
        assert extender.settled == []

    async def test_when_what_follows_a_commit_fails_the_engine_answers_no_more(self, tmp_path: Path) -> None:
        await self.create(tmp_path, EMPTY)
        async with self.opened(tmp_path) as storage:
            with pytest.raises(UnknownOutcomeError, match="no mark"):
                await append(storage, candidates(b"a"), Extender(settle_error=StorageError("no mark")))
            with pytest.raises(StorageError, match="unknown state"):
                await append(storage, candidates(b"b"), Extender())
        async with self.opened(tmp_path) as storage:
            assert await append(storage, candidates(b"a"), Extender()) == [Placed(0, True)]

    async def test_to_tidy_changes_nothing_that_can_be_seen(self, storage: Storage) -> None:
        await storage.tidy()
        entries = [candidate(b"%d" % number, sha256_of(b"%d" % number)) for number in range(50)]
        await append(storage, entries, Extender())
        while await storage.tidy():
            pass
        assert await storage.read_state() == state_at(50)
        assert await append(storage, entries[7:8], Extender()) == [Placed(7, True)]
        assert await storage.find_term(sha256_of(b"9"), first_index=0, end_index=50, count_max=2) == [9]

    async def test_a_batch_is_in_the_log_whole_or_not_at_all(self, storage: Storage) -> None:
        await append(storage, candidates(b"a"), Extender())
        entry = candidate(b"b", sha256_of(b"b"))
        with pytest.raises(ZeroDivisionError, match="the signer broke"):
            await append(
                storage,
                [entry],
                Extender(
                    {TileId(0, 0): ExpandedTile.of(bytes(TILE_BYTES))}, error=ZeroDivisionError("the signer broke")
                ),
            )
        assert await storage.read_state() == state_at(1)
        assert await storage.find_leaf(entry.leaf_hash) is None
        assert await storage.find_term(sha256_of(b"b"), first_index=0, end_index=9, count_max=9) == []
        assert await storage.read_leaves(first_index=0, end_index=9, bytes_max=100) == [b"a"]
        with pytest.raises(StorageError, match="tile 0/0"):
            await storage.read_tiles([TileId(0, 0)])
        assert await append(storage, [entry], Extender()) == [Placed(1, False)]

    async def test_calls_at_once_take_effect_one_after_the_other(self, storage: Storage) -> None:
        batches = [candidates(*(b"%d/%d" % (batch, number) for number in range(7))) for batch in range(20)]
        placed = await asyncio.gather(*(append(storage, batch, Extender()) for batch in batches))
        assert sorted(place.leaf_index for batch in placed for place in batch) == list(range(140))
        assert all(batch[-1].leaf_index == batch[0].leaf_index + 6 for batch in placed)

    async def test_the_same_batch_at_once_is_logged_once(self, storage: Storage) -> None:
        batch = candidates(b"a", b"b", b"c")
        placed = await asyncio.gather(*(append(storage, batch, Extender()) for _ in range(10)))
        assert {tuple(place.leaf_index for place in places) for places in placed} == {(0, 1, 2)}
        assert sum(not place.duplicate for places in placed for place in places) == 3

    async def test_to_cancel_a_call_does_not_undo_it(self, storage: Storage) -> None:
        begun = asyncio.create_task(append(storage, candidates(b"a"), Extender()))
        await asyncio.sleep(0)  # it begins
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        assert await append(storage, candidates(b"a"), Extender()) == [Placed(0, True)]

    async def test_everything_is_there_after_opening_again(self, tmp_path: Path) -> None:
        await self.create(tmp_path, EMPTY)
        entry, tile = candidate(b"a", sha256_of(b"a")), {TileId(2, 3): ExpandedTile.of(bytes(range(256)) * 32)}
        async with self.opened(tmp_path) as storage:
            await append(storage, [entry], Extender(tile))
        async with self.opened(tmp_path) as storage:
            assert await storage.read_state() == state_at(1)
            assert await storage.read_leaves(first_index=0, end_index=1, bytes_max=1) == [b"a"]
            assert await storage.read_tiles(list(tile)) == tile
            assert await storage.find_leaf(entry.leaf_hash) == 0
            assert await storage.find_term(sha256_of(b"a"), first_index=0, end_index=1, count_max=1) == [0]
            assert await append(storage, [entry], Extender()) == [Placed(0, True)]

    async def test_closing_twice_does_nothing(self, storage: Storage) -> None:
        await storage.close()
        await storage.close()

    # --- reading

    async def test_full_tiles_are_read_with_their_inner_nodes(self, storage: Storage) -> None:
        rng = random.Random(1)
        places = (TileId(0, 0), TileId(0, 1), TileId(1, 0), TileId(7, 2**40))
        tiles = {tile: ExpandedTile.of(rng.randbytes(TILE_BYTES)) for tile in places}
        await append(storage, candidates(b"a"), Extender(tiles))
        assert await storage.read_tiles(places) == tiles
        assert await storage.read_tiles(places[1:2]) == {places[1]: tiles[places[1]]}
        assert await storage.read_tiles([]) == {}

    async def test_a_tile_that_is_not_there_is_an_error(self, storage: Storage) -> None:
        await append(storage, candidates(b"a"), Extender({TileId(0, 0): ExpandedTile.of(bytes(TILE_BYTES))}))
        with pytest.raises(StorageError, match="tile 0/1"):
            await storage.read_tiles([TileId(0, 0), TileId(0, 1)])

    @pytest.mark.parametrize(
        ("first_index", "end_index", "bytes_max", "expected"),
        [
            pytest.param(0, 5, 1_000, range(5), id="all"),
            pytest.param(2, 4, 1_000, range(2, 4), id="a_part"),
            pytest.param(3, 1_000, 1_000, range(3, 5), id="to_the_end"),
            pytest.param(0, 5, 30, range(3), id="as_many_as_the_bytes_allow"),
            pytest.param(0, 5, 29, range(2), id="one_byte_less"),
            pytest.param(1, 5, 0, range(1, 2), id="at_least_one"),
            pytest.param(5, 9, 1_000, range(0), id="beyond_the_end"),
            pytest.param(3, 3, 1_000, range(0), id="none"),
        ],
    )
    async def test_leaves_are_read_in_order_within_bounds(
        self, storage: Storage, first_index: int, end_index: int, bytes_max: int, expected: range
    ) -> None:
        leaves = [b"leaf %05d" % index for index in range(5)]
        await append(storage, candidates(*leaves), Extender())
        read = await storage.read_leaves(first_index=first_index, end_index=end_index, bytes_max=bytes_max)
        assert read == [leaves[index] for index in expected]

    async def test_a_leaf_is_found_by_its_whole_hash_only(self, storage: Storage) -> None:
        await append(storage, candidates(b"a", b"b"), Extender())
        assert await storage.find_leaf(hash_leaf(b"b")) == 1
        assert await storage.find_leaf(hash_leaf(b"b")[:8] + bytes(24)) is None
        assert await storage.find_leaf(hash_leaf(b"c")) is None

    async def test_entries_are_found_by_their_terms_in_the_order_of_the_log(self, storage: Storage) -> None:
        wanted, other = sha256_of(b"wanted"), sha256_of(b"other")
        named = [{wanted}, {other}, {wanted, other}, set(), {wanted, Term("sha512", bytes(64))}, {wanted}]
        batch = [candidate(b"%d" % index, *terms) for index, terms in enumerate(named)]
        await append(storage, batch, Extender())

        async def found(term: Term, first_index: int = 0, end_index: int = 6, count_max: int = 10) -> list[int]:
            return list(
                await storage.find_term(term, first_index=first_index, end_index=end_index, count_max=count_max)
            )

        assert await found(wanted) == [0, 2, 4, 5]
        assert await found(other) == [1, 2]
        assert await found(Term("sha512", bytes(64))) == [4]
        assert await found(Term("sha256", bytes(64))) == []
        assert await found(wanted, first_index=1) == [2, 4, 5]
        assert await found(wanted, end_index=5) == [0, 2, 4]
        assert await found(wanted, count_max=3) == [0, 2, 4]

    # --- publishing

    async def test_a_new_log_has_published_nothing_and_goes_on(self, storage: Storage) -> None:
        assert await storage.read_published() is None
        assert await storage.read_freeze() is None
        assert not await storage.was_published(first_size=0, end_size=2**62)

    async def test_the_note_that_was_published_last_is_kept_and_the_sizes_of_all(self, tmp_path: Path) -> None:
        await self.create(tmp_path, EMPTY)
        async with self.opened(tmp_path) as storage:
            for size in (0, 7, 300):
                await storage.publish(b"note %d" % size, size=size)
        async with self.opened(tmp_path) as storage:
            assert await storage.read_published() == b"note 300"
            for first, end, was in [(0, 1, True), (1, 7, False), (7, 8, True), (8, 300, False), (8, 301, True)]:
                assert await storage.was_published(first_size=first, end_size=end) is was
            assert not await storage.was_published(first_size=301, end_size=2**62)

    async def test_the_same_size_may_be_published_again_with_another_note(self, storage: Storage) -> None:
        await storage.publish(b"note", size=5)
        await storage.publish(b"note with a cosignature", size=5)
        assert await storage.read_published() == b"note with a cosignature"

    async def test_publishing_changes_nothing_of_the_tree(self, storage: Storage) -> None:
        await append(storage, candidates(b"a"), Extender())
        await storage.publish(b"note", size=1)
        assert await storage.read_state() == state_at(1)
        assert await append(storage, candidates(b"b"), Extender()) == [Placed(1, False)]

    async def test_a_log_is_frozen_once_and_stays_so(self, tmp_path: Path) -> None:
        await self.create(tmp_path, EMPTY)
        async with self.opened(tmp_path) as storage:
            await storage.freeze(b"the end")
            with pytest.raises(StorageError, match="frozen already"):
                await storage.freeze(b"another end")
        async with self.opened(tmp_path) as storage:
            assert await storage.read_freeze() == b"the end"

    async def test_a_frozen_log_appends_nothing(self, tmp_path: Path) -> None:
        await self.create(tmp_path, EMPTY)
        extender = Extender(error=AssertionError("the log is frozen"))
        async with self.opened(tmp_path) as storage:
            await append(storage, candidates(b"a"), Extender())
            await storage.freeze(b"the end")
            with pytest.raises(StorageError, match="the log is frozen"):
                await append(storage, candidates(b"b"), extender)
        async with self.opened(tmp_path) as storage:
            for leaf in (b"a", b"b"):
                with pytest.raises(StorageError, match="the log is frozen") as caught:
                    await append(storage, candidates(leaf), extender)
                assert not isinstance(caught.value, UnknownOutcomeError)
            assert await storage.read_state() == state_at(1)
            await storage.publish(b"the last checkpoint, with a cosignature", size=1)
            assert await storage.find_leaf(hash_leaf(b"a")) == 0

    async def test_the_sizes_of_leaves_are_those_of_their_bytes(self, storage: Storage) -> None:
        leaves = [b"", b"a", b"x" * 65_535, b"\x00\x00"]
        await append(storage, candidates(*leaves), Extender())
        assert await storage.read_leaf_sizes(first_index=0, end_index=4) == [0, 1, 65_535, 2]
        assert await storage.read_leaf_sizes(first_index=1, end_index=2) == [1]
        with pytest.raises(StorageError, match="has lost entries"):
            await storage.read_leaf_sizes(first_index=2, end_index=5)
