"""Health: a log is unwell when commits or publications do not come about, says which, and gets well by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.unit.library.specimens import LOG_KEY, NOW, ORIGIN, WITNESS_KEYS
from tests.unit.logserver.parts import Parts, Valve, create, parts
from tests.unit.logserver.witnesses import SystemTls
from treehead.errors import StorageError
from treehead.keys import format_vkey
from treehead.policy import parse_policy
from treehead_logserver.config import Limits
from treehead_logserver.heads import Heads
from treehead_logserver.health import Health
from treehead_logserver.metrics import Metrics
from treehead_logserver.publisher import Publisher
from treehead_logserver.storage.base import Publishing, Storage
from treehead_logserver.witness.answer import NoCosignatureError
from treehead_logserver.witness.client import WitnessClient
from treehead_logserver.witness.exchange import witness_transport
from treehead_logserver.witness.panel import Panel

DEADLINE_SECONDS = 30
STALL_MS = 20
LONG_MS = 3_600_000
NOBODY = "http://127.0.0.1:1"
"""Where no witness is."""


class Disk(Protocol):
    """What a publisher does with the disk, which a test may stand in the way of."""

    async def publish(self, note: bytes, *, size: int) -> None: ...


class Hanging:
    """A disk that answers nothing until it is `freed`."""

    def __init__(self) -> None:
        self.freed = asyncio.Event()

    async def publish(self, note: bytes, *, size: int) -> None:
        await self.freed.wait()


class Full:
    """A disk that takes nothing until there is `room`."""

    def __init__(self) -> None:
        self.room = False

    async def publish(self, note: bytes, *, size: int) -> None:
        if not self.room:
            raise StorageError("the disk is full")


class Standing:
    """The publishing half of an engine, with a disk of the test's own before it."""

    def __init__(self, storage: Publishing, disk: Disk) -> None:
        self._storage = storage
        self._disk = disk
        self.read_published = storage.read_published
        self.was_published = storage.was_published
        self.read_freeze = storage.read_freeze
        self.freeze = storage.freeze

    async def publish(self, note: bytes, *, size: int) -> None:
        await self._disk.publish(note, size=size)
        await self._storage.publish(note, size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A log of which somebody asks how it is."""

    parts: Parts
    health: Health
    published: Heads

    async def is_shown(self) -> None:
        """Returns when the first checkpoint is published."""
        await self.published.after(-1)

    async def becomes(self, is_so: Callable[[list[str]], bool]) -> list[str]:
        """Its problems, once they are so."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not is_so(problems := list(self.health.look().problems)):  # noqa: ASYNC110 -- time has to pass, too
                await asyncio.sleep(0)
        return problems


@contextlib.asynccontextmanager
async def patient(
    folder: Path,
    *,
    valve: list[Valve] | None = None,
    disk: Disk | None = None,
    panel: Panel | None = None,
    stall_ms: int = STALL_MS,
) -> AsyncIterator[Patient]:
    """Set a log to work; commits go through a `valve` that is added to the list, if there is one."""
    limits = Limits(publish_ms=1)

    def before(storage: Storage) -> Storage | Valve:
        if valve is None:
            return storage
        valve.append(Valve(storage))
        return valve[0]

    async with parts(create(folder), limits=limits, before=before) as log:
        published = Heads(None)
        publisher = Publisher(
            storage=log.storage if disk is None else Standing(log.storage, disk),
            heads=log.heads,
            published=published,
            prover=log.prover,
            panel=panel,
            fail_open=False,
            limits=limits,
            metrics=Metrics(origin=ORIGIN),
        )
        publishing = asyncio.create_task(publisher.run())
        try:
            health = Health(sequencer=log.sequencer, publisher=publisher, stall_ms=stall_ms)
            yield Patient(parts=log, health=health, published=published)
        finally:
            publishing.cancel()
            await asyncio.wait((publishing,))


def is_well(problems: list[str]) -> bool:
    return not problems


def is_unwell(problems: list[str]) -> bool:
    return bool(problems)


async def test_a_log_that_commits_and_publishes_is_well(tmp_path: Path) -> None:
    async with patient(tmp_path, stall_ms=LONG_MS) as log:
        assert list(log.health.look().problems) == []
        for number in range(5):
            await log.parts.submit(b"%d" % number)
            assert list(log.health.look().problems) == []


async def test_a_log_that_nobody_submits_to_stays_well(tmp_path: Path) -> None:
    async with patient(tmp_path) as log:
        await log.is_shown()
        await log.becomes(is_well)
        await asyncio.sleep(2 * STALL_MS / 1_000)
        assert list(log.health.look().problems) == []


async def test_a_commit_that_does_not_come_about_is_a_problem_until_it_does(tmp_path: Path) -> None:
    valves: list[Valve] = []
    async with patient(tmp_path, valve=valves) as log:
        await log.is_shown()
        await log.becomes(is_well)
        submission = asyncio.create_task(log.parts.submit(b"a"))
        (problem,) = await log.becomes(is_unwell)
        assert problem.startswith("a submission has waited to be committed for 0 s")
        valves[0].let_through()
        await submission
        await log.becomes(is_well)


async def test_submissions_that_wait_behind_a_commit_are_waited_for_as_well(tmp_path: Path) -> None:
    valves: list[Valve] = []
    async with patient(tmp_path, valve=valves) as log:
        await log.is_shown()
        await log.becomes(is_well)
        first = asyncio.create_task(log.parts.submit(b"a"))
        await valves[0].began.acquire()
        second = asyncio.create_task(log.parts.submit(b"b"))
        valves[0].let_through()
        await first
        await valves[0].began.acquire()
        assert "to be committed" in (await log.becomes(is_unwell))[0]
        valves[0].let_through()
        await second
        await log.becomes(is_well)


async def test_a_commit_that_takes_a_while_is_no_problem(tmp_path: Path) -> None:
    valves: list[Valve] = []
    async with patient(tmp_path, valve=valves, stall_ms=LONG_MS) as log:
        submission = asyncio.create_task(log.parts.submit(b"a"))
        await valves[0].began.acquire()
        assert list(log.health.look().problems) == []
        valves[0].let_through()
        await submission


async def test_commits_that_fail_are_a_problem_until_one_succeeds(tmp_path: Path) -> None:
    valves: list[Valve] = []
    async with patient(tmp_path, valve=valves) as log:
        await log.is_shown()
        await log.becomes(is_well)
        valves[0].before_commit = StorageError("the disk is full")
        valves[0].let_through()
        assert isinstance((await asyncio.gather(log.parts.submit(b"a"), return_exceptions=True))[0], Exception)
        (problem,) = await log.becomes(is_unwell)
        assert problem == "a commit failed 0 s ago, and none has succeeded since"
        valves[0].before_commit = None
        valves[0].let_through()
        await log.parts.submit(b"a")
        await log.becomes(is_well)


async def test_a_publication_that_hangs_is_a_problem_until_it_is_over(tmp_path: Path) -> None:
    disk = Hanging()
    async with patient(tmp_path, disk=disk) as log:
        (problem,) = await log.becomes(is_unwell)
        assert problem == "no checkpoint has been published for 0 s: nothing says why"
        disk.freed.set()
        await log.becomes(is_well)


async def test_a_publication_that_fails_is_a_problem_that_says_why(tmp_path: Path) -> None:
    disk = Full()
    async with patient(tmp_path, disk=disk) as log:
        (problem,) = await log.becomes(is_unwell)
        assert problem.startswith("no checkpoint has been published for 0 s: ")
        assert problem.endswith("the checkpoint of size 0 could not be stored, and the journal says why")
        disk.room = True
        await log.becomes(is_well)


async def test_a_quorum_that_is_not_met_is_a_problem_that_names_the_witness(tmp_path: Path) -> None:
    policy = parse_policy(f"witness w1 {format_vkey(WITNESS_KEYS['w1'])} {NOBODY}\nquorum w1\n".encode())
    async with witness_transport(SystemTls()) as transport:
        clients = [
            WitnessClient(witness, transport=transport, timeout_ms=LONG_MS, log_size=lambda: 0, now=lambda: float(NOW))
            for witness in policy.witnesses
        ]
        panel = Panel(clients, policy=policy, log=LOG_KEY, grace_ms=0)
        async with patient(tmp_path, panel=panel) as log:
            (problem,) = await log.becomes(is_unwell)
            assert "is not published" in problem
            assert "witness w1" in problem
        await panel.close()


async def test_an_alarm_of_a_witness_is_a_warning(tmp_path: Path) -> None:
    policy = parse_policy(f"witness w1 {format_vkey(WITNESS_KEYS['w1'])} {NOBODY}\nquorum none\n".encode())
    async with witness_transport(SystemTls()) as transport:
        (witness,) = policy.witnesses
        client = WitnessClient(witness, transport=transport, timeout_ms=LONG_MS, log_size=lambda: 0, now=lambda: NOW)
        panel = Panel([client], policy=policy, log=LOG_KEY, grace_ms=0)
        async with patient(tmp_path, panel=panel) as log:
            client._failed(NoCosignatureError("holds another tree", kind="fork", is_alarm=True))
            assert "witness w1 holds another tree" in log.health.look().warnings
            assert log.health.look().problems == ()
        await panel.close()


async def test_each_problem_is_told(tmp_path: Path) -> None:
    valves: list[Valve] = []
    disk = Hanging()
    async with patient(tmp_path, valve=valves, disk=disk) as log:
        submission = asyncio.create_task(log.parts.submit(b"a"))
        first, second = await log.becomes(lambda problems: len(problems) == 2)
        assert "committed" in first
        assert "published" in second
        valves[0].let_through()
        disk.freed.set()
        await submission
        await log.becomes(is_well)
