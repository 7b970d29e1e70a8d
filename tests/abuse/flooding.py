"""Haste: requests and calls as fast as they are answered, over many connections, and frames that cost us nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.abuse.caller import Caller, calling
from tests.abuse.frames import (
    END_HEADERS,
    PREFACE,
    FrameType,
    call_head,
    format_frame,
    method_path,
    reset,
    settings,
)
from tests.abuse.http1 import Answer, format_request, read_answer
from tests.abuse.scene import ATTEMPT_SECONDS_MAX, Scene, repeat
from treehead.v1 import log_pb2

CONNECTIONS = 64
CALLERS = 8
CALLS = 16
LEAF_BYTES = 300
BATCH_ENTRIES = 100
BATCH_EVERY = 16
CHURNERS = 32
FRAMES_A_SECOND = 10_000
"""Of each kind of flood of frames: what a slow line carries. One core can write a hundred times as many."""
FRAME_CONNECTIONS = 8
BURSTS_A_SECOND = 20
TARGETS = ("/checkpoint", "/tile/0/000", "/tile/entries/000", "/tile/entries/001", "/tile/7/123", "/metrics", "/")

Call = Callable[[Caller, random.Random], Awaitable[bool]]
"""One call; whether it was answered and not refused."""


# --- HTTP ------------------------------------------------------------------------------------------------------------

Exchange = Callable[[bytes], Awaitable[Answer]]


@asynccontextmanager
async def _exchanging(scene: Scene) -> AsyncIterator[Exchange]:
    """A connection that stays open for one request after the other."""
    async with scene.opened(scene.http) as (reader, writer):

        async def exchange(request: bytes) -> Answer:
            async with asyncio.timeout(ATTEMPT_SECONDS_MAX):
                writer.write(request)
                answer = await read_answer(reader)
            scene.counts[str(answer)] += 1
            return answer

        yield exchange


async def http_gets(scene: Scene) -> None:
    """GETs of checkpoint, tiles and metrics, over connections that stay open."""

    async def session(scene: Scene, rng: random.Random) -> str:
        async with _exchanging(scene) as exchange:
            while True:
                await exchange(format_request("GET", rng.choice(TARGETS)))

    await repeat(scene, session, workers=CONNECTIONS, seconds_max=None)


async def http_adds(scene: Scene) -> None:
    """Entries by `POST /add`, over connections that stay open."""

    async def session(scene: Scene, rng: random.Random) -> str:
        async with _exchanging(scene) as exchange:
            while True:
                leaf = rng.randbytes(LEAF_BYTES)
                scene.record.submitted(leaf)
                answer = await exchange(format_request("POST", "/add", leaf))
                if answer.status == 200:
                    scene.record.placed(leaf, int(answer.body))

    await repeat(scene, session, workers=CONNECTIONS, seconds_max=None)


# --- gRPC ------------------------------------------------------------------------------------------------------------


async def _call_on(scene: Scene, call: Call) -> None:
    """Many calls at a time on each of some connections, each followed by the next."""

    async def session(scene: Scene, rng: random.Random) -> str:
        async with calling(scene) as caller:

            async def call_on() -> None:
                while True:
                    async with asyncio.timeout(ATTEMPT_SECONDS_MAX):
                        answered = await call(caller, rng)
                    scene.counts["answered" if answered else "refused"] += 1

            await asyncio.gather(*(call_on() for _ in range(CALLS)))
        return "ended"

    await repeat(scene, session, workers=CALLERS, seconds_max=None)


async def grpc_adds(scene: Scene) -> None:
    """Entries by AddEntry, and now and then a batch by AddEntries."""

    async def call(caller: Caller, rng: random.Random) -> bool:
        leaves = [rng.randbytes(LEAF_BYTES) for _ in range(1 if rng.randrange(BATCH_EVERY) else BATCH_ENTRIES)]
        for leaf in leaves:
            scene.record.submitted(leaf)
        if len(leaves) > 1:
            request = log_pb2.AddEntriesRequest(leaves=leaves).SerializeToString()
            for answer in await caller.call("AddEntries", request):
                results = log_pb2.AddEntriesResponse.FromString(answer).results
                for leaf, result in zip(leaves, results, strict=True):
                    scene.record.placed(leaf, result.added.leaf_index)
                return True
            return False
        request = log_pb2.AddEntryRequest(leaf=leaves[0]).SerializeToString()
        for answer in await caller.call("AddEntry", request):
            scene.record.placed(leaves[0], log_pb2.AddEntryResponse.FromString(answer).proof.leaf_index)
            return True
        return False

    await _call_on(scene, call)


async def grpc_reads(scene: Scene) -> None:
    """Calls that ask for much: all entries, all that is found by a name, proofs, and the log's own account."""
    requests = (
        ("GetEntries", log_pb2.GetEntriesRequest()),
        ("FindEntries", log_pb2.FindEntriesRequest(purl="pkg:pypi/acme-tool")),
        ("GetInclusionProof", log_pb2.GetInclusionProofRequest(leaf_index=1)),
        ("GetConsistencyProof", log_pb2.GetConsistencyProofRequest(first_size=1, second_size=2)),
        ("GetCheckpoint", log_pb2.GetCheckpointRequest()),
        ("GetLogInfo", log_pb2.GetLogInfoRequest()),
    )

    async def call(caller: Caller, rng: random.Random) -> bool:
        method, request = rng.choice(requests)
        return bool(await caller.call(method, request.SerializeToString()))

    await _call_on(scene, call)


