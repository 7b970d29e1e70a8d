"""Group commit: who goes into a commit, what is told to whom and when, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.library.specimens import Tree
from tests.unit.logserver.parts import Parts, Valve, candidate, create, parts, random_leaves
from treehead.errors import StorageError, UnavailableError
from treehead.lookup import Term
from treehead_logserver.backlog import BusyError
from treehead_logserver.config import Limits
from treehead_logserver.storage.base import Placed, Sequencing, Storage, UnknownOutcomeError

DEADLINE_SECONDS = 30


class Held:
    """A log whose commits wait for the test."""

    def __init__(self) -> None:
        self.valve: Valve | None = None

    def before(self, storage: Storage) -> Sequencing:
        self.valve = Valve(storage)
        return self.valve

    def __call__(self) -> Valve:
        assert self.valve is not None
        return self.valve


async def submissions(log: Parts, *batches: Sequence[bytes]) -> list[asyncio.Task[list[Placed]]]:
    """Submit each batch by a task of its own, in this order, and have them wait in the queue."""
    tasks = [asyncio.create_task(log.submit(*batch)) for batch in batches]
    await asyncio.sleep(0)
    return tasks


async def test_each_entry_gets_its_place_and_the_head_its_root(tmp_path: Path) -> None:
    tree = Tree()
    rng = random.Random(7)
    async with parts(create(tmp_path)) as log:
        for _ in range(40):
            leaves = [rng.randbytes(8) for _ in range(rng.randrange(1, 30))]
            placed = await log.submit(*leaves)
            assert placed == [Placed(tree.size + number, False) for number in range(len(leaves))]
            for leaf in leaves:
                tree.append(leaf)
            checkpoint = log.checkpoint()
            assert (checkpoint.size, checkpoint.root) == (tree.size, tree.root())


async def test_an_entry_twice_in_a_batch_is_one_entry(tmp_path: Path) -> None:
    async with parts(create(tmp_path)) as log:
        placed = await log.submit(b"a", b"b", b"a", b"a")
        assert placed == [Placed(0, False), Placed(1, False), Placed(0, True), Placed(0, True)]
        assert log.heads.newest.size == 2


async def test_an_entry_of_two_submitters_at_once_is_one_entry_and_the_first_made_it(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        first, second = await submissions(log, [b"a", b"b"], [b"b", b"c"])
        held().let_through()
        assert await first == [Placed(0, False), Placed(1, False)]
        assert await second == [Placed(1, True), Placed(2, False)]
        assert held().sizes == [3]


async def test_an_entry_of_an_earlier_commit_keeps_its_index(tmp_path: Path) -> None:
    async with parts(create(tmp_path)) as log:
        await log.submit(b"a", b"b")
        assert await log.submit(b"b", b"c") == [Placed(1, True), Placed(2, False)]


async def test_nothing_new_signs_no_new_checkpoint(tmp_path: Path) -> None:
    async with parts(create(tmp_path)) as log:
        await log.submit(b"a", b"b")
        head = log.heads.newest
        assert await log.submit(b"b", b"a") == [Placed(1, True), Placed(0, True)]
        assert log.heads.newest is head


async def test_nothing_is_placed_nowhere(tmp_path: Path) -> None:
    async with parts(create(tmp_path)) as log:
        assert await log.submit() == []


async def test_what_arrives_during_a_commit_shares_the_next_one(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        first = await submissions(log, [b"first"])
        await held().began.acquire()
        later = await submissions(log, *([b"%d" % number] for number in range(50)))
        held().let_through(2)
        await asyncio.gather(*first, *later)
        assert held().sizes == [1, 50]


async def test_a_head_is_released_only_after_its_commit(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        (submission,) = await submissions(log, [b"a"])
        await held().began.acquire()
        assert not submission.done()
        assert log.heads.newest.size == 0
        held().let_through()
        await submission
        assert log.heads.newest.size == 1


async def test_a_failure_before_the_commit_leaves_the_tree_as_it_was(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        held().let_through(3)
        await log.submit(b"a")
        held().before_commit = StorageError("the disk is full")
        with pytest.raises(UnavailableError, match="try again"):
            await log.submit(b"b")
        assert log.checkpoint().root == Tree([b"a"]).root()
        held().before_commit = None
        assert await log.submit(b"c") == [Placed(1, False)]
        assert log.checkpoint().root == Tree([b"a", b"c"]).root()


async def test_a_failure_tells_every_submitter_of_its_commit_and_no_other(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        failing = await submissions(log, [b"a"], [b"b"])
        await held().began.acquire()
        later = await submissions(log, [b"c"])
        held().before_commit = StorageError("the disk is full")
        held().let_through()
        await held().began.acquire()
        held().before_commit = None
        held().let_through()
        outcomes = await asyncio.gather(*failing, *later, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnavailableError, UnavailableError, list]


async def test_an_unknown_outcome_stops_the_log_and_fails_all_who_wait(tmp_path: Path) -> None:
    held = Held()
    path = create(tmp_path)
    async with parts(path, before=held.before) as log:
        in_commit = await submissions(log, [b"a"])
        await held().began.acquire()
        waiting = await submissions(log, [b"b"])
        held().at_commit = UnknownOutcomeError("the commit failed")
        held().let_through()
        for submission in (*in_commit, *waiting):
            with pytest.raises(UnavailableError, match="try again"):
                await submission
        with pytest.raises(UnknownOutcomeError):
            await log.committing
        assert log.heads.newest.size == 0
        with pytest.raises(UnavailableError, match="shutting down"):
            await log.submit(b"c")
    # It was durable after all, and the next process finds that out.
    async with parts(path) as log:
        assert log.checkpoint().root == Tree([b"a"]).root()
        assert await log.submit(b"a", b"b") == [Placed(0, True), Placed(1, False)]


class Untidy(Valve):
    """A storage with much to tidy up, which lets the test know each time."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.let_through(9)
        self.tidied = asyncio.Semaphore(0)
        self.error: StorageError | None = None
        self.raised = asyncio.Event()

    async def tidy(self) -> bool:
        await asyncio.sleep(0)
        self.tidied.release()
        if self.error is not None:
            self.raised.set()
            raise self.error
        return True


