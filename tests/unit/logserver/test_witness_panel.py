"""All witnesses of a policy at once: who is waited for, who is not, and what becomes of those that are late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import pytest

from tests.unit.library.specimens import LOG_KEY, NOW, ORIGIN, OTHER_LOG, signed_checkpoint
from tests.unit.logserver.witnesses import TIMEOUT_MS, Clock, GrowingLog, SystemTls, client_of, policy_witness, stand_in
from tests.witness_server import Reply, StandInWitness, WitnessServer
from treehead.cosignature import verify_cosignature
from treehead.errors import MalformedError, QuorumError, SignatureError
from treehead.note import Note, NoteSignature, format_note, parse_note
from treehead.policy import Group, Policy
from treehead.witness import parse_add_checkpoint
from treehead_logserver.witness.exchange import witness_transport
from treehead_logserver.witness.panel import Panel

SOON_SECONDS_MAX = 15
"""Far less than a witness may take to answer, and far more than anything here that is not a wait for one."""


class Gate:
    """A misbehaviour: answers when it is let, and as an honest witness does."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, witness: StandInWitness, body: bytes) -> Reply | None:
        self.came.set()
        await self.opened.wait()
        return witness.answer(body)


@dataclass(kw_only=True)
class Room:
    """A log with a panel of three witnesses, and what came late."""

    log: GrowingLog
    panel: Panel
    servers: tuple[WitnessServer, ...]
    late: asyncio.Queue[tuple[NoteSignature, int]]

    async def collect(self, note: Note | None = None) -> list[str]:
        """Have the log's checkpoint cosigned; the names of the witnesses that did so in time."""
        note = self.log.note() if note is None else note
        async with asyncio.timeout(SOON_SECONDS_MAX):
            lines = await self.panel.collect(format_note(note), size=self.log.size, prove=self.log.prove)
        return [self.checked(line, note) for line in lines]

    def checked(self, line: NoteSignature, note: Note) -> str:
        """Whose cosignature of the note a line is."""
        (server,) = (each for each in self.servers if each.witness.name == line.name)
        assert verify_cosignature(replace(note, signatures=(line,)), key=server.witness.vkey) == NOW
        return line.name

    async def next_late(self) -> tuple[str, int]:
        """The name and size of the next cosignature that comes late."""
        async with asyncio.timeout(SOON_SECONDS_MAX):
            line, size = await self.late.get()
        return self.checked(line, self.log.note(size)), size


@contextlib.asynccontextmanager
async def room(*, threshold: int, grace_ms: int = 0, first_timeout_ms: int = TIMEOUT_MS) -> AsyncIterator[Room]:
    """Three witnesses, of which the quorum is `threshold`, or nobody if that is 0; the first may have less time."""
    clock, log = Clock(), GrowingLog(7)
    async with contextlib.AsyncExitStack() as stack:
        transport = await stack.enter_async_context(witness_transport(SystemTls()))
        servers = [
            await stack.enter_async_context(WitnessServer(stand_in(clock, number=number)).listening())
            for number in (1, 2, 3)
        ]
        witnesses = tuple(policy_witness(server, name=b"w%d" % at) for at, server in enumerate(servers, start=1))
        group = Group(name=b"g", threshold=threshold, members=tuple(witness.name for witness in witnesses))
        policy = Policy(
            witnesses=witnesses,
            groups=(group,) if threshold else (),
            quorum=group.name if threshold else None,
        )
        clients = [
            client_of(server, log=log, transport=transport, clock=clock, name=witness.name, timeout_ms=timeout_ms)
            for server, witness, timeout_ms in zip(
                servers, witnesses, (first_timeout_ms, TIMEOUT_MS, TIMEOUT_MS), strict=True
            )
        ]
        panel = Panel(clients, policy=policy, log=LOG_KEY, grace_ms=grace_ms)
        stack.push_async_callback(panel.close)
        late: asyncio.Queue[tuple[NoteSignature, int]] = asyncio.Queue()
        panel.on_late = lambda line, size: late.put_nowait((line, size))
        yield Room(log=log, panel=panel, servers=tuple(servers), late=late)


W1, W2, W3 = "w1.example", "w2.example", "w3.example"
LONG_MS = 10 * SOON_SECONDS_MAX * 1_000


