"""Admission: what a leaf has to be before it may wait for its place in the log.

It is parsed strictly, its signature verifies, and it is hashed: all before the transaction, and on threads of their
own, for checking a signature takes longer than most of what the event loop does and lets other threads run meanwhile.
Who may sign what is not decided here.

A log takes the kinds of entries that its operator switched on. With `opaque` among them it takes any bytes, which then
have no signer and are found by their hash only, unless they are an entry in good order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from treehead.entry import Entry, parse_entry, verify_entry
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnavailableError, UnsupportedError
from treehead.merkle import hash_leaf
from treehead.tile import ENTRY_BYTES_MAX
from treehead_logserver.backlog import Backlog
from treehead_logserver.config import Limits
from treehead_logserver.kinds import OPAQUE, SIGNED_KINDS
from treehead_logserver.storage.base import Candidate, Term

Outcome = Candidate | Exception
"""A candidate, or why the leaf makes none: a `TreeheadError`, or else a defect of ours."""


def admit_leaf(leaf: bytes, *, kinds: Collection[str]) -> Candidate:
    """The candidate that a leaf makes in a log that takes these kinds.

    Raises:
        TooLargeError: it is larger than 65,535 bytes.
        MalformedError, UnsupportedError: it is not an entry of such a kind; the message names the field.
        SignatureError: its signature does not verify.
    """
    if len(leaf) > ENTRY_BYTES_MAX:
        raise TooLargeError(f"entry is larger than {ENTRY_BYTES_MAX} bytes")
    terms: frozenset[Term] = frozenset()
    if OPAQUE not in kinds or leaf.startswith(b"{"):
        try:
            terms = terms_of(_verified_entry(leaf, kinds))
        except (MalformedError, UnsupportedError, SignatureError):
            if OPAQUE not in kinds:
                raise
    return Candidate(leaf, hash_leaf(leaf), terms)


def _verified_entry(leaf: bytes, kinds: Collection[str]) -> Entry:
    entry = parse_entry(leaf)
    name = entry.kind.partition("/")[0]
    if name not in kinds and OPAQUE not in kinds:
        raise UnsupportedError(f"field kind: this log does not take {name} (it takes {', '.join(sorted(kinds))})")
    verify_entry(entry)
    return entry


def terms_of(entry: Entry) -> frozenset[Term]:
    """What an entry is found by: the digests of the artifacts that it speaks of."""
    return frozenset(Term(*item) for artifact in entry.artifacts for item in artifact.digests.items())


def _admit(leaves: Sequence[bytes], kinds: Collection[str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for leaf in leaves:
        try:
            outcomes.append(admit_leaf(leaf, kinds=kinds))
        except Exception as exc:  # noqa: BLE001 -- what one leaf does must not fail others that share its hop
            outcomes.append(exc)
    return outcomes


class _Share(NamedTuple):
    leaves: Sequence[bytes]
    outcomes: asyncio.Future[list[Outcome]]


class Admission:
    """Admits leaves on threads of its own. For one event loop.

    A thread that is free takes what waits, up to a bound, as the sequencer does: under load one hop to the thread
    serves many calls. They take turns: a long batch goes to the end of the queue after each share of it.
    """

    def __init__(self, limits: Limits, *, kinds: Collection[str] = SIGNED_KINDS) -> None:
        self._kinds = frozenset(kinds)
        self._threads = limits.admission_threads
        self._group_entries_max = limits.admission_entries_max
        self._pool = ThreadPoolExecutor(limits.admission_threads, thread_name_prefix="admission")
        self._backlog = Backlog(entries_max=limits.queue_entries_max, bytes_max=limits.queue_bytes_max)
        self._queue: deque[deque[_Share]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def admit(self, leaves: Sequence[bytes]) -> list[Outcome]:
        """For each leaf, in order, the candidate that it makes, or the error that `admit_leaf` raised for it.

        Raises:
            BusyError: too many wait already.
        """
        self._backlog.enter(leaves)
        step = self._group_entries_max
        shares = [self._share(leaves[at : at + step]) for at in range(0, len(leaves), step)]
        if shares:
            self._enqueue(deque(shares))
        # Shielded: the leaves of a caller who goes away stay in the queue, and count for as long as they do.
        return [outcome for share in shares for outcome in await asyncio.shield(share.outcomes)]

    def close(self) -> None:
        """Let the threads end; what still waits is not admitted."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _share(self, leaves: Sequence[bytes]) -> _Share:
        share = _Share(leaves, asyncio.get_running_loop().create_future())
        share.outcomes.add_done_callback(lambda _: self._backlog.leave(leaves))
        return share

    def _enqueue(self, call: deque[_Share]) -> None:
        self._queue.append(call)
        if len(self._workers) < self._threads:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        while self._queue:
            group = self._next_group()
            leaves = [leaf for share in group for leaf in share.leaves]
            try:
                outcomes = iter(
                    await asyncio.get_running_loop().run_in_executor(self._pool, _admit, leaves, self._kinds)
                )
            except RuntimeError:  # the threads are gone, since the log is shutting down; nobody may wait for them
                for share in group:
                    share.outcomes.set_exception(UnavailableError("the log is shutting down; try again later"))
                    share.outcomes.exception()  # retrieved: its caller may have gone away
                continue
            for share in group:
                share.outcomes.set_result([next(outcomes) for _ in share.leaves])

    def _next_group(self) -> list[_Share]:
        """One share of each call in turn, up to the bound of a group, but at least one."""
        group: list[_Share] = []
        room = self._group_entries_max
        while self._queue and (not group or len(self._queue[0][0].leaves) <= room):
            call = self._queue.popleft()
            group.append(call.popleft())
            room -= len(group[-1].leaves)
            if call:
                self._queue.append(call)
        return group
