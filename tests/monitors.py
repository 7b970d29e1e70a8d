"""Monitors as real processes, and logs to show them: honest ones, and forks made of two databases with one key."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.processes import Finished, LogProcess, ServerProcess, create_log, run_module
from tests.unit.library.specimens import hashedrekord_leaf
from treehead.evidence import Evidence, parse_evidence
from treehead.keys import VerifierKey
from treehead.v1 import log_pb2, monitor_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.v1.monitor_pb2_grpc import MonitorStub
from treehead.wire import CHANNEL_OPTIONS, SERVER_OPTIONS
from treehead_monitor.datadir import DataDirectory, create_monitor
from treehead_monitor.status import LogStatus, Status, read_status

INTERVAL_MS = 100
RPC_SECONDS_MAX = 10
BATCH_ENTRIES = 1_000
GARBAGE = b"\xff\xff\xff"


class MonitorProcess(ServerProcess):
    """`treehead-monitor run` on a data directory that `create_monitor` made, on a free loopback port."""

    def __init__(
        self,
        data: Path,
        *,
        logs: Sequence[tuple[str, str]],
        peers: Sequence[str] = (),
        interval_ms: int = INTERVAL_MS,
        grpc: str = "127.0.0.1:0",
        more: Sequence[str] = (),
    ) -> None:
        followed = [argument for vkey, address in logs for argument in ("--log", f"{vkey}={address}")]
        told = [argument for peer in peers for argument in ("--peer", peer)]
        super().__init__(
            "treehead_monitor",
            "run",
            *("--data", data, "--grpc", grpc, "--interval-ms", str(interval_ms)),
            *followed,
            *told,
            *more,
        )
        self.data = data

    def status(self) -> Status:
        """What `treehead-monitor status` prints."""
        return read_status(DataDirectory(path=self.data))

    def log(self) -> LogStatus:
        """How the one log stands that it follows."""
        (log,) = self.status().logs
        return log

    def evidence(self) -> list[Evidence]:
        """The evidence files in its directory."""
        return evidence_in(self.data)

    async def exchange(self, gossip: monitor_pb2.Gossip) -> monitor_pb2.Gossip:
        """Call it as a peer does."""
        async with grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            request = monitor_pb2.ExchangeRequest(gossip=gossip)
            return (await MonitorStub(channel).Exchange(request, timeout=RPC_SECONDS_MAX)).gossip

    async def view(self, vkey: str, *sizes: int) -> monitor_pb2.GetViewResponse:
        """Ask it as a client does."""
        async with grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            request = monitor_pb2.GetViewRequest(vkey=vkey, sizes=sizes)
            return await MonitorStub(channel).GetView(request, timeout=RPC_SECONDS_MAX)


def new_monitor(data: Path, *, name: str = "monitor.example") -> VerifierKey:
    """Make a monitor as `treehead-monitor init` does; returns the key of its cosignatures."""
    return create_monitor(DataDirectory(path=data), name=name, passphrase=None)


async def monitor_command(*arguments: str | Path) -> Finished:
    """Run `treehead-monitor`."""
    return await run_module("treehead_monitor", *arguments)


def evidence_in(data: Path) -> list[Evidence]:
    """The evidence files in a monitor's directory."""
    return [parse_evidence(file.read_bytes()) for file in sorted((data / "evidence").glob("*.evidence"))]


def leaf(number: int, *, kind: str = "entry") -> bytes:
    """An entry that a log admits; the same for the same number and kind."""
    return hashedrekord_leaf(f"{kind} {number}".encode())


async def add(address: str, leaves: Sequence[bytes]) -> None:
    """Log some entries that are not there yet, and have the checkpoint published that holds them."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        for at in range(0, len(leaves), BATCH_ENTRIES):
            batch = leaves[at : at + BATCH_ENTRIES]
            wait = log_pb2.WAIT_WITNESSED if at + len(batch) == len(leaves) else log_pb2.WAIT_INTEGRATED
            request = log_pb2.AddEntriesRequest(leaves=batch, wait=wait)
            answer = await LogStub(channel).AddEntries(request, timeout=RPC_SECONDS_MAX)
            assert all(result.HasField("added") for result in answer.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A log with two faces: two databases with one key and one origin."""

    vkey: str
    faces: tuple[Path, Path]


async def create_fork(folder: Path, *, origin: str, agreed: int = 0) -> Fork:
    """A log of so many entries, twice."""
    faces = folder / "face-0", folder / "face-1"
    vkey = await create_log(faces[0], origin=origin)
    if agreed:
        async with LogProcess(faces[0]) as log:
            await add(log.address, [leaf(number) for number in range(agreed)])
            await log.stop()
    shutil.copytree(faces[0], faces[1])
    return Fork(vkey=vkey, faces=faces)


class Garbling(grpc.aio.ServerInterceptor):
    """Answers the calls named in `methods` with bytes that are no message, and leaves the rest to the server."""

    def __init__(self, *methods: str) -> None:
        self.methods = set(methods)
        self.asked: set[str] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a call."""
        method = handler_call_details.method.rpartition("/")[2]
        if method not in self.methods:
            return await continuation(handler_call_details)
        self.asked.add(method)
        if method == "GetEntries":
            return grpc.unary_stream_rpc_method_handler(self._garble_pages)
        return grpc.unary_unary_rpc_method_handler(self._garble)

    async def _garble(self, _request: bytes, _context: object) -> bytes:
        return GARBAGE

    async def _garble_pages(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield GARBAGE


@asynccontextmanager
async def garbling_server(*methods: str) -> AsyncIterator[str]:
    """The address of a log or peer that answers these calls with garbage."""
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[Garbling(*methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