async def test_all_witnesses_are_asked_and_their_lines_are_in_the_order_of_the_policy() -> None:
    async with room(threshold=3) as at:
        gate = Gate()
        at.servers[0].misbehave = gate
        collecting = asyncio.create_task(at.collect())
        await gate.came.wait()
        gate.opened.set()
        assert await collecting == [W1, W2, W3]
        assert [(state.name, state.cosigned_size) for state in at.panel.states] == [("w1", 7), ("w2", 7), ("w3", 7)]
        assert at.panel.problem == ""


async def test_they_are_asked_at_the_same_time() -> None:
    async with room(threshold=3) as at:
        gates = [Gate() for _ in at.servers]
        for server, gate in zip(at.servers, gates, strict=True):
            server.misbehave = gate
        collecting = asyncio.create_task(at.collect())
        for gate in gates:
            await gate.came.wait()
        for gate in gates:
            gate.opened.set()
        assert await collecting == [W1, W2, W3]


async def test_when_all_have_answered_no_grace_is_given() -> None:
    async with room(threshold=2, grace_ms=LONG_MS) as at:
        assert await at.collect() == [W1, W2, W3]


async def test_a_witness_that_is_slower_than_the_quorum_is_waited_for_no_longer_than_the_grace() -> None:
    async with room(threshold=2) as at:
        at.servers[0].misbehave = "hang"
        assert await at.collect() == [W2, W3]


async def test_a_witness_that_answers_within_the_grace_is_among_them() -> None:
    async with room(threshold=2, grace_ms=LONG_MS) as at:
        at.servers[2].misbehave = "slow:50"
        assert await at.collect() == [W1, W2, W3]


async def test_what_comes_late_is_handed_on_with_its_size() -> None:
    async with room(threshold=2) as at:
        gate = at.servers[0].misbehave = Gate()
        assert await at.collect() == [W2, W3]
        gate.opened.set()
        assert await at.next_late() == (W1, 7)
        assert at.panel.states[0].cosigned_size == 7


async def test_a_witness_that_is_busy_is_asked_for_nothing_else_meanwhile() -> None:
    async with room(threshold=2) as at:
        gate = at.servers[0].misbehave = Gate()
        assert await at.collect() == [W2, W3]
        at.log.grow(3)
        assert await at.collect() == [W2, W3]
        assert len(at.servers[0].requests) == 1
        gate.opened.set()
        assert await at.next_late() == (W1, 7)
        assert await at.collect() == [W1, W2, W3]
        assert parse_add_checkpoint(at.servers[0].requests[-1].body).old_size == 7


async def test_without_the_quorum_everybody_is_waited_for_up_to_their_deadline() -> None:
    async with room(threshold=3, first_timeout_ms=50) as at:
        at.servers[0].misbehave = "hang"
        at.servers[1].misbehave = "refuse:503"
        assert await at.collect() == [W3]
        problems = ["witness w1 has not cosigned within 50 ms", at.panel.states[1].problem]
        assert at.panel.problem == "; ".join(problems)


async def test_a_policy_that_asks_for_nobody_waits_for_the_grace_only() -> None:
    async with room(threshold=0, grace_ms=50) as at:
        for server in at.servers:
            server.misbehave = "hang"
        assert await at.collect() == []
        at.panel.check(at.log.note())


async def test_a_panel_without_witnesses_has_nothing_to_wait_for() -> None:
    log = GrowingLog(7)
    panel = Panel([], policy=Policy(), log=LOG_KEY, grace_ms=LONG_MS)
    assert await panel.collect(format_note(log.note()), size=7, prove=log.prove) == ()
    assert (panel.states, panel.problem) == ((), "")
    panel.check(log.note())


async def test_the_quorum_counts_cosignatures_by_witnesses_of_the_policy_only() -> None:
    async with room(threshold=2) as at:
        note = at.log.note()
        lines = [server.witness.cosign(note) for server in at.servers]
        stranger = stand_in(Clock(), number=9).cosign(note)

        def check(*signatures: NoteSignature) -> None:
            at.panel.check(replace(note, signatures=(*note.signatures, *signatures)))

        check(*lines)
        check(lines[2], lines[0], stranger)
        for too_few in ([], lines[:1], [lines[1], stranger], [lines[0], replace(lines[1], key_id=bytes(4))]):
            with pytest.raises(QuorumError):
                check(*too_few)


