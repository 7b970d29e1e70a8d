"""What a monitor cosigns, what it answers, and that a hung-up caller cannot tear a turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.unit.library.specimens import LOG_KEY, POLICY, Tree, forked_trees, same_size_evidence, seen_head
from tests.unit.monitor.desk import NOW_MS, Desk, ScriptedLog, desk, leaves
from tests.unit.monitor.gossiper import LOG_ID, signed_head
from treehead.cosignature import verify_cosignature
from treehead.errors import MisbehaviourError, SignatureError, UndecidedError
from treehead.evidence import format_evidence, verify_evidence
from treehead.merkle import hash_leaf
from treehead.note import Note
from treehead.tile import RightEdge
from treehead.view import verify_view
from treehead_monitor.datadir import DataDirectory, create_monitor
from treehead_monitor.head import HeadDigest, LogId
from treehead_monitor.message import Gossip
from treehead_monitor.outbox import Outbox
from treehead_monitor.peer import PeerRecord
from treehead_monitor.status import read_status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_monitor(DataDirectory(path=tmp_path / "monitor"), name="monitor.example", passphrase=None)
    return tmp_path / "monitor"


async def head_shown(monitor: Desk) -> Note:
    view = await monitor.driver.view(LOG_ID, ())
    assert view is not None
    assert view.head is not None
    return view.head


def cosigned_at(monitor: Desk, note: Note) -> int:
    return verify_cosignature(note, key=monitor.cosigner.vkey)


# --- cosignatures ----------------------------------------------------------------------------------------------------


async def test_the_verified_head_is_cosigned_with_the_time_of_the_look(folder: Path) -> None:
    async with desk(folder, ScriptedLog(leaves(5))) as monitor:
        await monitor.look()
        head = await head_shown(monitor)
        assert cosigned_at(monitor, head) == NOW_MS // 1_000
        assert [line.name for line in head.signatures] == [LOG_KEY.name, monitor.cosigner.vkey.name]
        assert head.text == signed_head(Tree(leaves(5))).note.text


async def test_a_head_that_stays_is_cosigned_anew_after_a_while_and_not_while_the_log_is_silent(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        times = []
        for later_ms in (0, 9_999, 1, 10_000):
            monitor.now_ms += later_ms
            await monitor.look()
            times.append(cosigned_at(monitor, await head_shown(monitor)) - NOW_MS // 1_000)
        assert times == [0, 0, 10, 20]
        log.is_down = True
        monitor.now_ms += 60_000
        await monitor.look()
        assert cosigned_at(monitor, await head_shown(monitor)) == NOW_MS // 1_000 + 20


async def test_cosignatures_never_go_back_in_time_even_if_the_clock_does(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
    async with desk(folder, log) as monitor:
        monitor.now_ms -= 3_600_000
        log.leaves = leaves(6)
        await monitor.look()
        assert cosigned_at(monitor, await head_shown(monitor)) == NOW_MS // 1_000


async def test_a_smaller_head_is_not_cosigned_after_a_larger_one(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.checkpoint = log.checkpoint_of(3)
        monitor.now_ms += 60_000
        await monitor.look()
        head = await head_shown(monitor)
        assert head.text == signed_head(Tree(leaves(5))).note.text
        assert cosigned_at(monitor, head) == NOW_MS // 1_000
        with pytest.raises(ValueError, match="must not be cosigned"):
            monitor.cosigner.cosign(signed_head(Tree(leaves(3))), last=monitor.followed.cosigned, now_s=0)


async def test_a_cosignature_outlives_a_restart(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        before = await head_shown(monitor)
    log.is_down = True
    async with desk(folder, log) as monitor:
        assert await head_shown(monitor) == before


async def test_nothing_is_cosigned_once_misbehaviour_is_proven(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        gossip = Gossip(evidence=(format_evidence(same_size_evidence()),))
        await monitor.driver.hear_call("peer", gossip)
        monitor.now_ms += 60_000
        log.leaves = leaves(9)
        await monitor.look()
        await monitor.driver.confirm(LOG_ID)
        await monitor.driver.advance(signed_head(Tree(leaves(9))), edge=grown(monitor, 9), tiles={})
        head = await head_shown(monitor)
        with pytest.raises(SignatureError):
            verify_cosignature(head, key=monitor.cosigner.vkey)
    (status,) = read_status(monitor.directory).logs
    assert status.cosigned_at == NOW_MS // 1_000


def grown(monitor: Desk, size: int) -> RightEdge:
    edge = monitor.followed.history.edge()
    edge.append(map(hash_leaf, leaves(size)[edge.size :]))
    return edge


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4, 255, 256, 300])
async def test_a_client_with_a_head_of_our_tree_accepts_our_view(folder: Path, size: int) -> None:
    async with desk(folder, ScriptedLog(leaves(300))) as monitor:
        await monitor.look()
        view = await monitor.driver.view(LOG_ID, [size])
        assert view is not None
        theirs = verify_view(view, heads=[seen_head(signed_head(Tree(leaves(300)), size).note)], policy=POLICY)
        assert theirs.checkpoint.size == 300


@pytest.mark.parametrize("size", [1, 4, 255, 256, 299, 300])
async def test_a_client_with_a_head_of_another_tree_gets_proof_from_our_view(folder: Path, size: int) -> None:
    _, theirs = forked_trees(300, 0)
    async with desk(folder, ScriptedLog(leaves(300))) as monitor:
        await monitor.look()
        view = await monitor.driver.view(LOG_ID, [size])
        assert view is not None
        with pytest.raises(MisbehaviourError) as caught:
            verify_view(view, heads=[seen_head(signed_head(theirs, size).note)], policy=POLICY)
        verify_evidence(caught.value.evidence, key=LOG_KEY)


async def test_sizes_beyond_our_head_go_unanswered(folder: Path) -> None:
    async with desk(folder, ScriptedLog(leaves(5))) as monitor:
        await monitor.look()
        view = await monitor.driver.view(LOG_ID, [3, 6, 2**64 - 1, 3])
        assert view is not None
        assert [prefix.size for prefix in view.prefixes] == [3]
        with pytest.raises(UndecidedError):
            verify_view(view, heads=[seen_head(signed_head(Tree(leaves(6))).note)], policy=POLICY)


async def test_a_log_that_was_never_verified_has_a_view_without_a_head(folder: Path) -> None:
    async with desk(folder, ScriptedLog(leaves(5))) as monitor:
        view = await monitor.driver.view(LOG_ID, [0, 3])
        assert view is not None
        assert (view.head, view.prefixes) == (None, ())
        assert await monitor.driver.view(LogId(bytes(32)), []) is None


async def test_of_a_log_that_misbehaved_nothing_is_shown_when_the_evidence_is_gone(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        await monitor.driver.hear_call("peer", Gossip(evidence=(format_evidence(same_size_evidence()),)))
        shown = await monitor.driver.view(LOG_ID, [3])
        assert shown is not None
        assert shown.evidence
    for file in monitor.directory.evidence.iterdir():
        file.unlink()
    async with desk(folder, log) as monitor:
        assert monitor.driver.is_misbehaved(LOG_ID)
        view = await monitor.driver.view(LOG_ID, [3])
        assert view is not None
        assert (view.head, view.prefixes, view.evidence) == (None, (), ())
        with pytest.raises(UndecidedError):
            verify_view(view, heads=[seen_head(signed_head(Tree(leaves(3))).note)], policy=POLICY)


async def test_a_head_that_contradicts_a_parked_one_is_not_cosigned(folder: Path) -> None:
    _, theirs = forked_trees(12, 6)
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        await monitor.driver.hear_call("peer", Gossip(notes=(signed_head(theirs, 9).data,)))
        assert not monitor.driver.is_misbehaved(LOG_ID)
        log.leaves = leaves(12)
        await monitor.look()
        assert monitor.driver.is_misbehaved(LOG_ID)
    async with desk(folder, log) as monitor:
        assert monitor.known.cosigned is not None
        assert monitor.known.cosigned.size == 5


async def test_a_head_that_a_crash_kept_from_being_cosigned_is_cosigned_at_the_next_look(folder: Path) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        await monitor.store.advance(signed_head(Tree(leaves(9))), edge=grown(monitor, 9), tiles={}, at_ms=NOW_MS)
    log.leaves = leaves(9)
    async with desk(folder, log) as monitor:
        assert monitor.size == 9
        head = await head_shown(monitor)
        assert head.text == signed_head(Tree(leaves(5))).note.text
        view = await monitor.driver.view(LOG_ID, [3, 5, 9])
        assert view is not None
        assert [prefix.size for prefix in view.prefixes] == [3, 5]
        verify_view(view, heads=[seen_head(signed_head(Tree(leaves(3))).note)], policy=POLICY)
        await monitor.look()
        assert (await head_shown(monitor)).text == signed_head(Tree(leaves(9))).note.text


async def test_a_clock_that_was_ahead_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ScriptedLog(leaves(5))
    async with desk(folder, log) as monitor:
        await monitor.look()
        monitor.now_ms -= 3_600_000
        for _ in range(3):
            await monitor.look()
    assert caplog.text.count("the clock is 3600 s behind our last cosignature") == 1


# --- turns -----------------------------------------------------------------------------------------------------------


async def test_a_caller_who_hangs_up_does_not_tear_a_turn(folder: Path) -> None:
    """Whenever the caller leaves, memory and disk agree: evidence that is known is kept, and kept evidence is known."""
    for awaits in range(1, 12):
        data = format_evidence(same_size_evidence(awaits + 1))
        async with desk(folder, ScriptedLog()) as monitor:
            call = asyncio.create_task(monitor.driver.hear_call("peer", Gossip(evidence=(data,))))
            for _ in range(awaits):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await monitor.driver.finish()
            known = set(monitor.driver.evidence(LOG_ID))
        kept = {record.id for log in read_status(monitor.directory).logs for record in log.evidence}
        assert {evidence.id for evidence in known} <= kept
        files = {file.stem for file in monitor.directory.evidence.iterdir()}
        assert kept == files


# --- what nobody foresaw ---------------------------------------------------------------------------------------------


class BrokenLog(ScriptedLog):
    """A log whose answers meet a defect of ours."""

    async def newest_checkpoint(self) -> bytes:
        raise AttributeError("something that nobody foresaw")


async def test_an_unexpected_error_over_one_log_is_a_suspicion_and_ends_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with desk(folder, BrokenLog()) as monitor:
        await monitor.look()
        assert monitor.doubts() == {"bad-answer"}
    assert f"log {LOG_KEY.name} failed over a defect" in caplog.text


async def test_an_unexpected_error_over_one_peer_is_its_fault_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        outbox = Outbox(
            channel,
            record=PeerRecord(address="peer.example:1"),
            now_ms=lambda: NOW_MS,
            timeout_ms=1_000,
            messages_max=4,
            rounds_max=4,
        )
        outbox.offer(Gossip(wanted_notes=(HeadDigest(LOG_ID, -1, bytes(32)),)))  # which no message can hold
        running = asyncio.create_task(outbox.run(monitor_that_says_nothing))
        async with asyncio.timeout(10):
            while not outbox.record.failures:
                assert not running.done()
                await asyncio.sleep(0)
        running.cancel()
    assert (outbox.record.failures, outbox.record.faults) == (1, 1)
    assert "peer peer.example:1 failed over a defect" in caplog.text


async def monitor_that_says_nothing(_peer: str, _gossip: Gossip) -> Gossip | None:
    return None
