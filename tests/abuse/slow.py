"""Patience: heads and bodies that come byte by byte, answers and streams that nobody reads, connections for nothing."""

from __future__ import annotations

import asyncio
import random
import select
import socket
from collections.abc import Callable
from contextlib import suppress

from tests.abuse.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    FrameType,
    call_head,
    format_frame,
    grpc_message,
    method_path,
    settings,
    window_update,
)
from tests.abuse.http1 import format_request
from tests.abuse.oversized import LEAF_BYTES_MAX, REKOR
from tests.abuse.scene import FAILED_PAUSE_SECONDS, Address, Scene
from treehead.v1 import log_pb2

CONNECTIONS = 120
FEW_CONNECTIONS = 24
DRIP_SECONDS = 1.0
BEGIN_SECONDS_MAX = 10.0
SMALL_BUFFER_BYTES = 4_096
STREAMS = 32
PIPELINED = 8

_ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR

Begin = Callable[[random.Random], bytes]


async def _hold(scene: Scene, to: Address, begin: Begin, *, drip: bytes, connections: int) -> None:
    """Keep so many connections open that begin so and then drip, reading nothing; one that is ended is made again."""

    async def hold(rng: random.Random) -> None:
        while True:
            scene.begun += 1
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(BEGIN_SECONDS_MAX):
                    connection = await scene.connect(to, receive_bytes=SMALL_BUFFER_BYTES)
                with connection:
                    scene.counts["held"] += 1
                    async with asyncio.timeout(BEGIN_SECONDS_MAX):
                        await asyncio.get_running_loop().sock_sendall(connection, begin(rng))
                    while not _has_ended(connection):
                        await asyncio.sleep(DRIP_SECONDS * rng.uniform(0.5, 1.5))
                        with suppress(BlockingIOError):
                            connection.send(drip)
            scene.counts["cut off"] += 1
            await asyncio.sleep(FAILED_PAUSE_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        for number in range(connections):
            tasks.create_task(hold(scene.random(number)))


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other side ended the connection, though what it sent before may be unread."""
    poll = select.poll()
    poll.register(connection, _ENDED)
    return bool(poll.poll(0))


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------------


async def slow_heads(scene: Scene) -> None:
    """Heads that come byte by byte (slow loris)."""

    def begin(rng: random.Random) -> bytes:
        return f"GET /checkpoint HTTP/1.1\r\nx-{rng.randrange(1_000)}: ".encode()

    await _hold(scene, scene.http, begin, drip=b"y", connections=CONNECTIONS)


async def slow_bodies(scene: Scene) -> None:
    """Bodies that come byte by byte; some of the connections had most of it at once."""

    def begin(rng: random.Random) -> bytes:
        target, length = rng.choice([("/add", 300), ("/add", LEAF_BYTES_MAX), (REKOR, 1_000_000)])
        sent = rng.choice([0, length // 2])
        return format_request("POST", target, bytes(sent), length=str(length))

    await _hold(scene, scene.http, begin, drip=b"y", connections=CONNECTIONS)


async def unread_answers(scene: Scene) -> None:
    """Requests for what is large, whose answers nobody reads."""
    request = format_request("GET", "/tile/entries/000") * PIPELINED
    await _hold(scene, scene.http, lambda _: request, drip=b"", connections=CONNECTIONS)


async def idle_connections(scene: Scene) -> None:
    """Connections on which nothing comes, to either address."""
    async with asyncio.TaskGroup() as tasks:
        for to in (scene.http, scene.grpc):
            tasks.create_task(_hold(scene, to, lambda _: b"", drip=b"", connections=CONNECTIONS))


# --- gRPC ------------------------------------------------------------------------------------------------------------


def _call(method: str, stream: int, request: bytes | None) -> bytes:
    """A call with its message, or one whose message is yet to come."""
    head = format_frame(FrameType.HEADERS, END_HEADERS, stream, call_head(method_path(method)))
    return head if request is None else head + format_frame(FrameType.DATA, END_STREAM, stream, grpc_message(request))


async def unread_streams(scene: Scene) -> None:
    """Streams of entries and checkpoints that nobody reads, with windows that let much be sent, or nothing."""

    def begin(rng: random.Random) -> bytes:
        window = rng.choice([0, 1, 65_535, 2**31 - 1])
        method, request = rng.choice(
            [
                ("GetEntries", log_pb2.GetEntriesRequest().SerializeToString()),
                ("WatchCheckpoints", log_pb2.WatchCheckpointsRequest().SerializeToString()),
            ]
        )
        calls = b"".join(_call(method, 1 + 2 * number, request) for number in range(STREAMS))
        return PREFACE + settings(window_bytes=window) + window_update(0, 2**30) + calls

    await _hold(scene, scene.grpc, begin, drip=b"", connections=FEW_CONNECTIONS)


async def slow_messages(scene: Scene) -> None:
    """Calls whose messages come byte by byte, or not at all."""
    drip = format_frame(FrameType.DATA, 0, 1, b"y")

    def begin(rng: random.Random) -> bytes:
        calls = b"".join(_call("AddEntries", 1 + 2 * number, None) for number in range(STREAMS))
        return PREFACE + settings() + calls + format_frame(FrameType.DATA, 0, 1, b"\x00\x00\x01\x00\x00")

    await _hold(scene, scene.grpc, begin, drip=drip, connections=FEW_CONNECTIONS)
