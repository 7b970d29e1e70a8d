"""Admission: leaves wait their turn to be checked, before they may wait for their place in the log.

What a leaf has to be is decided in `leaf`, by processes of their own (`checker`): all of it before the transaction, and
off the event loop, which it would keep from everything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from treehead.errors import TooLargeError, UnavailableError
from treehead.tile import ENTRY_BYTES_MAX
from treehead_logserver.backlog import Backlog
from treehead_logserver.checker import Checker, Outcome
from treehead_logserver.config import Limits
from treehead_logserver.rules import AdmissionRules

_LOG = logging.getLogger(__name__)


class _Share(NamedTuple):
    leaves: Sequence[bytes]
    work: int
    outcomes: asyncio.Future[list[Outcome]]


_WORK_OF_ENTRY = 32
"""What it takes to check what looks like an entry, in units of what it takes for other bytes, which are only hashed."""
_BYTES_A_UNIT = 2_048
"""Of such bytes. So a group is of at most some 2 MiB, which the event loop copies without much delay to others."""


def _work_of(leaf: bytes) -> int:
    return _WORK_OF_ENTRY if leaf.startswith(b"{") else 1 + len(leaf) // _BYTES_A_UNIT


class Admission:
    """Admits leaves by several checkers. For one event loop.

    A checker that is free takes what waits, up to a bound, as the sequencer does: under load one hop to it serves many
    calls. They take turns: a long batch goes to the end of the queue after each share of it.
    """

    def __init__(self, limits: Limits, *, rules: AdmissionRules) -> None:
        self._group_work_max = limits.admission_entries_max * _WORK_OF_ENTRY
        self._entries_a_checker = limits.entries_a_checker
        self._backlog = Backlog(entries_max=limits.queue_entries_max, bytes_max=limits.queue_bytes_max)
        self._queue: deque[deque[_Share]] = deque()
        self._waiting = 0
        self._free = [Checker(rules, answer_ms=limits.admission_ms) for _ in range(limits.checkers)]
        self._checkers = tuple(self._free)
        self._working: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many entries wait to be checked, or are being checked."""
        return self._backlog.entries

    async def start(self) -> None:
        """Have the checkers running, so that the first submission need not wait for one to start.

        Raises:
            UnavailableError: one cannot be started.
        """
        for checker in self._checkers:
            await checker.start()

    async def admit(self, leaves: Sequence[bytes]) -> list[Outcome]:
        """For each leaf, in order, the candidate that it makes, or the error that `admit_leaf` raised for it.

        Raises:
            BusyError: too many wait already.
            UnavailableError: they could not be checked; to try again is safe.
        """
        # What is too large is not even handed on: a message may be thirty times as large as an entry.
        outcomes = iter(await self._check([leaf for leaf in leaves if len(leaf) <= ENTRY_BYTES_MAX]))
        too_large = TooLargeError(f"entry is larger than {ENTRY_BYTES_MAX} bytes")
        return [next(outcomes) if len(leaf) <= ENTRY_BYTES_MAX else too_large for leaf in leaves]

    async def _check(self, leaves: Sequence[bytes]) -> list[Outcome]:
        self._backlog.enter(leaves)
        shares = list(self._shares(leaves))
        if shares:
            self._enqueue(deque(shares))
        return [outcome for share in shares for outcome in await share.outcomes]

    def _shares(self, leaves: Sequence[bytes]) -> Iterator[_Share]:
        """The leaves of a call, in parts that a checker takes at a time."""
        new_future = asyncio.get_running_loop().create_future
        begin = work = 0
        for at, leaf in enumerate(leaves):
            more = _work_of(leaf)
            if work + more > self._group_work_max and work:
                yield _Share(leaves[begin:at], work, new_future())
                begin, work = at, 0
            work += more
        if work:
            yield _Share(leaves[begin:], work, new_future())

    async def close(self) -> None:
        """End the checkers; what still waits is not admitted."""
        while self._queue:
            self._fail(self._queue.popleft(), UnavailableError("the log is shutting down; try again later"))
        for checker in self._checkers:
            await checker.close()
        await asyncio.gather(*self._working)

    def _enqueue(self, call: deque[_Share]) -> None:
        self._queue.append(call)
        self._waiting += sum(len(share.leaves) for share in call)
        # A checker that is at work takes what comes meanwhile with one hop; another is worth it when that is much.
        at_work = len(self._checkers) - len(self._free)
        if self._free and self._waiting > self._entries_a_checker * at_work:
            working = asyncio.create_task(self._work(self._free.pop()))
            self._working.add(working)
            working.add_done_callback(self._working.discard)

    async def _work(self, checker: Checker) -> None:
        """Have a checker do what waits, until nothing does."""
        try:
            while self._queue:
                group = self._next_group()
                try:
                    outcomes = iter(await checker.check([leaf for share in group for leaf in share.leaves]))
                except UnavailableError as exc:
                    self._fail(group, exc)
                    continue
                except BaseException as exc:
                    self._fail(group, UnavailableError("the log could not check the entry; try again, which is safe"))
                    if not isinstance(exc, Exception):
                        raise
                    _LOG.exception("a checker failed over a defect of Treehead")
                    continue
                for share in group:
                    # The leaves of a caller who went away were in the queue, and counted for as long as they were.
                    self._backlog.leave(share.leaves)
                    answer = [next(outcomes) for _ in share.leaves]
                    if not share.outcomes.done():
                        share.outcomes.set_result(answer)
        finally:
            self._free.append(checker)

    def _next_group(self) -> list[_Share]:
        """One share of each call in turn, up to the bound of a group, but at least one."""
        group: list[_Share] = []
        room = self._group_work_max
        while self._queue and (not group or self._queue[0][0].work <= room):
            call = self._queue.popleft()
            group.append(call.popleft())
            room -= group[-1].work
            self._waiting -= len(group[-1].leaves)
            if call:
                self._queue.append(call)
        return group

    def _fail(self, shares: Collection[_Share], error: UnavailableError) -> None:
        for share in shares:
            self._backlog.leave(share.leaves)
            if not share.outcomes.done():
                share.outcomes.set_exception(error)
                share.outcomes.exception()  # retrieved: its caller may have gone away