async def test_an_idle_log_tidies_for_as_long_as_there_is_something_and_nobody_waits(tmp_path: Path) -> None:
    untidy: list[Untidy] = []

    def before(storage: Storage) -> Sequencing:
        untidy.append(Untidy(storage))
        return untidy[0]

    async with parts(create(tmp_path), before=before, limits=Limits(idle_ms=1)) as log:
        (storage,) = untidy
        for number in range(3):
            for _ in range(5):
                await storage.tidied.acquire()
            assert await log.submit(b"%d" % number) == [Placed(number, False)]
        storage.error = StorageError("the disk is full")
        await storage.raised.wait()
        assert await log.submit(b"a") == [Placed(3, False)], "to tidy can wait"
        storage.error = UnknownOutcomeError("the commit failed")
        with pytest.raises(UnknownOutcomeError):
            await log.committing
        with pytest.raises(UnavailableError, match="shutting down"):
            await log.submit(b"b")


async def test_a_database_that_moved_on_without_us_is_not_extended(tmp_path: Path) -> None:
    path = create(tmp_path)
    async with parts(path) as log, parts(path) as other:
        await other.submit(b"theirs")
        with pytest.raises(UnavailableError):
            await log.submit(b"ours")
        assert log.heads.newest.size == 0
        assert (await log.storage.read_state()).size == 1


async def test_a_submitter_who_goes_away_disturbs_nobody(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        first, gone, last = await submissions(log, [b"a"], [b"b"], [b"c"])
        await held().began.acquire()
        gone.cancel()
        held().let_through()
        assert await first == [Placed(0, False)]
        assert await last == [Placed(2, False)]
        with pytest.raises(asyncio.CancelledError):
            await gone


async def test_a_full_queue_refuses_and_has_room_again_later(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before, limits=Limits(queue_entries_max=3)) as log:
        waiting = await submissions(log, [b"a", b"b"], [b"c"])
        with pytest.raises(BusyError, match="3 entries"):
            await log.submit(b"d")
        held().let_through(2)
        await asyncio.gather(*waiting)
        assert await log.submit(b"d") == [Placed(3, False)]


async def test_a_queue_is_full_by_bytes_too(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before, limits=Limits(queue_bytes_max=10)) as log:
        waiting = await submissions(log, [b"12345", b"67890"])
        with pytest.raises(BusyError, match="10 bytes"):
            await log.submit(b"1")
        held().let_through()
        await asyncio.gather(*waiting)


async def test_a_submission_whose_caller_went_away_still_takes_its_room(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before, limits=Limits(queue_entries_max=2)) as log:
        for gone in await submissions(log, [b"a"], [b"b"]):
            gone.cancel()
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await log.submit(b"c")
        held().let_through()


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(commit_entries_max=4), id="entries"),
        pytest.param(Limits(commit_bytes_max=40), id="bytes"),
    ],
)
async def test_a_commit_has_a_bound_and_keeps_submissions_whole(tmp_path: Path, limits: Limits) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before, limits=limits) as log:
        leaves = iter(b"leaf %05d" % number for number in range(20))
        batches = [[next(leaves) for _ in range(count)] for count in (2, 2, 1, 3, 1, 7, 1)]
        waiting = await submissions(log, *batches)
        held().let_through(5)
        placed = await asyncio.gather(*waiting)
        assert held().sizes == [4, 4, 1, 7, 1]
        assert [place.leaf_index for batch in placed for place in batch] == list(range(17))


async def test_a_commit_has_a_bound_by_what_its_entries_are_found_by(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before, limits=Limits(commit_terms_max=10)) as log:
        many = [candidate(b"%d" % number)._replace(terms=terms(number)) for number in range(5)]
        waiting = [asyncio.create_task(log.sequencer.submit([each])) for each in many]
        await asyncio.sleep(0)
        held().let_through(3)
        await asyncio.gather(*waiting)
        assert held().sizes == [2, 2, 1]


def terms(number: int) -> frozenset[Term]:
    return frozenset(Term("sha256", b"%d %d" % (number, each)) for each in range(5))


async def test_draining_finishes_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    held = Held()
    async with parts(create(tmp_path), before=held.before) as log:
        first = await submissions(log, [b"a"])
        await held().began.acquire()
        waiting = await submissions(log, [b"b"])
        log.sequencer.drain()
        with pytest.raises(UnavailableError, match="shutting down"):
            await log.submit(b"c")
        held().let_through(2)
        assert [await task for task in (*first, *waiting)] == [[Placed(0, False)], [Placed(1, False)]]
        await asyncio.wait_for(log.committing, DEADLINE_SECONDS)


async def test_many_submitters_at_once_fill_one_log_without_gaps(tmp_path: Path) -> None:
    leaves = random_leaves(600, seed=3)
    async with parts(create(tmp_path), limits=Limits(commit_entries_max=50)) as log:
        placed = await asyncio.gather(*(log.submit(leaf) for leaf in leaves))
        assert sorted(place.leaf_index for (place,) in placed) == list(range(600))
        by_index = {place.leaf_index: leaf for (place,), leaf in zip(placed, leaves, strict=True)}
        assert log.checkpoint().root == Tree(by_index[index] for index in range(600)).root()