async def test_witnesses_are_shown_no_signatures_but_the_logs() -> None:
    async with room(threshold=3) as at:
        note = at.log.note()
        cosigned = replace(note, signatures=(*note.signatures, at.servers[1].witness.cosign(note)))
        assert await at.collect(cosigned) == [W1, W2, W3]
        for server in at.servers:
            assert parse_note(parse_add_checkpoint(server.requests[0].body).checkpoint) == note


async def test_what_the_log_has_not_signed_is_shown_to_nobody() -> None:
    async with room(threshold=2) as at:
        with pytest.raises(SignatureError):
            await at.collect(signed_checkpoint(7, bytes(32), log=OTHER_LOG))
        with pytest.raises(MalformedError):
            await at.panel.collect(b"no note", size=7, prove=at.log.prove)
        assert [server.requests for server in at.servers] == [[], [], []]


async def test_who_is_asked_when_the_panel_is_closed_is_left_off_and_not_heard() -> None:
    async with room(threshold=2) as at:
        gate = at.servers[0].misbehave = Gate()
        assert await at.collect() == [W2, W3]
        await at.panel.close()
        assert at.panel._asked == {}
        gate.opened.set()
        assert at.late.empty()
        assert at.panel.states[0].cosigned_size == 0


async def test_closing_ends_a_round_that_is_under_way() -> None:
    async with room(threshold=3) as at:
        gate = at.servers[0].misbehave = Gate()
        collecting = asyncio.create_task(at.collect())
        await gate.came.wait()
        await at.panel.close()
        assert W1 not in await collecting


async def test_a_round_that_is_given_up_leaves_its_witnesses_to_finish() -> None:
    async with room(threshold=3) as at:
        gate = at.servers[0].misbehave = Gate()
        collecting = asyncio.create_task(at.collect())
        await gate.came.wait()
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting
        gate.opened.set()
        late = [await at.next_late()]
        while late[-1][0] != W1:  # the others may have been in time, or not
            late.append(await at.next_late())
        assert late[-1] == (W1, 7)


async def test_a_defect_over_one_witness_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with room(threshold=2) as at:
        asked = 0

        async def prove(size1: int, size2: int) -> Sequence[bytes]:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise ZeroDivisionError("a defect")
            return await at.log.prove(size1, size2)

        lines = await at.panel.collect(format_note(at.log.note()), size=7, prove=prove)
        assert [line.name for line in lines] == [W2, W3]
        assert "witness w1 failed over a defect of Treehead" in caplog.text
        assert "ZeroDivisionError: a defect" in caplog.text
        assert await at.collect() != []


async def test_a_late_cosignature_that_nobody_can_use_is_a_defect_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with room(threshold=2) as at:
        gate = at.servers[0].misbehave = Gate()
        done = asyncio.Event()

        def fail(line: NoteSignature, size: int) -> None:
            done.set()
            raise ZeroDivisionError("a defect")

        at.panel.on_late = fail
        assert await at.collect() == [W2, W3]
        gate.opened.set()
        await done.wait()
        at.servers[0].misbehave = ""
        assert await at.collect() == [W1, W2, W3]
        assert "ZeroDivisionError: a defect" in caplog.text


async def test_the_problems_of_many_witnesses_are_told_in_one_line() -> None:
    clock, log = Clock(), GrowingLog(7)
    async with (
        witness_transport(SystemTls()) as transport,
        WitnessServer(stand_in(clock), misbehave="refuse:404").listening() as server,
    ):
        clients = [
            client_of(server, log=log, transport=transport, clock=clock, name=b"w%d" % number) for number in range(5)
        ]
        panel = Panel(clients, policy=Policy(), log=LOG_KEY, grace_ms=LONG_MS)
        assert await panel.collect(format_note(log.note()), size=7, prove=log.prove) == ()
        assert panel.problem.count("answers 404") == 3
        assert panel.problem.endswith("; and 2 more have not cosigned")


async def test_a_log_is_witnessed_while_it_grows() -> None:
    async with room(threshold=2, grace_ms=LONG_MS) as at:
        for growth in (1, 0, 40, 255, 1):
            at.log.grow(growth)
            assert await at.collect() == [W1, W2, W3]
        assert {server.witness.latest(ORIGIN).size for server in at.servers} == {at.log.size}
