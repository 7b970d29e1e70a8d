"""Group commit: whatever arrives while a commit is under way goes into the next one.

No timer says when. An idle log commits a single entry at once; a busy one has a full group waiting whenever a commit
ends. The transaction itself is the storage engine's (`storage.base`); what is decided here is who goes into it, which
tree it makes, and who may be told when.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from treehead.errors import StorageError, UnavailableError
from treehead.tile import RightEdge
from treehead_logserver.backlog import Backlog
from treehead_logserver.config import Limits
from treehead_logserver.heads import Head, Heads
from treehead_logserver.metrics import Metrics
from treehead_logserver.prover import Prover
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Candidate, Extension, Placed, Sequencing, Settle, UnknownOutcomeError

_LOG = logging.getLogger(__name__)


class _Submission(NamedTuple):
    candidates: Sequence[Candidate]
    leaves: Sequence[bytes]
    placed: asyncio.Future[Sequence[Placed]]
    arrived: float


class Sequencer:
    """Puts candidates into the log. For one event loop; `run` is the one task that commits."""

    def __init__(
        self,
        *,
        storage: Sequencing,
        signer: Signer,
        settle: Settle,
        edge: RightEdge,
        heads: Heads,
        prover: Prover,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._storage = storage
        self._signer = signer
        self._settle = settle
        self._edge = edge
        self._heads = heads
        self._prover = prover
        self._limits = limits
        self._queue: deque[_Submission] = deque()
        self._backlog = Backlog(entries_max=limits.queue_entries_max, bytes_max=limits.queue_bytes_max)
        self._arrival = asyncio.Event()
        self._draining = False
        self._committing: Sequence[_Submission] = ()
        self._failing_since: float | None = None
        self._metrics = metrics

    @property
    def waiting(self) -> int:
        """How many entries wait to be logged, or are being logged."""
        return self._backlog.entries

    @property
    def waits_s(self) -> float:
        """For how long the submission has waited that waits longest; 0 if none does."""
        oldest = next(iter((*self._committing, *islice(self._queue, 1))), None)
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest.arrived

    @property
    def failing_s(self) -> float:
        """How long ago the first commit failed since one succeeded; 0 if the last one did."""
        return 0.0 if self._failing_since is None else asyncio.get_running_loop().time() - self._failing_since

    async def submit(self, candidates: Sequence[Candidate]) -> Sequence[Placed]:
        """Make candidates part of the log, together; returns their places once they are durable.

        The newest head then holds them all. To cancel the call does not undo it.

        Raises:
            BusyError: too many wait already; nothing was done.
            UnavailableError: the log is stopping, or could not write; to try again is safe.
        """
        if not candidates:
            return ()
        if self._draining:
            raise UnavailableError("the log is shutting down; try again later")
        leaves = [candidate.leaf for candidate in candidates]
        self._backlog.enter(leaves)
        loop = asyncio.get_running_loop()
        submission = _Submission(candidates, leaves, loop.create_future(), loop.time())
        self._queue.append(submission)
        self._arrival.set()
        return await submission.placed

    async def run(self) -> None:
        """Commit group after group, until `drain` was called and nothing waits any more.

        Raises:
            UnknownOutcomeError: a commit failed, and the process must end.
        """
        try:
            while True:
                while self._queue:
                    self._committing = self._next_group()
                    await self._commit(self._committing)
                    self._committing = ()
                if self._draining:
                    return
                await self._next_arrival()
        finally:
            self._draining = True
            self._fail(self._queue, "the log stopped before it could log the entry; try again")

    def drain(self) -> None:
        """Take no more submissions, and have `run` return when those that wait are done."""
        self._draining = True
        self._arrival.set()

    async def _next_arrival(self) -> None:
        """Wait for a submission, and when none comes for a while let the storage do what has waited for that."""
        self._arrival.clear()
        try:
            async with asyncio.timeout(self._limits.idle_ms / 1_000):
                await self._arrival.wait()
        except TimeoutError:
            await self._tidy()
            await self._arrival.wait()

    async def _tidy(self) -> None:
        try:
            while await self._storage.tidy() and not self._arrival.is_set():
                pass
        except UnknownOutcomeError:
            raise
        except StorageError as exc:
            _LOG.error("the database could not be tidied: %s", exc)

    def _next_group(self) -> list[_Submission]:
        """The submissions that wait, up to the bounds of a commit, but at least one."""
        group: list[_Submission] = []
        limits = self._limits
        entries = size_bytes = terms = 0
        while self._queue:
            submission = self._queue[0]
            entries += len(submission.leaves)
            size_bytes += sum(map(len, submission.leaves))
            terms += sum([len(candidate.terms) for candidate in submission.candidates])
            if group and (
                entries > limits.commit_entries_max
                or size_bytes > limits.commit_bytes_max
                or terms > limits.commit_terms_max
            ):
                break
            group.append(self._queue.popleft())
        return group

    async def _commit(self, group: Sequence[_Submission]) -> None:
        # One leaf may have been submitted twice at a time: the first of them makes the entry.
        distinct: dict[bytes, Candidate] = {}
        for submission in group:
            for candidate in submission.candidates:
                distinct.setdefault(candidate.leaf_hash, candidate)
        began = asyncio.get_running_loop().time()
        try:
            places = await self._append(list(distinct.values()))
        except StorageError as exc:
            self._fail(group, "the log could not write; try again, which is safe")
            if isinstance(exc, UnknownOutcomeError):
                raise
            _LOG.error("%d entries were not logged: %s", len(distinct), exc)
            self._metrics.commit_failures.inc()
            if self._failing_since is None:
                self._failing_since = began
            return
        except BaseException:
            self._fail(group, "the log stopped; try again, which is safe")
            raise
        self._failing_since = None
        self._metrics.commit_seconds.observe(asyncio.get_running_loop().time() - began)
        self._metrics.commit_entries.observe(len(distinct))
        place_of = dict(zip(distinct, places, strict=True))
        answered: set[bytes] = set()
        for submission in group:
            answer = []
            for candidate in submission.candidates:
                place = place_of[candidate.leaf_hash]
                if candidate.leaf_hash in answered:
                    place = Placed(place.leaf_index, duplicate=True)
                answered.add(candidate.leaf_hash)
                answer.append(place)
            # What a submitter who went away has left behind was in the queue, and counted for as long as it was.
            self._backlog.leave(submission.leaves)
            if not submission.placed.done():
                submission.placed.set_result(answer)

    async def _append(self, candidates: Sequence[Candidate]) -> Sequence[Placed]:
        """Commit, and only then move on to the new tree and let its checkpoint out."""
        extended: list[tuple[RightEdge, Extension]] = []

        def extend(size: int, leaf_hashes: Sequence[bytes]) -> Extension:
            if size != self._edge.size:
                raise StorageError(f"the database has {size} entries, where this process knows of {self._edge.size}")
            edge = self._edge.copy()
            tiles = edge.append(leaf_hashes)
            extension = Extension(state=self._signer.state_of(edge), tiles=tiles)
            extended.append((edge, extension))
            return extension

        places = await self._storage.append(candidates, extend, self._settle)
        for edge, extension in extended:
            self._edge = edge
            self._prover.add(extension.tiles)
            self._heads.release(Head.of(edge, checkpoint=extension.state.checkpoint))
        return places

    def _fail(self, submissions: Iterable[_Submission], reason: str) -> None:
        for submission in submissions:
            self._backlog.leave(submission.leaves)
            if not submission.placed.done():
                submission.placed.set_exception(UnavailableError(reason))
                submission.placed.exception()  # marks it as seen, should its submitter have gone away
