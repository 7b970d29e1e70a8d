"""Nonsense: bytes that are no HTTP, requests and frames that break its rules, messages and entries that are none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from bench.rig.entries import Publisher
from tests.abuse.caller import calling
from tests.abuse.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    WINDOW_BYTES_MAX,
    FrameType,
    call_head,
    field,
    format_frame,
    grpc_message,
    indexed_field,
    method_path,
    reset,
    settings,
    window_update,
)
from tests.abuse.http1 import format_request, read_answer
from tests.abuse.oversized import REKOR
from tests.abuse.scene import Address, Scene, repeat
from treehead.v1 import log_pb2

WORKERS = 8
PAUSE_SECONDS = 0.02
MINDING_SECONDS = 0.5
BOMB_FRAMES = 8
BOMB_PAUSE_SECONDS = 0.2
"""With so much in between, the bombs come as fast as a slow line carries them; gRPC's core unpacks all of each."""
PUBLISHER_SEED = 7
METHODS = (
    "AddEntry",
    "AddEntries",
    "GetCheckpoint",
    "GetInclusionProof",
    "GetConsistencyProof",
    "GetEntries",
    "FindEntries",
    "GetLogInfo",
    "NoSuchMethod",
)


async def _send(scene: Scene, to: Address, data: bytes) -> str:
    """Send these bytes, and see whether the server minds, that is, ends the connection."""
    async with scene.opened(to) as (reader, writer):
        writer.write(data)
        with suppress(TimeoutError):
            async with asyncio.timeout(MINDING_SECONDS):
                await writer.drain()
                while await reader.read(65_536):
                    pass
                return "cut off"
        return "kept"


async def random_bytes(scene: Scene) -> None:
    """Bytes that are nothing at all, to both addresses; some begin well."""

    async def attempt(scene: Scene, rng: random.Random) -> str:
        to, begin = rng.choice(
            [(scene.http, b""), (scene.http, b"GET /checkpoint HTTP/1.1\r\n"), (scene.grpc, b""), (scene.grpc, PREFACE)]
        )
        return await _send(scene, to, begin + rng.randbytes(rng.randint(1, 20_000)))

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------------

_BROKEN_REQUESTS = (
    b"GET\r\n\r\n",
    b"GET /checkpoint HTTP/9.9\r\n\r\n",
    b"GET /checkpoint\r\n\r\n",
    b"G\x00T /checkpoint HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /\xff\xfe%%%2 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /tile/0/../../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /tile/0/x999/x999/x999/x999/x999/999 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /tile/99/000.p/256 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CONNECT log.example:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /checkpoint HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"GET /checkpoint HTTP/1.1\nhost: x\n\n",
    b"GET /checkpoint HTTP/1.1\r\nhost : x\r\n folded\r\n\r\n",
    b"GET /tile/entries/000 HTTP/1.1\r\nhost: x\r\nrange: bytes=0-,1-,2-,3-,4-,5-,-1,-2\r\n\r\n",
    b"POST /add HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    b"POST /add HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /add HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /\r\n\r\n",
    b"POST /add HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n",
    b"POST /add HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n\r\n",
    b"POST /add HTTP/1.1\r\nhost: x\r\nexpect: 200-maybe\r\ncontent-length: 1\r\n\r\n",
    b"GET /checkpoint HTTP/1.1\r\nhost: x\r\n\r\n" * 200,
)


LENGTH_MAX = 9
"""What a single digit can declare."""


async def broken_http(scene: Scene) -> None:
    """Requests that break the rules of HTTP, or of paths, and such with a byte that is not what it was."""

    async def attempt(scene: Scene, rng: random.Random) -> str:
        request = bytearray(rng.choice(_BROKEN_REQUESTS))
        head_bytes = request.index(b"\r\n\r\n") if b"\r\n\r\n" in request else len(request)
        if rng.random() < 0.5:
            request[rng.randrange(head_bytes)] = rng.randrange(256)
        # Whatever length the server makes of it, what it may then take for an entry is ours.
        for length in range(LENGTH_MAX + 1):
            scene.record.submitted(bytes(request[head_bytes + 4 :][:length]))
        return await _send(scene, scene.http, bytes(request))

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)


