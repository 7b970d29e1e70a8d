"""Publication: who is shown which checkpoint when, what late and older cosignatures change, and what ends the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG_KEY, NOW, ORIGIN, WITNESS_KEYS, WITNESSES
from tests.unit.logserver.parts import Parts, create, parts
from treehead.checkpoint import open_checkpoint
from treehead.cosignature import cosign, verify_cosignature
from treehead.errors import StorageError, UnavailableError
from treehead.keys import format_vkey
from treehead.note import Note, NoteSignature, parse_note
from treehead.policy import parse_policy
from treehead_logserver.config import Limits
from treehead_logserver.heads import Heads
from treehead_logserver.metrics import Metrics
from treehead_logserver.publisher import Publisher
from treehead_logserver.storage.base import UnknownOutcomeError
from treehead_logserver.witness.client import Prove
from treehead_logserver.witness.panel import Panel

DEADLINE_SECONDS = 30
LINES = "".join(f"witness {name} {format_vkey(key)} http://{name}.example\n" for name, key in WITNESS_KEYS.items())
POLICY = parse_policy(f"{LINES}group enough 2 {' '.join(WITNESS_KEYS)}\nquorum enough\n".encode())


def line(note: Note, name: str, *, time: int = NOW) -> NoteSignature:
    return cosign(note.text, key=WITNESSES[name], name=WITNESS_KEYS[name].name, timestamp=time)


class Scripted(Panel):
    """A panel of which `willing` cosign, at `time`, each checkpoint that they are shown."""

    def __init__(self) -> None:
        super().__init__([], policy=POLICY, log=LOG_KEY, grace_ms=0)
        self.willing: Sequence[str] = ("w1", "w2", "w3")
        self.time = NOW
        self.asked: list[int] = []
        self.again = asyncio.Event()

    async def collect(self, checkpoint: bytes, *, size: int, prove: Prove) -> tuple[NoteSignature, ...]:
        self.asked.append(size)
        self.again.set()
        return tuple(line(parse_note(checkpoint), name, time=self.time) for name in self.willing)

    async def is_asked_again(self) -> None:
        self.again.clear()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.again.wait()


@dataclass(slots=True, kw_only=True)
class Publication:
    """A log whose publisher is at work."""

    parts: Parts
    panel: Scripted
    published: Heads
    publisher: Publisher
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def shown(self, size: int) -> Note:
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = await self.published.after(size - 1)
        assert head is not None
        return parse_note(head.checkpoint)

    async def becomes(self, *names: str, time: int = NOW) -> None:
        """Returns when just these have cosigned what is shown, at this time."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while cosigners(parse_note(self.published.newest.checkpoint)) != dict.fromkeys(names, time):
                await self.published.change()


def cosigners(note: Note) -> dict[str, int]:
    return {name: verify_cosignature(note, key=key) for name, key in WITNESS_KEYS.items() if note.by(key) is not None}


@contextlib.asynccontextmanager
async def publication(
    folder: Path, *, fail_open: bool = False, publish_ms: int = 1, refresh_s: int = 3_600, witnessed_ms: int = 20_000
) -> AsyncIterator[Publication]:
    limits = Limits(publish_ms=publish_ms, refresh_s=refresh_s, witnessed_ms=witnessed_ms)
    async with parts(create(folder)) as log:
        published, panel = Heads(None), Scripted()
        publisher = Publisher(
            storage=log.storage,
            heads=log.heads,
            published=published,
            prover=log.prover,
            panel=panel,
            fail_open=fail_open,
            limits=limits,
            metrics=Metrics(origin=ORIGIN),
        )
        made = Publication(parts=log, panel=panel, published=published, publisher=publisher)
        made.tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(publisher.amend())]
        try:
            yield made
        finally:
            for task in made.tasks:
                task.cancel()
            await asyncio.wait(made.tasks)


async def test_what_is_shown_is_stored_with_its_cosignatures(tmp_path: Path) -> None:
    async with publication(tmp_path) as log:
        await log.parts.submit(b"a")
        note = await log.shown(1)
        assert cosigners(note) == {"w1": NOW, "w2": NOW, "w3": NOW}
        stored = await log.parts.storage.read_published()
        assert stored == log.published.newest.checkpoint
        assert open_checkpoint(stored, key=LOG_KEY).size == 1
        assert await log.parts.storage.was_published(first_size=1, end_size=2)


async def test_publications_keep_their_distance_and_an_idle_log_publishes_at_once(tmp_path: Path) -> None:
    now = asyncio.get_running_loop().time
    async with publication(tmp_path, publish_ms=400) as log:
        await log.shown(0)
        first = now()
        await log.parts.submit(b"a")
        await log.parts.submit(b"b")
        await log.shown(1)
        assert now() - first >= 0.35
        assert log.published.size == 2, "what came meanwhile is published together"
        await asyncio.sleep(0.5)  # for longer than the interval
        idle = now()
        await log.parts.submit(b"c")
        await log.shown(3)
        assert now() - idle < 0.35


async def test_without_the_quorum_the_checkpoint_before_stays(tmp_path: Path) -> None:
    async with publication(tmp_path) as log:
        await log.shown(0)
        log.panel.willing = ("w1",)
        await log.parts.submit(b"a")
        for _ in range(3):
            await log.panel.is_asked_again()
        assert log.published.size == 0
        state = log.publisher.state
        assert "size 1 is not published" in state.problem
        assert state.behind_s > 0
        assert state.withheld_s > 0
        log.panel.willing = ("w1", "w3")
        assert cosigners(await log.shown(1)) == {"w1": NOW, "w3": NOW}
        assert (log.publisher.state.problem, log.publisher.state.behind_s) == ("", 0.0)


