"""Leaves wait their turn to be checked: each call gets its own answers, and the queue has a bound."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.unit.library.specimens import STRANGER, hashedrekord_leaf
from treehead.errors import TooLargeError, UnavailableError, UntrustedError
from treehead_logserver.admission import Admission
from treehead_logserver.backlog import BusyError
from treehead_logserver.checker import Outcome
from treehead_logserver.config import Limits
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.storage.base import Candidate


def hashedrekord_leaves(count: int) -> list[bytes]:
    return [hashedrekord_leaf(b"content %d" % number) for number in range(count)]


@asynccontextmanager
async def opened(limits: Limits, rules: AdmissionRules | None = None) -> AsyncIterator[Admission]:
    desk = Admission(limits, rules=rules or AdmissionRules())
    try:
        yield desk
    finally:
        await desk.close()


@pytest.fixture(scope="module")
async def desk() -> AsyncIterator[Admission]:
    async with opened(Limits(admission_entries_max=4, checkers=1)) as desk:
        yield desk


async def test_each_leaf_has_its_own_outcome_in_the_order_of_the_call(desk: Admission) -> None:
    good = hashedrekord_leaves(9)
    leaves = [good[0], b"bad", *good[1:], b"{}"]
    outcomes = await desk.admit(leaves)
    assert [isinstance(outcome, Candidate) for outcome in outcomes] == [True, False, *[True] * 8, False]
    assert [outcome.leaf for outcome in outcomes if isinstance(outcome, Candidate)] == good


async def test_every_checker_goes_by_the_rules_of_the_log() -> None:
    rules = AdmissionRules(signers=frozenset({STRANGER.public}))
    async with opened(Limits(checkers=2, entries_a_checker=1, admission_entries_max=1), rules) as desk:
        calls = [desk.admit([leaf]) for leaf in hashedrekord_leaves(8)]
        for (outcome,) in await asyncio.gather(*calls):
            assert isinstance(outcome, UntrustedError)
            assert "rule admission.signers" in str(outcome)
        assert None not in [checker._process for checker in desk._checkers]


async def test_no_leaves_have_no_outcomes(desk: Admission) -> None:
    assert await desk.admit([]) == []


async def test_callers_at_once_each_get_their_own(desk: Admission) -> None:
    leaves = hashedrekord_leaves(30)
    calls = [leaves[at : at + 3] for at in range(0, 30, 3)]
    outcomes = await asyncio.gather(*map(desk.admit, calls))
    assert [[outcome.leaf for outcome in call if isinstance(outcome, Candidate)] for call in outcomes] == calls


async def test_too_many_at_once_are_refused_and_there_is_room_later() -> None:
    async with opened(Limits(queue_entries_max=4)) as desk:
        first = asyncio.create_task(desk.admit(hashedrekord_leaves(3)))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="3 entries"):
            await desk.admit(hashedrekord_leaves(2))
        assert len(await first) == 3
        assert len(await desk.admit(hashedrekord_leaves(4))) == 4


async def test_a_caller_who_went_away_still_takes_its_room() -> None:
    async with opened(Limits(queue_entries_max=2)) as desk:
        gone = asyncio.create_task(desk.admit(hashedrekord_leaves(2)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(BusyError):
            await desk.admit(hashedrekord_leaves(1))


async def test_a_long_batch_does_not_hold_up_who_comes_after_it(desk: Admission) -> None:
    done: list[str] = []

    async def admit(name: str, leaves: list[bytes]) -> None:
        await desk.admit(leaves)
        done.append(name)

    leaves = hashedrekord_leaves(200)
    await asyncio.gather(admit("batch", leaves), admit("single", leaves[:1]))
    assert done == ["single", "batch"]


async def test_who_waits_when_the_log_stops_is_told_so() -> None:
    desk = Admission(Limits(checkers=1), rules=AdmissionRules())
    calls = [asyncio.create_task(desk.admit(hashedrekord_leaves(1))) for _ in range(3)]
    await asyncio.sleep(0)
    await desk.close()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)


async def test_a_checker_that_was_killed_fails_who_waited_for_it_and_is_replaced() -> None:
    async with opened(Limits(checkers=1)) as desk:
        leaves = hashedrekord_leaves(2)
        (checker,) = desk._checkers
        process = await checker.start()
        process.send_signal(signal.SIGSTOP)  # so that it is certainly there while it is asked
        call = asyncio.create_task(desk.admit(leaves))
        await asyncio.sleep(0)
        process.kill()
        with pytest.raises(UnavailableError, match="try again"):
            await call
        assert [type(outcome) for outcome in await desk.admit(leaves)] == [Candidate, Candidate]


async def test_another_checker_is_asked_when_much_waits_for_one() -> None:
    async with opened(Limits(checkers=2, entries_a_checker=3, admission_entries_max=1)) as desk:
        leaves = hashedrekord_leaves(8)
        calls = [asyncio.create_task(desk.admit([leaf])) for leaf in leaves[:3]]
        await asyncio.sleep(0)
        assert len(desk._working) == 1
        calls += [asyncio.create_task(desk.admit([leaf])) for leaf in leaves[3:]]
        await asyncio.sleep(0)
        assert len(desk._working) == 2
        assert [type(outcome) for (outcome,) in await asyncio.gather(*calls)] == [Candidate] * 8


class Held:
    """A checker whose answers wait for the test."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def check(self, leaves: list[bytes]) -> list[Outcome]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        await answer
        return [Candidate(leaf, leaf) for leaf in leaves]

    async def close(self) -> None:
        pass