# --- HTTP/2 ----------------------------------------------------------------------------------------------------------


def _call(method: str = "GetCheckpoint", stream: int = 1, *fields: bytes) -> bytes:
    return format_frame(FrameType.HEADERS, END_HEADERS, stream, call_head(method_path(method), *fields))


_BROKEN_FRAMES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda rng: format_frame(rng.randrange(256), rng.randrange(256), rng.randrange(2**32), rng.randbytes(100)),
    lambda rng: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + rng.randbytes(1_000),
    lambda rng: format_frame(FrameType.DATA, 0, rng.choice([0, 1, 2, 999]), rng.randbytes(10)),
    lambda rng: format_frame(FrameType.CONTINUATION, END_HEADERS, 1, rng.randbytes(10)),
    lambda rng: format_frame(FrameType.HEADERS, END_HEADERS, 0, call_head(b"/")),
    lambda rng: format_frame(FrameType.HEADERS, END_HEADERS, 2, call_head(b"/")),
    lambda rng: format_frame(FrameType.HEADERS, END_HEADERS, 1, rng.randbytes(200)),
    lambda rng: format_frame(FrameType.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\x0f"),
    lambda rng: format_frame(FrameType.HEADERS, 0, 1, call_head(b"/")) + _call(stream=3),
    lambda rng: format_frame(FrameType.HEADERS, END_HEADERS | PADDED, 1, b"\xff" + call_head(b"/")),
    lambda rng: _call(stream=5) + _call(stream=3) + _call(stream=5),
    lambda rng: _call() + window_update(1, 0) + window_update(0, 0),
    lambda rng: window_update(0, WINDOW_BYTES_MAX) + window_update(0, WINDOW_BYTES_MAX),
    lambda rng: _call() + window_update(1, WINDOW_BYTES_MAX) * 2,
    lambda rng: format_frame(FrameType.SETTINGS, 0, 0, rng.randbytes(rng.randrange(40))),
    lambda rng: format_frame(FrameType.SETTINGS, ACK, 0, bytes(6)),
    lambda rng: format_frame(FrameType.SETTINGS, 0, 3, bytes(6)),
    lambda rng: format_frame(FrameType.PING, 0, rng.choice([0, 1]), bytes(rng.choice([0, 7, 9]))),
    lambda rng: format_frame(FrameType.PRIORITY, 0, 1, (1).to_bytes(4, "big") + b"\x00"),
    lambda rng: format_frame(FrameType.RST_STREAM, 0, rng.choice([0, 1, 7]), bytes(4)),
    lambda rng: format_frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + call_head(b"/")),
    lambda rng: format_frame(FrameType.GOAWAY, 0, 0, bytes(rng.choice([0, 8, 5_000]))),
    lambda rng: _call() + reset(1) + format_frame(FrameType.DATA, END_STREAM, 1, grpc_message(b"")),
    lambda rng: _call("AddEntry") + format_frame(FrameType.DATA, END_STREAM, 1, b"\x02\x00\x00"),
    lambda rng: _call("AddEntry") + format_frame(FrameType.DATA, END_STREAM, 1, grpc_message(b"") * 50),
    lambda rng: _call("AddEntry", 1, field(b"grpc-timeout", rng.choice([b"0n", b"99999999H", b"-1S", b"\xff"]))),
    lambda rng: _call("AddEntry", 1, field(b"connection", b"close"), field(b":path", b"/twice"), field(b"", b"")),
    lambda rng: _call("AddEntry", 1, field(b"grpc-encoding", b"no such"), field(b"UPPER", b"\x00\r\n")),
)


async def broken_http2(scene: Scene) -> None:
    """Frames that break the rules of HTTP/2."""

    async def attempt(scene: Scene, rng: random.Random) -> str:
        frames = rng.choice(_BROKEN_FRAMES)(rng)
        scene.record.submitted(b"")
        async with scene.opened(scene.grpc) as (reader, writer):
            writer.write(PREFACE + settings() + frames)
            # A rule that the server does not mind leaves the connection open; this one is answered.
            writer.write(format_frame(FrameType.PING, 0, 0, b"are you?"))
            received = b""
            while data := await reader.read(65_536):
                received += data
                if b"are you?" in received:
                    return "answered"
            return "cut off"

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)


