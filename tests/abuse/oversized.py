"""Too much: bodies, messages and batches beyond the limits, those that only claim to be, and those that just fit."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random

from tests.abuse.caller import calling
from tests.abuse.frames import (
    END_HEADERS,
    PREFACE,
    FrameType,
    call_head,
    field,
    format_frame,
    method_path,
    settings,
)
from tests.abuse.http1 import format_request, read_answer
from tests.abuse.scene import Scene, repeat
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.v1 import log_pb2

WORKERS = 4
PAUSE_SECONDS = 0.2
REKOR = "/api/v2/log/entries"
LEAF_BYTES_MAX = 65_535
REKOR_BYTES_MAX = 4_194_304
MESSAGE_BYTES_MAX = 2_097_152
BOMB_BYTES = 67_108_864
STREAMED_BYTES = 8_388_608
CLAIM_SECONDS = 0.5
"""How long a claim to be large is kept up."""


async def http_bodies(scene: Scene) -> None:
    """POST bodies that are too large, some declared, some sent, some never coming to an end."""
    await repeat(scene, _http_body, workers=WORKERS, pause_s=PAUSE_SECONDS)


async def _http_body(scene: Scene, rng: random.Random) -> str:
    target, limit = rng.choice([("/add", LEAF_BYTES_MAX), (REKOR, REKOR_BYTES_MAX)])
    async with scene.opened(scene.http) as (reader, writer):
        match rng.randrange(4):
            case 0:
                writer.write(format_request("POST", target, bytes(limit + rng.randint(1, limit))))
            case 1:
                claimed = rng.choice([limit + 1, 10**12, 2**63 - 1, 2**64, 10**40])
                writer.write(format_request("POST", target, b"x", length=str(claimed)))
            case 2:
                line = f"content-encoding: {rng.choice(['gzip', 'deflate', 'br', 'gzip, gzip'])}"
                writer.write(format_request("POST", target, gzip.compress(bytes(limit)), line))
            case _:
                writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % target.encode())
                for _ in range(STREAMED_BYTES // 16_384):
                    writer.write(b"4000\r\n" + bytes(16_384) + b"\r\n")
                    await writer.drain()
        return str(await read_answer(reader))


async def largest(scene: Scene) -> None:
    """Requests that are as large as can be, and as costly to read."""
    envelope = _largest_envelope()
    nested = json.dumps({"dsseRequestV002": {"envelope": "[" * (REKOR_BYTES_MAX - 100)}}).encode()
    brackets = b"[" * REKOR_BYTES_MAX
    members = b"{" + b",".join(b'"%d":0' % number for number in range(REKOR_BYTES_MAX // 12)) + b"}"

    async def attempt(scene: Scene, rng: random.Random) -> str:
        if rng.random() < 0.2:
            leaves = [rng.randbytes(LEAF_BYTES_MAX) for _ in range(MESSAGE_BYTES_MAX // (LEAF_BYTES_MAX + 8))]
            for leaf in leaves:
                scene.record.submitted(leaf)
            async with calling(scene) as caller:
                request = log_pb2.AddEntriesRequest(leaves=leaves).SerializeToString()
                for answer in await caller.call("AddEntries", request):
                    results = log_pb2.AddEntriesResponse.FromString(answer).results
                    for leaf, result in zip(leaves, results, strict=True):
                        if result.HasField("added"):
                            scene.record.placed(leaf, result.added.leaf_index)
                    return "answered"
            return "refused"
        body = rng.choice([envelope, nested, brackets, members])
        async with scene.opened(scene.http) as (reader, writer):
            writer.write(format_request("POST", REKOR, body, "content-type: application/json"))
            return str(await read_answer(reader))

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)


def _largest_envelope() -> bytes:
    """A DSSE envelope of which nothing is wrong but its signature, with the largest payload that there can be."""
    key = PrivateKey.from_seed(scheme=Scheme.P256, seed=bytes(31) + b"\x01").public
    verifier = {
        "publicKey": {"rawBytes": base64.b64encode(key.spki).decode()},
        "keyDetails": "PKIX_ECDSA_P256_SHA_256",
    }
    payload = base64.b64encode(bytes((REKOR_BYTES_MAX - 1_024) // 4 * 3)).decode()
    signature = {"sig": base64.b64encode(bytes(70)).decode()}
    envelope = {"payload": payload, "payloadType": "application/x", "signatures": [signature]}
    return json.dumps({"dsseRequestV002": {"envelope": envelope, "verifiers": [verifier]}}).encode()


async def grpc_messages(scene: Scene) -> None:
    """gRPC messages, entries and batches that are too large, or claim to be."""
    await repeat(scene, _grpc_message, workers=WORKERS, pause_s=PAUSE_SECONDS)


async def _grpc_message(scene: Scene, rng: random.Random) -> str:
    choice = rng.randrange(4)
    if choice == 0:
        return await _claim(scene, rng.choice([MESSAGE_BYTES_MAX + 1, 10**8, 2**32 - 1]))
    if choice == 1:
        method, request = "AddEntries", bytes(rng.randint(MESSAGE_BYTES_MAX + 1, 2 * MESSAGE_BYTES_MAX))
    elif choice == 2:
        leaf = bytes(rng.randint(LEAF_BYTES_MAX + 1, 2 * LEAF_BYTES_MAX))
        method, request = "AddEntry", log_pb2.AddEntryRequest(leaf=leaf).SerializeToString()
    else:
        leaves = [b""] * rng.randint(1_025, 500_000)
        method, request = "AddEntries", log_pb2.AddEntriesRequest(leaves=leaves).SerializeToString()
    async with calling(scene) as caller:
        return "answered" if await caller.call(method, request) else "refused"


async def _claim(scene: Scene, length: int) -> str:
    """Begin a message that is to be so long."""
    async with scene.opened(scene.grpc) as (reader, writer):
        writer.write(PREFACE + settings())
        writer.write(format_frame(FrameType.HEADERS, END_HEADERS, 1, call_head(method_path("AddEntry"))))
        writer.write(format_frame(FrameType.DATA, 0, 1, b"\x00" + length.to_bytes(4, "big") + bytes(1_000)))
        await asyncio.sleep(CLAIM_SECONDS)
        return "claimed" if await reader.read(1) else "cut off"


async def gzip_bombs(scene: Scene) -> None:
    """gRPC messages that are small until they are unpacked."""
    bomb = gzip.compress(bytes(BOMB_BYTES), compresslevel=6)
    small = gzip.compress(log_pb2.AddEntryRequest(leaf=bytes(MESSAGE_BYTES_MAX - 100)).SerializeToString())

    async def attempt(scene: Scene, rng: random.Random) -> str:
        async with calling(scene) as caller:
            encoding = field(b"grpc-encoding", b"gzip")
            data = rng.choice([bomb, small, gzip.compress(bomb), small[:-8]])
            return "answered" if await caller.call("AddEntry", data, compressed=True, fields=encoding) else "refused"

    await repeat(scene, attempt, workers=WORKERS, pause_s=PAUSE_SECONDS)
