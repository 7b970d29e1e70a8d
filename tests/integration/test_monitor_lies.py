"""A log that answers over gRPC with what it should not: always a suspicion, never proof, and gone once it is honest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.monitors import Garbling, MonitorProcess, add, garbling_server, leaf, new_monitor
from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import LOG_KEY, Tree
from tests.unit.monitor.desk import desk, leaves
from tests.unit.monitor.gossiper import LOG_ID, signed_head
from treehead.keys import format_vkey
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogServicer, add_LogServicer_to_server
from treehead.wire import SERVER_OPTIONS
from treehead_monitor.source import GrpcSource
from treehead_monitor.status import State

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import _ServicerContext as Context

VERIFIED, SIZE = 4, 10
TIMEOUT_MS = 2_000
Pages = Callable[[log_pb2.GetEntriesRequest], list[log_pb2.GetEntriesResponse]]


def honest(request: log_pb2.GetEntriesRequest) -> list[log_pb2.GetEntriesResponse]:
    wanted = leaves(SIZE)[request.first_index : request.end_index]
    return [log_pb2.GetEntriesResponse(first_index=request.first_index, leaves=wanted)]


class LyingLog(LogServicer):
    """Signs the head of a tree; the test writes what it sends as entries (None: nothing), and to other calls."""

    def __init__(self) -> None:
        self.tree = Tree(leaves(SIZE))
        self.size = SIZE
        self.pages: Pages | None = honest
        self.hashes: list[bytes] | None = None
        self.garbling = Garbling()

    async def GetCheckpoint(
        self, request: log_pb2.GetCheckpointRequest, context: Context
    ) -> log_pb2.GetCheckpointResponse:
        return log_pb2.GetCheckpointResponse(checkpoint=signed_head(self.tree, self.size).data)

    async def GetEntries(
        self, request: log_pb2.GetEntriesRequest, context: Context
    ) -> AsyncIterator[log_pb2.GetEntriesResponse]:
        if self.pages is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no entries here")
        for page in self.pages(request):
            yield page

    async def GetConsistencyProof(
        self, request: log_pb2.GetConsistencyProofRequest, context: Context
    ) -> log_pb2.GetConsistencyProofResponse:
        if self.hashes is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no proofs here")
        return log_pb2.GetConsistencyProofResponse(hashes=self.hashes)

    async def GetInclusionProof(
        self, request: log_pb2.GetInclusionProofRequest, context: Context
    ) -> log_pb2.GetInclusionProofResponse:
        if self.hashes is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no proofs here")
        return log_pb2.GetInclusionProofResponse(hashes=self.hashes)


@asynccontextmanager
async def serving(servicer: LyingLog) -> AsyncIterator[str]:
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[servicer.garbling])
    port = server.add_insecure_port("127.0.0.1:0")
    add_LogServicer_to_server(servicer, server)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def new_log() -> LyingLog:
    return LyingLog()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED


@pytest.fixture
async def lying_log() -> AsyncIterator[tuple[LyingLog, str]]:
    servicer = new_log()
    async with serving(servicer) as address:
        yield servicer, address


def page(first_index: int, *sent: bytes) -> list[log_pb2.GetEntriesResponse]:
    return [log_pb2.GetEntriesResponse(first_index=first_index, leaves=sent)]


LIES: dict[str, Pages] = {
    "nothing": lambda request: [],
    "an_empty_page": lambda request: page(request.first_index),
    "other_entries": lambda request: page(request.first_index, *leaves(SIZE - VERIFIED, kind="other")),
    "entries_in_another_order": lambda request: page(request.first_index, *leaves(SIZE)[: VERIFIED - 1 : -1]),
    "from_another_index": lambda request: page(0, *leaves(SIZE)[VERIFIED:]),
    "more_than_was_asked_for": lambda request: page(request.first_index, *leaves(SIZE - VERIFIED + 1, begin=VERIFIED)),
    "the_same_page_twice": lambda request: page(request.first_index, leaves(SIZE)[VERIFIED]) * 2,
    "an_entry_too_large": lambda request: page(request.first_index, bytes(65_536)),
    "an_index_of_64_bits": lambda request: page(2**64 - 1, b"x"),
}
PROOFS: dict[str, list[bytes] | None] = {
    "refused": None,
    "empty": [],
    "short_hashes": [b"x"],
    "random": [bytes(32)] * 3,
    "endless": [bytes(32)] * 1_000,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("verified", [VERIFIED - 1, VERIFIED])
async def test_wrong_entries_are_a_suspicion_and_leave_the_verified_tree_alone(
    tmp_path: Path, lying_log: tuple[LyingLog, str], lie: str, verified: int
) -> None:
    servicer, address = lying_log
    new_monitor(tmp_path / "monitor")
    source = GrpcSource.connect(address, timeout_ms=TIMEOUT_MS, reconnect_ms=100)
    async with desk(tmp_path / "monitor", source) as monitor:
        servicer.size = verified
        await monitor.look()
        servicer.size, servicer.pages = SIZE, LIES[lie]
        for hashes in PROOFS.values():
            servicer.hashes = hashes
            await monitor.look()
            assert monitor.doubts() == {"bad-answer"}
            assert not monitor.driver.is_misbehaved(LOG_ID)
            assert monitor.size == verified
        servicer.pages = honest
        await monitor.look()
        assert (monitor.size, monitor.doubts()) == (SIZE, set())
    await source.close()


async def test_a_lying_log_is_shown_as_suspect_by_a_real_monitor(
    tmp_path: Path, lying_log: tuple[LyingLog, str]
) -> None:
    servicer, address = lying_log
    servicer.pages = LIES["other_entries"]
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(format_vkey(LOG_KEY), address)])
    async with monitor:
        await monitor.says("suspicion (bad-answer)")
        assert monitor.log().state is State.SUSPICION
        servicer.pages = honest
        await monitor.says("no longer suspected (bad-answer)")
        assert monitor.log().state is State.OK
        assert await monitor.stop() == 0


@pytest.mark.parametrize("method", ["GetCheckpoint", "GetEntries", "GetInclusionProof", "GetConsistencyProof"])
async def test_bytes_that_are_no_message_are_a_bad_answer(
    tmp_path: Path, lying_log: tuple[LyingLog, str], method: str
) -> None:
    servicer, address = lying_log
    new_monitor(tmp_path / "monitor")
    source = GrpcSource.connect(address, timeout_ms=TIMEOUT_MS, reconnect_ms=100)
    async with desk(tmp_path / "monitor", source) as monitor:
        servicer.size = VERIFIED
        await monitor.look()
        servicer.size, servicer.garbling.methods = SIZE, {method}
        if method.endswith("Proof"):
            servicer.pages, servicer.hashes = LIES["other_entries"], [bytes(32)] * 4
        await monitor.look()
        assert servicer.garbling.asked == {method}
        assert (monitor.size, monitor.doubts()) == (VERIFIED, {"bad-answer"})
        assert "defect" not in monitor.suspicion("bad-answer")
        servicer.garbling.methods, servicer.pages = set(), honest
        await monitor.look()
        assert (monitor.size, monitor.doubts()) == (SIZE, set())
    await source.close()


async def test_a_log_and_a_peer_that_send_garbage_end_neither_the_monitor_nor_its_other_logs(tmp_path: Path) -> None:
    vkey = await create_log(tmp_path / "log", origin="honest.example/log")
    new_monitor(tmp_path / "monitor")
    async with (
        LogProcess(tmp_path / "log") as log,
        garbling_server("GetCheckpoint") as garbling_log,
        garbling_server("Exchange") as garbling_peer,
    ):
        monitor = MonitorProcess(
            tmp_path / "monitor",
            logs=[(format_vkey(LOG_KEY), garbling_log), (vkey, log.address)],
            peers=[garbling_peer],
        )
        async with monitor:
            await monitor.says("suspicion (bad-answer)")
            await monitor.says(f"peer {garbling_peer} sent an answer that is not the message")
            await add(log.address, [leaf(0)])
            await monitor.says("verified to size 1")
            assert await monitor.stop() == 0
    assert {status.origin: status.state for status in monitor.status().logs} == {
        LOG_KEY.name: State.SUSPICION,
        "honest.example/log": State.OK,
    }
    (peer,) = monitor.status().peers
    assert peer.faults >= 1


async def test_a_fork_is_proven_at_both_though_the_log_refuses_one_monitor_the_entries(tmp_path: Path) -> None:
    """It signs size 12 for one and gives it no entries beyond 10, and has another tree of size 15 for the other."""
    truth, lie = ([*leaves(10), *leaves(5, kind=kind)] for kind in ("truth", "lie"))
    first, second = new_log(), new_log()
    first.tree, first.size = Tree(truth), 10
    second.tree, second.size = Tree(lie), 15
    second.pages = lambda request: page(request.first_index, *lie[request.first_index : request.end_index])
    vkey = format_vkey(LOG_KEY)
    new_monitor(tmp_path / "one")
    new_monitor(tmp_path / "two")
    async with serving(first) as address1, serving(second) as address2:
        one = MonitorProcess(tmp_path / "one", logs=[(vkey, address1)])
        async with one:
            await one.says("verified to size 10")
            first.size, first.pages = 12, None
            await one.says("suspicion (no-answer)")
            two = MonitorProcess(tmp_path / "two", logs=[(vkey, address2)], peers=[one.address])
            async with two:
                await one.says("MISBEHAVIOUR PROVEN")
                await two.says("MISBEHAVIOUR PROVEN")
                assert await two.stop() == 4
            assert await one.stop() == 4
    assert one.evidence() == two.evidence() != []
