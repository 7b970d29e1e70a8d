"""A monitor, a real log and a real peer: following, what a client is told, restarts and kills, and who may be down."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from tests.monitors import MonitorProcess, add, leaf, monitor_command, new_monitor
from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import LOG_KEY, Tree, same_size_evidence
from tests.unit.monitor.gossiper import signed_head
from treehead.checkpoint import open_checkpoint
from treehead.cosignature import verify_cosignature
from treehead.errors import UndecidedError
from treehead.evidence import format_evidence
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.note import parse_note
from treehead.policy import Policy, PolicyLog, SignedHead, verify_head
from treehead.v1 import log_pb2, monitor_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.v1.monitor_pb2_grpc import MonitorStub
from treehead.view import verify_view
from treehead.wire import view_from_wire
from treehead_monitor.status import State

ORIGIN = "log.example/monitored"
DEADLINE_S = 10


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[tuple[str, LogProcess]]:
    vkey = await create_log(tmp_path / "log", origin=ORIGIN)
    async with LogProcess(tmp_path / "log") as process:
        yield vkey, process


async def newest(log: LogProcess, key: VerifierKey) -> SignedHead:
    async with grpc.aio.insecure_channel(log.address) as channel:
        answer = await LogStub(channel).GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=DEADLINE_S)
    return verify_head(Policy(logs=(PolicyLog(key=key),)), parse_note(answer.checkpoint))


async def test_a_log_is_followed_and_the_view_convinces_a_client(tmp_path: Path, log: tuple[str, LogProcess]) -> None:
    vkey, process = log
    key, cosigner = parse_vkey(vkey), new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, process.address)])
    heads = []
    async with monitor:
        await monitor.says("verified to size 0")
        for size in (1, 4, 300):
            await add(process.address, [leaf(number) for number in range(size)])
            heads.append(await newest(process, key))
            await monitor.says(f"verified to size {size}")
        view = view_from_wire(await monitor.view(vkey, *(head.checkpoint.size for head in heads)), monitor="m")
        policy = Policy(logs=(PolicyLog(key=key),))
        assert verify_view(view, heads=heads, policy=policy).checkpoint == heads[-1].checkpoint
        assert view.head is not None
        assert verify_cosignature(view.head, key=cosigner) > 0
        printed = await monitor_command("status", "--data", tmp_path / "monitor", "--json")
        status = json.loads(printed.stdout)["logs"][0]
        assert printed.exit_code == 0
        assert (status["origin"], status["size"], status["state"], status["vkey"]) == (ORIGIN, 300, "ok", vkey)
        assert open_checkpoint(status["checkpoint"].encode(), key=parse_vkey(vkey)).size == 300
        assert await monitor.stop() == 0
    told = await monitor_command("status", "--data", tmp_path / "monitor")
    assert (told.exit_code, told.stdout.splitlines()[0]) == (0, f"log {ORIGIN}: ok")
    assert "verified size 300" in told.stdout


async def test_a_long_catch_up_survives_kills_and_fetches_on(tmp_path: Path, log: tuple[str, LogProcess]) -> None:
    vkey, process = log
    await add(process.address, [leaf(number) for number in range(2_000)])
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, process.address)])
    chance = random.Random(7)
    for _ in range(4):
        await monitor.start()
        await asyncio.sleep(chance.uniform(0, 0.06))  # a moment to be killed at, not a condition to wait for
        await monitor.kill()
    async with monitor:
        await monitor.says("monitor.example")
        if monitor.log().size != 2_000:
            await monitor.says("verified to size 2000")
        assert monitor.log().root == (await newest(process, parse_vkey(vkey))).checkpoint.root
        assert await monitor.stop() == 0


async def test_what_a_killed_monitor_knew_it_knows_again_without_the_log(
    tmp_path: Path, log: tuple[str, LogProcess]
) -> None:
    vkey, process = log
    await add(process.address, [leaf(number) for number in range(300)])
    head = await newest(process, parse_vkey(vkey))
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, process.address)])
    async with monitor:
        await monitor.says("verified to size 300")
        before = await monitor.view(vkey, 17, 256)
        await monitor.kill()
    await process.stop()
    assert monitor.log().size == 300
    async with monitor:
        after = await monitor.view(vkey, 17, 256)
        assert after == before
        await monitor.says("suspicion (no-answer)")
        assert monitor.log().state is State.SUSPICION
        status = await monitor_command("status", "--data", tmp_path / "monitor")
        assert (status.exit_code, "suspicion (no-answer) since " in status.stdout) == (3, True)
        await process.start()
        moved = process.address
        assert await monitor.stop() == 0
    again = MonitorProcess(tmp_path / "monitor", logs=[(vkey, moved)])
    async with again:
        await again.says("no longer suspected (no-answer)")
        view = view_from_wire(await again.view(vkey, 300), monitor="m")
        verify_view(view, heads=[head], policy=Policy(logs=(PolicyLog(key=parse_vkey(vkey)),)))
    with closing(sqlite3.connect(tmp_path / "monitor" / "monitor.sqlite")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


async def test_a_killed_monitor_still_holds_its_evidence_and_parked_heads(tmp_path: Path) -> None:
    tree = Tree(b"leaf %d" % index for index in range(9))
    evidence = format_evidence(same_size_evidence())
    new_monitor(tmp_path / "monitor")
    nowhere = (format_vkey(LOG_KEY), "127.0.0.1:1")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[nowhere], more=["--resolve-ms", "10"])
    async with monitor:
        await monitor.exchange(monitor_pb2.Gossip(notes=[signed_head(tree).data]))
        await monitor.kill()
    (parked,) = monitor.log().parked
    assert (parked.size, parked.root, parked.source.startswith("caller ")) == (9, tree.root(), True)
    async with monitor:
        await monitor.says("suspicion (unresolved)")
        assert monitor.log().state is State.SUSPICION
        answer = await monitor.exchange(monitor_pb2.Gossip(evidence=[evidence]))
        assert len(answer.evidence_ids) == 1
        await monitor.kill()
    assert monitor.log().state is State.MISBEHAVED
    async with monitor:
        assert list((await monitor.view(format_vkey(LOG_KEY))).evidence) == [evidence]
        assert await monitor.stop() == 4


async def test_evidence_whose_row_was_lost_in_a_crash_is_taken_up_again(tmp_path: Path) -> None:
    evidence = same_size_evidence()
    new_monitor(tmp_path / "monitor")
    file = tmp_path / "monitor" / "evidence" / f"{evidence.id}.evidence"
    file.write_bytes(format_evidence(evidence))
    file.with_name("x.evidence").write_bytes(b"nonsense")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(format_vkey(LOG_KEY), "127.0.0.1:1")])
    async with monitor:
        assert await monitor.stop() == 4
    file.unlink()
    async with monitor:
        assert "is gone" in monitor.stderr
        assert await monitor.stop() == 4
    other = MonitorProcess(tmp_path / "monitor", logs=[(UNKNOWN, "127.0.0.1:1")])
    async with other:
        assert await other.stop() == 4, "what is proven of a log stays, though it is followed no longer"
    assert {log.vkey: (log.followed, bool(log.evidence)) for log in other.status().logs} == {
        format_vkey(LOG_KEY): (False, True),
        UNKNOWN: (True, False),
    }
    assert (await monitor_command("status", "--data", tmp_path / "monitor")).exit_code == 4
    # Nor does it depend on whether anybody can read it.
    unread = f'exec "{sys.executable}" -m treehead_monitor status --data "$1" | true; exit ${{PIPESTATUS[0]}}'
    done = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", unread, "bash", str(tmp_path / "monitor"), stderr=PIPE
    )
    _, complaint = await asyncio.wait_for(done.communicate(), 30)
    assert (done.returncode, b"Traceback" in complaint) == (4, False)


async def test_a_peer_that_is_down_is_no_harm_and_is_found_when_it_is_back(
    tmp_path: Path, log: tuple[str, LogProcess]
) -> None:
    vkey, process = log
    new_monitor(tmp_path / "one")
    new_monitor(tmp_path / "two")
    two = MonitorProcess(tmp_path / "two", logs=[(vkey, process.address)])
    async with two:
        address = two.address
        one = MonitorProcess(tmp_path / "one", logs=[(vkey, process.address)], peers=[address, "127.0.0.1:1"])
        async with one:
            await one.says("peer 127.0.0.1:1 gave no answer")
            await two.kill()
            await one.says(f"peer {address} gave no answer")
            await add(process.address, [leaf(1)])
            await one.says("verified to size 1")
            assert one.log().state is State.OK
            again = MonitorProcess(tmp_path / "two", logs=[(vkey, process.address)], grpc=address)
            async with again:
                await one.says(f"peer {address} answers again")
                await again.says("verified to size 1")
            assert await one.stop() == 0
    peers = {peer.address: peer for peer in one.status().peers}
    assert peers["127.0.0.1:1"].contact_ms is None
    assert peers["127.0.0.1:1"].failures > 0
    assert peers[address].contact_ms is not None
    told = (await monitor_command("status", "--data", tmp_path / "one")).stdout
    assert "peer 127.0.0.1:1: has not answered yet, failing since " in told
    assert f"peer {address}: answered last " in told


# --- the service -----------------------------------------------------------------------------------------------------

CODE = grpc.StatusCode
UNKNOWN = format_vkey(VerifierKey(name="other", key_type=NoteKeyType.ED25519, public_key=bytes(32)))
DIGEST = monitor_pb2.HeadDigest(log_id=bytes(32), size=1, root=bytes(32))
HOSTILE = {
    "a_short_log_id": monitor_pb2.Gossip(heads=[monitor_pb2.HeadDigest(log_id=b"x", root=bytes(32))]),
    "no_root": monitor_pb2.Gossip(wanted_notes=[monitor_pb2.HeadDigest(log_id=bytes(32))]),
    "a_size_of_64_bits": monitor_pb2.Gossip(
        heads=[monitor_pb2.HeadDigest(log_id=bytes(32), size=2**64 - 1, root=bytes(32))]
    ),
    "too_many_heads": monitor_pb2.Gossip(heads=[DIGEST] * 257),
    "too_many_wishes": monitor_pb2.Gossip(wanted_notes=[DIGEST] * 257),
    "too_many_notes": monitor_pb2.Gossip(notes=[b"x"] * 65),
    "a_note_too_large": monitor_pb2.Gossip(notes=[bytes(65_537)]),
    "a_short_id": monitor_pb2.Gossip(evidence_ids=[b"x"]),
    "too_many_ids": monitor_pb2.Gossip(wanted_evidence=[bytes(32)] * 257),
    "too_much_evidence": monitor_pb2.Gossip(evidence=[b"x"] * 17),
    "evidence_too_large": monitor_pb2.Gossip(evidence=[bytes(65_537)]),
}


async def test_hostile_calls_are_refused_with_a_reason_and_change_nothing(
    tmp_path: Path, log: tuple[str, LogProcess]
) -> None:
    vkey, process = log
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, process.address)])
    async with monitor, grpc.aio.insecure_channel(monitor.address) as channel:
        stub = MonitorStub(channel)

        async def refused(call: grpc.aio.UnaryUnaryCall, code: CODE, part: str) -> None:  # type: ignore[type-arg]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert (caught.value.code(), part in str(caught.value.details())) == (code, True), caught.value

        for gossip in HOSTILE.values():
            request = monitor_pb2.ExchangeRequest(gossip=gossip)
            await refused(stub.Exchange(request, timeout=DEADLINE_S), CODE.INVALID_ARGUMENT, "field gossip.")
        for text in ("", "nonsense", "a+b+c", "x" * 100_000, vkey + "\n", vkey[:-1]):
            request_ = monitor_pb2.GetViewRequest(vkey=text)
            await refused(stub.GetView(request_, timeout=DEADLINE_S), CODE.INVALID_ARGUMENT, "field vkey")
        many = monitor_pb2.GetViewRequest(vkey=vkey, sizes=range(9))
        await refused(stub.GetView(many, timeout=DEADLINE_S), CODE.INVALID_ARGUMENT, "field sizes")
        view = monitor_pb2.GetViewRequest(vkey=UNKNOWN)
        await refused(stub.GetView(view, timeout=DEADLINE_S), CODE.NOT_FOUND, "does not follow")
        evidence = monitor_pb2.GetEvidenceRequest(vkey=UNKNOWN)
        await refused(stub.GetEvidence(evidence, timeout=DEADLINE_S), CODE.NOT_FOUND, "does not follow")
        huge = monitor_pb2.ExchangeRequest(gossip=monitor_pb2.Gossip(notes=[bytes(9_000_000)]))
        await refused(stub.Exchange(huge, timeout=DEADLINE_S), CODE.RESOURCE_EXHAUSTED, "")
        nonsense = monitor_pb2.Gossip(notes=[b"x"] * 64, evidence=[b"y"] * 16, heads=[DIGEST], evidence_ids=[bytes(32)])
        answer = await monitor.exchange(nonsense)
        assert list(answer.wanted_notes) == []
        assert list(answer.wanted_evidence) == [bytes(32)]
        assert list((await stub.GetEvidence(monitor_pb2.GetEvidenceRequest(), timeout=DEADLINE_S)).evidence) == []
        assert await monitor.stop() == 0
    assert "Traceback" not in monitor.stderr
    assert monitor.log().state is State.OK


async def test_a_view_without_a_head_leaves_the_client_undecided(tmp_path: Path, log: tuple[str, LogProcess]) -> None:
    vkey, process = log
    head = await newest(process, parse_vkey(vkey))
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, "127.0.0.1:1")])
    async with monitor:
        view = view_from_wire(await monitor.view(vkey, 0), monitor="m")
        with pytest.raises(UndecidedError, match="no verified head"):
            verify_view(view, heads=[head], policy=Policy(logs=(PolicyLog(key=parse_vkey(vkey)),)))
