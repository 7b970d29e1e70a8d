"""What a log, peer or caller should not send over gRPC: a suspicion or fault, never proof, and no harm to the rest."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.monitors import Garbling, MonitorProcess, add, garbling_server, leaf, new_monitor
from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import LOG_KEY, Tree
from tests.unit.monitor.desk import desk, leaves
from tests.unit.monitor.gossiper import LOG_ID, signed_head
from treehead.encoding import parse_decimal
from treehead.evidence import Evidence
from treehead.keys import format_vkey
from treehead.v1 import log_pb2, monitor_pb2, monitor_pb2_grpc
from treehead.v1.log_pb2_grpc import LogServicer, add_LogServicer_to_server
from treehead.view import View
from treehead.wire import SERVER_OPTIONS
from treehead_monitor.head import LogId
from treehead_monitor.message import Gossip
from treehead_monitor.service import MonitorService
from treehead_monitor.source import GrpcSource
from treehead_monitor.status import State
from treehead_monitor.wire import GOSSIP_BYTES_MAX

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


# --- floods ----------------------------------------------------------------------------------------------------------

CALLERS = 100
FLOODED_SECONDS_MAX = 10
MEMORY_KB_MAX = 500_000


def padded(data: bytes, *, mark: int) -> bytes:
    """A genuine note with lines that anyone may add, 60 KB in all; another one for each mark."""
    blob = b64encode(bytes(500)).decode()
    return data + "".join(f"\u2014 {mark}.{at}.example {blob}\n" for at in range(85)).encode()


async def flood(address: str, request: bytes) -> None:
    """Call for ever, on a connection of its own."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/treehead.v1.Monitor/Exchange")
        while True:
            with suppress(grpc.RpcError):
                await call(request, timeout=5)


def peak_kb(pid: int) -> int:
    """The most memory that a process had; 0 where the system does not tell."""
    with suppress(FileNotFoundError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(parse_decimal(line.split()[1], what="VmHWM") for line in lines if line.startswith("VmHWM:"))
    return 0


async def test_a_monitor_that_is_flooded_with_genuine_heads_follows_its_log_all_the_same(
    tmp_path: Path, lying_log: tuple[LyingLog, str]
) -> None:
    servicer, address = lying_log
    servicer.size = VERIFIED
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(format_vkey(LOG_KEY), address)])
    data = signed_head(servicer.tree, VERIFIED - 1).data
    notes = [padded(data, mark=mark) for mark in range(15)]
    gossip = monitor_pb2.Gossip(notes=notes)
    request = monitor_pb2.ExchangeRequest(gossip=gossip).SerializeToString()
    assert 800_000 < len(request) < GOSSIP_BYTES_MAX
    async with monitor:
        await monitor.says(f"verified to size {VERIFIED}")
        flooding = [asyncio.create_task(flood(monitor.address, request)) for _ in range(CALLERS)]
        try:
            for size in range(VERIFIED + 1, SIZE + 1):
                async with asyncio.timeout(FLOODED_SECONDS_MAX):
                    servicer.size = size
                    await monitor.says(f"verified to size {size}")
        finally:
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
        assert peak_kb(monitor.pid) < MEMORY_KB_MAX
        assert await monitor.stop() == 0
    assert monitor.log().state is State.OK


async def test_a_message_larger_than_gossip_needs_is_refused_unread(
    tmp_path: Path, lying_log: tuple[LyingLog, str]
) -> None:
    _, address = lying_log
    new_monitor(tmp_path / "monitor")
    monitor = MonitorProcess(tmp_path / "monitor", logs=[(format_vkey(LOG_KEY), address)])
    async with monitor:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await monitor.exchange(monitor_pb2.Gossip(notes=[bytes(60_000)] * 18))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class BusyMonitor:
    """Hears no call to its end before `done` is set."""

    followed: tuple[LogId, ...] = ()

    def __init__(self) -> None:
        self.heard = 0
        self.done = asyncio.Event()

    async def hear_call(self, source: str, gossip: Gossip) -> Gossip:
        self.heard += 1
        await self.done.wait()
        return Gossip()

    async def view(self, log: LogId, sizes: Sequence[int]) -> View | None:
        return None

    def evidence(self, log: LogId) -> Sequence[Evidence]:
        return ()


async def test_few_calls_are_heard_at_once_few_wait_and_the_rest_are_refused() -> None:
    busy = BusyMonitor()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    monitor_pb2_grpc.add_MonitorServicer_to_server(
        MonitorService(busy, exchanges_max=2, exchanges_waiting_max=3), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = monitor_pb2_grpc.MonitorStub(channel)
        calls = [asyncio.ensure_future(stub.Exchange(monitor_pb2.ExchangeRequest(), timeout=10)) for _ in range(9)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        while len(refused) < 4:
            more, _ = await asyncio.wait(set(calls) - refused, return_when=asyncio.FIRST_COMPLETED)
            refused |= more
        assert busy.heard == 2
        busy.done.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    codes = [answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
    assert busy.heard == 5
    await server.stop(None)