async def test_a_log_that_fails_open_shows_what_it_has_and_goes_on_asking(tmp_path: Path) -> None:
    async with publication(tmp_path, fail_open=True) as log:
        log.panel.willing = ()
        await log.parts.submit(b"a")
        assert cosigners(await log.shown(1)) == {}
        assert not log.publisher.state.quorum_met
        log.panel.willing = ("w1", "w2")
        await log.becomes("w1", "w2")
        assert log.publisher.state.quorum_met


async def test_a_late_cosignature_is_added_to_the_checkpoint_that_it_is_for(tmp_path: Path) -> None:
    async with publication(tmp_path) as log:
        log.panel.willing = ("w1", "w2")
        await log.parts.submit(b"a")
        note = await log.shown(1)
        log.panel.on_late(line(note, "w3"), 0)
        log.panel.on_late(line(note, "w3"), 1)
        await log.becomes("w1", "w2", "w3")
        assert await log.parts.storage.read_published() == log.published.newest.checkpoint


async def test_a_cosignature_for_an_earlier_checkpoint_is_of_no_use(tmp_path: Path) -> None:
    async with publication(tmp_path) as log:
        log.panel.willing = ("w1", "w2")
        before = await log.shown(0)
        await log.parts.submit(b"a")
        note = await log.shown(1)
        log.panel.on_late(line(before, "w3"), 0)
        log.panel.on_late(line(note, "w2", time=NOW + 1), 1)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while cosigners(parse_note(log.published.newest.checkpoint)) != {"w1": NOW, "w2": NOW + 1}:
                await log.published.change()


async def test_an_idle_log_renews_its_cosignatures_and_takes_no_older_ones(tmp_path: Path) -> None:
    async with publication(tmp_path, refresh_s=0) as log:
        await log.shown(0)
        log.panel.time = NOW + 600
        await log.becomes("w1", "w2", "w3", time=NOW + 600)
        log.panel.time = NOW
        for _ in range(3):
            await log.panel.is_asked_again()
        assert cosigners(parse_note(log.published.newest.checkpoint)) == dict.fromkeys(WITNESS_KEYS, NOW + 600)


async def test_a_witnessed_proof_waits_for_the_quorum_though_the_checkpoint_was_shown_before(tmp_path: Path) -> None:
    async with publication(tmp_path, fail_open=True, witnessed_ms=50) as log:
        log.panel.willing = ("w1",)
        await log.parts.submit(b"a")
        assert (await log.publisher.published_with(0)).size == 1
        log.publisher._fail_open = False  # as after a restart with another log.toml
        with pytest.raises(UnavailableError, match="entry 0 is logged and not witnessed yet"):
            await log.publisher.published_with(0)
        log.panel.willing = ("w1", "w2")
        await log.becomes("w1", "w2")
        assert (await log.publisher.published_with(0)).size == 1


async def test_who_waits_for_the_quorum_of_what_is_shown_is_told_when_the_log_stops(tmp_path: Path) -> None:
    async with publication(tmp_path, fail_open=True) as log:
        log.panel.willing = ()
        await log.parts.submit(b"a")
        await log.shown(1)
        log.publisher._fail_open = False  # as after a restart with another log.toml
        waiting = asyncio.create_task(log.publisher.published_with(0))
        await asyncio.sleep(0)
        log.published.close()
        for submission in (waiting, log.publisher.published_with(0)):
            with pytest.raises(UnavailableError, match="entry 0 is logged and not witnessed yet"):
                await asyncio.wait_for(submission, DEADLINE_SECONDS)


async def test_a_quorum_of_old_cosignatures_does_not_hide_that_nobody_renews_them(tmp_path: Path) -> None:
    async with publication(tmp_path, refresh_s=0) as log:
        await log.shown(0)
        log.panel.willing = ("w1",)
        log.panel.time = NOW + 600
        async with asyncio.timeout(DEADLINE_SECONDS):
            while "size 0 was not cosigned anew" not in log.publisher.state.problem:
                await log.panel.is_asked_again()
            assert log.publisher.state.withheld_s >= 0
            assert cosigners(parse_note(log.published.newest.checkpoint))["w2"] == NOW
            log.panel.willing = ("w1", "w2")
            while log.publisher.state.problem:
                await log.panel.is_asked_again()


async def test_what_cannot_be_stored_is_not_shown_and_its_reason_is_for_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with publication(tmp_path) as log:
        await log.shown(0)

        async def full(note: bytes, *, size: int) -> None:
            raise StorageError(f"{tmp_path}/log.sqlite: the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(log.parts.storage, "publish", full)
            await log.parts.submit(b"a")
            await log.panel.is_asked_again()
            await log.panel.is_asked_again()
            assert log.published.size == 0
            assert str(tmp_path) not in log.publisher.state.problem
            assert str(tmp_path) in caplog.text
        await log.shown(1)


@pytest.mark.parametrize("late", [False, True])
async def test_an_unknown_outcome_ends_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    async with publication(tmp_path) as log:
        log.panel.willing = ("w1", "w2")
        note = await log.shown(0)

        async def unknown(note: bytes, *, size: int) -> None:
            raise UnknownOutcomeError("the commit failed")

        monkeypatch.setattr(log.parts.storage, "publish", unknown)
        if late:
            log.panel.on_late(line(note, "w3"), 0)
        else:
            await log.parts.submit(b"a")
        with pytest.raises(UnknownOutcomeError):
            await asyncio.wait_for(log.tasks[late], DEADLINE_SECONDS)