async def header_bombs(scene: Scene) -> None:
    """Heads without an end, over either protocol, and small ones that become large when they are unpacked."""
    lines = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 100) for number in range(10_000))
    long = format_frame(FrameType.CONTINUATION, 0, 1, field(b"x", b"y" * 16_000))
    kept = format_frame(FrameType.HEADERS, 0, 1, call_head(b"/") + indexed_field(b"x", b"y" * 4_000))
    again = format_frame(FrameType.CONTINUATION, 0, 1, b"\xbe" * 16_000)

    async def attempt(scene: Scene, rng: random.Random) -> str:
        match rng.randrange(4):
            case 0:
                return await _send(scene, scene.http, b"GET /checkpoint HTTP/1.1\r\nhost: x\r\n" + lines)
            case 1:
                return await _send(scene, scene.http, b"GET /" + b"y" * 1_000_000)
            case 2:
                begin = format_frame(FrameType.HEADERS, 0, 1, call_head(b"/"))
                return await _send(scene, scene.grpc, PREFACE + settings() + begin + long * BOMB_FRAMES)
            case _:
                return await _send(scene, scene.grpc, PREFACE + settings() + kept + again * BOMB_FRAMES)

    await repeat(scene, attempt, workers=WORKERS, pause_s=BOMB_PAUSE_SECONDS)


# --- messages and entries --------------------------------------------------------------------------------------------


async def invalid_messages(scene: Scene) -> None:
    """Calls of every method with bytes that are no message, or one that asks for what there is not."""

    async def attempt(scene: Scene, rng: random.Random) -> str:
        async with calling(scene) as caller:
            answered = 0
            for _ in range(16):
                request = rng.choice(
                    [
                        rng.randbytes(rng.randint(1, 500)),
                        b"\x0a\xff\xff\xff\x7f",
                        b"\x08" + b"\xff" * 9 + b"\x01",
                        log_pb2.GetInclusionProofRequest(leaf_index=2**64 - 1, tree_size=2**63).SerializeToString(),
                        log_pb2.GetInclusionProofRequest(leaf_hash=bytes(31)).SerializeToString(),
                        log_pb2.GetConsistencyProofRequest(first_size=2**64 - 1).SerializeToString(),
                        log_pb2.GetEntriesRequest(first_index=2**63, end_index=0).SerializeToString(),
                        log_pb2.FindEntriesRequest(name="\x00" * 5_000).SerializeToString(),
                        log_pb2.FindEntriesRequest(purl="pkg:" + "%" * 5_000).SerializeToString(),
                    ]
                )
                method = rng.choice(METHODS)
                if method in ("AddEntry", "AddEntries"):
                    request = b"\xff" + request  # nothing that could become an entry
                answered += bool(await caller.call(method, request))
            return "answered" if answered else "refused"

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)


async def invalid_entries(scene: Scene) -> None:
    """Entries of which one byte is not what was signed, by gRPC (where this log takes any bytes) and as requests."""
    publisher = Publisher(seed=PUBLISHER_SEED)
    leaves = publisher.leaves(64)

    async def attempt(scene: Scene, rng: random.Random) -> str:
        leaf = bytearray(rng.choice(leaves))
        leaf[rng.randrange(len(leaf))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.5:
            async with scene.opened(scene.http) as (reader, writer):
                writer.write(format_request("POST", REKOR, bytes(leaf), "content-type: application/json"))
                return str(await read_answer(reader))
        scene.record.submitted(bytes(leaf))
        async with calling(scene) as caller:
            request = log_pb2.AddEntryRequest(leaf=bytes(leaf)).SerializeToString()
            for answer in await caller.call("AddEntry", request):
                proof = log_pb2.AddEntryResponse.FromString(answer).proof
                scene.record.placed(bytes(leaf), proof.leaf_index)
                return "answered"
            return "refused"

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)