# --- connections and frames ------------------------------------------------------------------------------------------


async def churn(scene: Scene) -> None:
    """Connections that are made, used once or not at all, and gone."""

    async def attempt(scene: Scene, rng: random.Random) -> str:
        to = rng.choice((scene.http, scene.grpc))
        async with scene.opened(to) as (reader, writer):
            if rng.random() < 0.5:
                return "left"
            writer.write(format_request("GET", "/checkpoint") if to == scene.http else PREFACE + settings())
            await reader.read(1)
            return "answered"

    await repeat(scene, attempt, workers=CHURNERS)


Burst = Callable[[int], bytes]
"""So many frames of a flood."""


async def _flood(scene: Scene, make_burst: Callable[[], Burst], *, frames_of_one: int = 1) -> None:
    """Write bursts of frames to each of some connections, whatever comes back."""

    async def session(scene: Scene, rng: random.Random) -> str:
        burst = make_burst()
        count = FRAMES_A_SECOND // FRAME_CONNECTIONS // BURSTS_A_SECOND // frames_of_one
        async with scene.opened(scene.grpc) as (reader, writer):
            writer.write(PREFACE + settings())
            reading = asyncio.create_task(_read_on(reader))
            try:
                while not reading.done():
                    writer.write(burst(count))
                    await writer.drain()
                    scene.counts["frames"] += count * frames_of_one
                    await asyncio.sleep(1 / BURSTS_A_SECOND)
            finally:
                reading.cancel()
        return "cut off"

    await repeat(scene, session, workers=FRAME_CONNECTIONS, seconds_max=None)


async def _read_on(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65_536):
            pass
    except OSError:
        pass


async def resets(scene: Scene) -> None:
    """Calls that are cancelled as soon as they are made (rapid reset, CVE-2023-44487)."""
    head = call_head(method_path("GetCheckpoint"))

    def make_burst() -> Burst:
        streams = iter(range(1, 2**31, 2))

        def burst(count: int) -> bytes:
            return b"".join(
                format_frame(FrameType.HEADERS, END_HEADERS, stream, head) + reset(stream)
                for stream, _ in zip(streams, range(count), strict=False)
            )

        return burst

    await _flood(scene, make_burst, frames_of_one=2)


async def pings(scene: Scene) -> None:
    """PING frames, each of which wants an answer (CVE-2019-9512)."""
    await _flood(scene, lambda: lambda count: format_frame(FrameType.PING, 0, 0, b"are you?") * count)


async def many_settings(scene: Scene) -> None:
    """SETTINGS frames, each of which wants an answer (CVE-2019-9515)."""
    await _flood(scene, lambda: lambda count: settings() * count)


async def empty_frames(scene: Scene) -> None:
    """DATA frames with nothing in them, of a call that does not end (CVE-2019-9518)."""

    def make_burst() -> Burst:
        calls = iter([format_frame(FrameType.HEADERS, END_HEADERS, 1, call_head(method_path("AddEntry")))])
        return lambda count: next(calls, b"") + format_frame(FrameType.DATA, 0, 1) * count

    await _flood(scene, make_burst)
