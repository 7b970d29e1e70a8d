"""The loop around the pure rules: feeds `gossip` with events and carries out its work, in its order.

One event at a time is worked off to the end - persisted, compared, sent, alerted - before the next begins; that is a
*turn*. A turn waits for our own disk and for nothing else: what is sent goes into the peers' outboxes, so that neither
a peer nor a log can hold another one up.

If the disk fails in the middle of a turn, memory is ahead of what would survive. Nothing is built on that: every later
turn fails, too, and the monitor stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from treehead.errors import (
    ConsistencyError,
    InclusionError,
    MalformedError,
    RefusedError,
    SignatureError,
    StorageError,
    UnavailableError,
    UndecidedError,
    UnsupportedError,
)
from treehead.evidence import Evidence, parse_evidence
from treehead.keys import VerifierKey
from treehead.tile import RightEdge, TileId
from treehead.view import Prefix, View
from treehead_monitor.audit import Audit, ContradictedError
from treehead_monitor.cosigner import Cosigned, Cosigner
from treehead_monitor.datadir import DataDirectory, write_evidence
from treehead_monitor.event import (
    LOG_SOURCE,
    STORE_SOURCE,
    Accused,
    Advanced,
    Cleared,
    Compare,
    Compared,
    Event,
    Finding,
    Heard,
    KeepEvidence,
    PeerFault,
    Persist,
    Proven,
    Resumed,
    Seen,
    Suspected,
    Tick,
)
from treehead_monitor.gossip import GossipMachine
from treehead_monitor.head import LogHead, LogId
from treehead_monitor.history import History
from treehead_monitor.message import Gossip
from treehead_monitor.outbox import Outbox
from treehead_monitor.store import Store
from treehead_monitor.suspicion import Doubt, Suspicion

_LOG = logging.getLogger(__name__)

DRAW_BITS = 64
_SHOWN = {LOG_SOURCE: "by following the log", STORE_SOURCE: "with what was kept before the restart"}
FAULTS_TOLD_MAX = 8
"""Peers of whose faults the journal tells, each interval."""

_T = TypeVar("_T")


@dataclass(slots=True, kw_only=True)
class FollowedLog:
    """What the driver holds of one log; `head` and `history` change together, with no wait in between.

    `cosigned` follows them: it is of the same head, or of one before it.
    """

    key: VerifierKey
    history: History
    head: LogHead | None
    cosigned: Cosigned | None
    suspicions: dict[Doubt, Suspicion] = field(default_factory=dict)
    contact_ms: int | None = None


class Driver:
    """One monitor at work. It is the `audit.Ledger`, and what the service asks."""

    def __init__(
        self,
        *,
        machine: GossipMachine,
        logs: Mapping[LogId, FollowedLog],
        outboxes: Mapping[str, Outbox],
        store: Store,
        directory: DataDirectory,
        cosigner: Cosigner,
        cosign_every_s: int,
        now_ms: Callable[[], int],
        random: Random,
    ) -> None:
        self._machine = machine
        self._logs = logs
        self._outboxes = outboxes
        self._store = store
        self._directory = directory
        self._cosigner = cosigner
        self._cosign_every_s = cosign_every_s
        self._now_ms = now_ms
        self._random = random
        self._turn = asyncio.Lock()
        self._broken: StorageError | None = None
        self._stopped = asyncio.Event()
        self._faulty: set[str] = set()
        self._is_clock_doubted = False

    # --- turns ---

    async def _take_turn(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do `work` when no other turn is under way, and to its end even if whoever waits for it is cancelled.

        A caller who hangs up in the middle must not leave memory ahead of the disk.
        """
        await self._turn.acquire()
        return await asyncio.shield(asyncio.create_task(self._end_turn(work)))

    async def _end_turn(self, work: Callable[[], Awaitable[_T]]) -> _T:
        try:
            if self._broken is not None:
                raise StorageError(f"the monitor has stopped: {self._broken}")
            return await work()
        except StorageError as exc:
            self._broken = self._broken or exc
            self._stopped.set()
            raise
        finally:
            self._turn.release()

    async def _turn_on(self, event: Event) -> None:
        await self._take_turn(lambda: self._work_off(event))

    async def finish(self) -> None:
        """Wait for the turn that is under way, and keep how calls went; there is no turn after it."""
        await self._turn.acquire()
        if self._broken is None:
            await self._keep_contacts()

    async def _keep_contacts(self) -> None:
        contacts = {id_: log.contact_ms for id_, log in self._logs.items() if log.contact_ms is not None}
        await self._store.keep_contacts(contacts, [outbox.record for outbox in self._outboxes.values()])

    async def broken(self) -> None:
        """Wait until our own disk fails.

        Raises:
            StorageError: it has.
        """
        await self._stopped.wait()
        assert self._broken is not None  # noqa: S101 -- for the type checker: set before the event
        raise self._broken

    async def _work_off(self, event: Event) -> None:
        """Take an event and all that follow from it; within a turn."""
        events = deque([event])
        while events:
            # In a thread: evidence is made of signature checks.
            ready = await asyncio.to_thread(self._machine.step, events.popleft())
            await self._persist(ready.persist)
            for work in ready.compare:
                events.append(await self._compare(work))
            for peer, gossip in ready.send:
                self._outboxes[peer].offer(gossip)
            for finding in ready.alert:
                await self._alert(finding)

    async def _persist(self, work: Sequence[Persist]) -> None:
        for item in work:
            if isinstance(item, KeepEvidence):
                # Before the row that names it: a crash in between leaves a file, which the next start takes up.
                await asyncio.to_thread(write_evidence, self._directory, item.data)
        await self._store.keep(work)

    async def _compare(self, work: Compare) -> Compared:
        head, log = work.head, self._logs[work.head.log]
        own_root, path = None, tuple[bytes, ...]()
        if log.head is not None and head.size <= log.head.size:
            own_root = await log.history.root_at(head.size)
            if own_root != head.root:
                path = await log.history.consistency(head.size, log.head.size)
        return Compared(head=head, source=work.source, own_root=own_root, path=path, at_ms=self._now_ms())

    async def _alert(self, finding: Finding) -> None:
        match finding:
            case Accused(log=log, id=id_, source=source):
                origin, file = self._logs[log].key.name, self._directory.evidence_file(id_)
                shown = _SHOWN.get(source, f"with what {source} sent")
                _LOG.critical(
                    "MISBEHAVIOUR PROVEN: log %s signed trees that contradict each other, shown %s: %s",
                    origin,
                    shown,
                    file,
                )
            case Suspected(log=log, doubt=doubt, reason=reason):
                await self._suspect(log, doubt, reason)
            case Cleared(log=log, doubt=doubt):
                await self._clear(log, doubt)
            case PeerFault(peer=peer, reason=reason):
                if peer in self._outboxes:
                    self._outboxes[peer].record = self._outboxes[peer].record.at_fault()
                # Seldom, and few: hostile peers shall not fill the journal.
                if peer not in self._faulty and len(self._faulty) < FAULTS_TOLD_MAX:
                    self._faulty.add(peer)
                    _LOG.warning("peer %s %s", peer, reason)

    async def _suspect(self, id_: LogId, doubt: Doubt, reason: str) -> None:
        log = self._logs[id_]
        known = log.suspicions.get(doubt)
        if known is not None and known.standing:
            return
        count = 1 if known is None else known.count + 1
        suspicion = Suspicion(doubt=doubt, reason=reason, since_ms=self._now_ms(), count=count, standing=True)
        log.suspicions[doubt] = suspicion
        await self._store.keep_suspicion(id_, suspicion)
        _LOG.warning("suspicion (%s): log %s: %s", doubt.value, log.key.name, reason)

    async def _clear(self, id_: LogId, doubt: Doubt) -> None:
        log = self._logs[id_]
        known = log.suspicions.get(doubt)
        if known is None or not known.standing:
            return
        log.suspicions[doubt] = replace(known, standing=False)
        await self._store.keep_suspicion(id_, log.suspicions[doubt])
        _LOG.info("no longer suspected (%s): log %s", doubt.value, log.key.name)

    async def resume(self, heads: Sequence[LogHead]) -> None:
        """Judge again what a crash may have left unjudged.

        Raises:
            StorageError: our own disk failed.
        """
        await self._turn_on(Resumed(heads=tuple(heads)))

    # --- following a log: the ledger of its audit ---

    def verified(self, log: LogId) -> tuple[LogHead | None, RightEdge]:
        return self._logs[log].head, self._logs[log].history.edge()

    def is_misbehaved(self, log: LogId) -> bool:
        return self._machine.is_misbehaved(log)

    async def see(self, head: LogHead) -> None:
        await self._turn_on(Seen(head=head, at_ms=self._now_ms()))

    async def advance(self, head: LogHead, *, edge: RightEdge, tiles: Mapping[TileId, bytes]) -> None:
        async def turn() -> None:
            log, at_ms = self._logs[head.log], self._now_ms()
            await self._store.advance(head, edge=edge, tiles=tiles, at_ms=at_ms)
            log.head = head
            log.history.advance(edge)
            # Before it is cosigned: a head that waited for this one may contradict it.
            await self._work_off(Advanced(head=head, at_ms=at_ms))
            await self._cosign(head, log)
            _LOG.info("log %s: verified to size %d", log.key.name, head.size)

        await self._take_turn(turn)

    async def confirm(self, log: LogId) -> None:
        followed = self._logs[log]

        async def turn() -> None:
            if followed.head is not None:
                await self._cosign(followed.head, followed)

        last, now_s = followed.cosigned, self._now_ms() // 1_000
        if last is not None and now_s < last.timestamp and not self._is_clock_doubted:
            self._is_clock_doubted = True
            _LOG.warning(
                "the clock is %d s behind our last cosignature of log %s: it is wrong now, or was wrong then; "
                "until it has caught up, cosignatures keep that time",
                last.timestamp - now_s,
                followed.key.name,
            )
        # One of a smaller head: a crash came before the cosignature.
        is_behind = last is None or (followed.head is not None and last.size < followed.head.size)
        if last is None or is_behind or now_s - last.timestamp >= self._cosign_every_s:
            await self._take_turn(turn)

    async def _cosign(self, head: LogHead, log: FollowedLog) -> None:
        """Cosign a verified head, unless misbehaviour is proven; within a turn."""
        if not self._machine.is_misbehaved(head.log):
            cosigned = self._cosigner.cosign(head, last=log.cosigned, now_s=self._now_ms() // 1_000)
            await self._store.keep_cosigned(head.log, cosigned)
            log.cosigned = cosigned

    async def accuse(self, log: LogId, evidence: Evidence) -> None:
        await self._turn_on(Proven(evidence=evidence, log=log, at_ms=self._now_ms()))

    async def save_progress(self, log: LogId, edge: RightEdge, tiles: Mapping[TileId, bytes]) -> None:
        await self._store.save_progress(log, edge, tiles)

    async def drop_progress(self, log: LogId) -> None:
        await self._store.drop_progress(log)

    async def follow(self, log: LogId, audit: Audit, *, interval_ms: int) -> None:
        """Look at a log each interval, until its misbehaviour is proven.

        Raises:
            StorageError: our own disk failed.
        """
        while not self._machine.is_misbehaved(log):
            async with _each(interval_ms):
                await self.look(log, audit)

    async def look(self, log: LogId, audit: Audit) -> None:
        """Look at a log once; what is wrong with its answers, or that there are none, becomes a suspicion.

        Raises:
            StorageError: our own disk failed.
        """
        try:
            await audit.look()
        except (
            MalformedError,
            SignatureError,
            InclusionError,
            ConsistencyError,
            UnsupportedError,
            ContradictedError,
        ) as exc:
            await self._suspect(log, Doubt.BAD_ANSWER, str(exc))
            await self._clear(log, Doubt.NO_ANSWER)
        except (UnavailableError, RefusedError, UndecidedError) as exc:
            await self._suspect(log, Doubt.NO_ANSWER, str(exc))
        except StorageError:
            raise
        except Exception:  # noqa: BLE001 -- whatever this log made us stumble over, the others are followed on
            _LOG.exception("a look at log %s failed over a defect of Treehead", self._logs[log].key.name)
            await self._suspect(log, Doubt.BAD_ANSWER, "its answers met a defect of Treehead; see the journal")
        else:
            self._logs[log].contact_ms = self._now_ms()
            await self._clear(log, Doubt.NO_ANSWER)
            await self._clear(log, Doubt.BAD_ANSWER)

    # --- talking to peers ---

    async def gossip(self, *, interval_ms: int) -> None:
        """Begin exchanges with peers each interval, for ever.

        Raises:
            StorageError: our own disk failed.
        """
        while True:
            async with _each(interval_ms):
                self._faulty.clear()
                await self._turn_on(Tick(at_ms=self._now_ms(), draw=self._random.getrandbits(DRAW_BITS)))
                await self._keep_contacts()

    async def hear_call(self, source: str, gossip: Gossip) -> Gossip:
        """Hear a peer's call; returns the answer.

        Raises:
            StorageError: our own disk failed.
        """
        heard = await self._open(gossip, source)

        async def turn() -> Gossip:
            await self._work_off(heard)
            return self._machine.answer(gossip)

        return await self._take_turn(turn)

    async def hear_answer(self, peer: str, gossip: Gossip) -> Gossip | None:
        """Hear a peer's answer; returns what to say to it, or None.

        Raises:
            StorageError: our own disk failed.
        """
        heard = await self._open(gossip, peer)

        async def turn() -> Gossip | None:
            await self._work_off(heard)
            return self._machine.follow_up(gossip)

        following = await self._take_turn(turn)
        await self._keep_contacts()
        return following

    async def _open(self, gossip: Gossip, source: str) -> Heard:
        """Before a turn is taken, and in a thread: it takes dozens of signature checks, and holds up nothing."""
        return await asyncio.to_thread(self._machine.open, gossip, source=source, at_ms=self._now_ms())

    # --- answering clients ---

    async def view(self, log: LogId, sizes: Sequence[int]) -> View | None:
        """How we see a log, with a proof for each of `sizes` up to our head's; None if we do not follow it.

        The head is the newest that we cosigned. Once misbehaviour is proven our cosignature is withheld: it said that
        the head is consistent. If the evidence is gone, too, nothing is shown: a client must not take our word for a
        log that we know to have misbehaved.

        Raises:
            StorageError: a tile cannot be read.
        """
        followed = self._logs.get(log)
        if followed is None:
            return None
        name, evidence = self._cosigner.vkey.name, self.evidence(log)
        is_misbehaved, head = self._machine.is_misbehaved(log), followed.head
        if head is None or (is_misbehaved and not evidence):
            return View(monitor=name, head=None, evidence=evidence)
        shown, size2 = head.note, head.size
        if followed.cosigned is not None and not is_misbehaved:
            shown, size2 = followed.cosigned.note, followed.cosigned.size
        prefixes = [
            Prefix(
                size=size,
                root=await followed.history.root_at(size),
                path=await followed.history.consistency(size, size2),
            )
            for size in dict.fromkeys(sizes)
            if size <= size2
        ]
        return View(monitor=name, head=shown, prefixes=tuple(prefixes), evidence=evidence)

    def evidence(self, log: LogId) -> tuple[Evidence, ...]:
        """The evidence against a followed log."""
        return tuple(parse_evidence(data) for data in self._machine.evidence(log))

    @property
    def followed(self) -> tuple[LogId, ...]:
        """The followed logs."""
        return tuple(self._logs)


@contextlib.asynccontextmanager
async def _each(interval_ms: int) -> AsyncIterator[None]:
    """Leave no sooner than an interval after entering."""
    loop = asyncio.get_running_loop()
    end = loop.time() + interval_ms / 1_000
    yield
    await asyncio.sleep(max(end - loop.time(), 0))