def held_by(checker: Held, limits: Limits | None = None) -> Admission:
    desk = Admission(limits or Limits(checkers=1), rules=AdmissionRules())
    desk._free = [checker]  # type: ignore[list-item]
    desk._checkers = (checker,)  # type: ignore[assignment]
    return desk


async def test_who_comes_at_the_moment_when_a_checker_runs_out_of_work_is_not_forgotten() -> None:
    checker = Held()
    desk = held_by(checker)
    first = asyncio.create_task(desk.admit([b"first"]))
    answer = await checker.asked.get()
    answer.set_result(
        None
    )  # the worker runs next, and finds nothing more to do; that it has ended is noticed after that
    second = asyncio.create_task(desk.admit([b"second"]))
    async with asyncio.timeout(10):
        (await checker.asked.get()).set_result(None)
        answers = await asyncio.gather(first, second)
    assert [outcome for answer in answers for outcome in answer] == [
        Candidate(b"first", b"first"),
        Candidate(b"second", b"second"),
    ]


async def test_what_is_too_large_for_an_entry_is_refused_and_not_even_asked_about() -> None:
    checker = Held()
    desk = held_by(checker)
    (refused,) = await desk.admit([bytes(65_536)])
    assert isinstance(refused, TooLargeError)
    call = asyncio.create_task(desk.admit([b"a", bytes(65_536), b"b"]))
    (await checker.asked.get()).set_result(None)
    first, refused, last = await call
    assert (first, last) == (Candidate(b"a", b"a"), Candidate(b"b", b"b"))
    assert isinstance(refused, TooLargeError)


async def test_a_defect_of_a_checker_leaves_nobody_waiting_and_no_place_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    checker = Held()
    desk = held_by(checker)
    call = asyncio.create_task(desk.admit([b"leaf"]))
    answer = await checker.asked.get()
    (working,) = desk._working
    waiting = asyncio.create_task(desk.admit([b"other"]))
    await asyncio.sleep(0)
    answer.set_exception(ZeroDivisionError("a defect"))
    with pytest.raises(UnavailableError, match="try again"):
        await call
    (await checker.asked.get()).set_result(None)
    assert await waiting == [Candidate(b"other", b"other")]
    await working
    assert "ZeroDivisionError: a defect" in caplog.text
    assert desk._backlog._entries == 0
    assert len(desk._free) == 1


async def test_what_is_no_entry_is_asked_about_many_at_a_time() -> None:
    checker = Held()
    desk = held_by(checker, Limits(checkers=1, admission_entries_max=1))
    for leaves, asked in (
        ([b"other bytes"] * 32, 1),
        ([b"other bytes"] * 33, 2),
        ([b"{", b"{", b"other"], 3),
        ([bytes(65_535)] * 3, 3),
    ):
        call = asyncio.create_task(desk.admit(leaves))
        for _ in range(asked):
            (await checker.asked.get()).set_result(None)
        assert [outcome.leaf for outcome in await call if isinstance(outcome, Candidate)] == leaves
    assert checker.asked.empty()
