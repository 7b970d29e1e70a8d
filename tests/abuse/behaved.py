"""Clients that behave well: one over gRPC and one over HTTP, with one request each some sixty milliseconds apart.

Each request is one turn: whatever it takes until its answer has been verified counts, refusals and new connections
included. What an answer proves is checked at once, and all that was acknowledged again when all is over.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc

from bench.rig.entries import Publisher
from tests.abuse.http1 import Answer, format_request, read_answer
from tests.abuse.record import Told
from tests.abuse.scene import Address
from treehead.encoding import format_base64, parse_base64, parse_decimal
from treehead.entry.base import KEY_DETAILS
from treehead.entry.hashedrekord import format_leaf
from treehead.merkle import hash_leaf
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.tile import TILE_WIDTH, TilePath, format_tile_path, parse_entry_bundle
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import LogAsyncStub

PAUSE_SECONDS = (0.05, 0.07)
ANSWER_SECONDS_MAX = 30.0
RETRY_SECONDS = 0.1
CONNECTION_REQUESTS = 200
"""After so many requests the HTTP client connects anew, as clients do: to be let in is part of the service."""
ENTRY_BYTES = 300
FULL_TILES = 8
"""How many there are from the start."""

_TRY_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


class BehavedClient(ABC):
    """Takes turns until it is told to stop.

    Attributes:
        latencies_s: how long each turn took.
        refusals: how often it was refused, or cut off, and came again.
        unanswered: turns that had no good end in all of `ANSWER_SECONDS_MAX`.
    """

    def __init__(self, told: Told, *, seed: str) -> None:
        self.told = told
        self.random = random.Random(seed)
        self.begin()

    def begin(self) -> None:
        """Count from here on."""
        self.latencies_s: list[float] = []
        self.refusals = 0
        self.unanswered = 0

    async def run(self, over: asyncio.Event) -> None:
        """Take turns, one after the other, until it is over; the last one to its end."""
        while not over.is_set():
            began = time.perf_counter()
            try:
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    await self.turn()
            except TimeoutError:
                self.unanswered += 1
                self.abandon()
            self.latencies_s.append(time.perf_counter() - began)
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))

    def abandon(self) -> None:  # noqa: B027 -- most have nothing to do
        """Give up on what a turn has left under way."""

    @abstractmethod
    async def turn(self) -> None:
        """Ask once, and verify the answer."""

    async def refused(self) -> None:
        """Count a refusal, and wait as the log asks callers to."""
        self.refusals += 1
        await asyncio.sleep(RETRY_SECONDS)


class GrpcClient(BehavedClient):
    """Adds attestations, and now and then has one proven again."""

    def __init__(self, channel: grpc.aio.Channel, told: Told, *, seed: str) -> None:
        super().__init__(told, seed=seed)
        self._stub: LogAsyncStub = LogStub(channel)
        self._publisher = Publisher(seed=self.random.randrange(2**32))
        self._mine: list[tuple[bytes, int]] = []

    async def turn(self) -> None:
        if self._mine and self.random.random() < 0.25:
            leaf, index = self.random.choice(self._mine)
            await self._until_answered(lambda: self._prove(leaf, index))
        else:
            leaf = self._publisher.leaf()
            self.told.note_submitted([leaf])
            await self._until_answered(lambda: self._add(leaf))

    async def _until_answered(self, ask: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await ask()
            except grpc.aio.AioRpcError as exc:
                if exc.code() not in _TRY_AGAIN:
                    raise
                await self.refused()

    async def _add(self, leaf: bytes) -> None:
        proof = (await self._stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=ANSWER_SECONDS_MAX)).proof
        self.told.note_proof(leaf, proof.leaf_index, hashes=proof.hashes, checkpoint=proof.checkpoint)
        self._mine.append((leaf, proof.leaf_index))

    async def _prove(self, leaf: bytes, index: int) -> None:
        request = log_pb2.GetInclusionProofRequest(leaf_hash=hash_leaf(leaf))
        answer = await self._stub.GetInclusionProof(request, timeout=ANSWER_SECONDS_MAX)
        assert answer.leaf_index == index
        self.told.note_proof(leaf, index, hashes=answer.hashes, checkpoint=answer.checkpoint)


class HttpClient(BehavedClient):
    """Adds hashedrekords with their proofs and any bytes, and reads the checkpoint and tiles, in turn."""

    def __init__(self, address: Address, told: Told, *, seed: str) -> None:
        super().__init__(told, seed=seed)
        self._address = address
        self._key = PrivateKey.from_seed(scheme=Scheme.P256, seed=sha256(seed.encode()).digest())
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._requests = 0
        self._turns = 0

    async def turn(self) -> None:
        turn, self._turns = self._turns % 4, self._turns + 1
        await (self._add_hashedrekord, self._read_checkpoint, self._add_bytes, self._read_tile)[turn]()

    def abandon(self) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None

    async def _ask(self, request: bytes) -> Answer:
        """The answer, after as many attempts as it takes."""
        while True:
            try:
                answer = await self._exchange(request)
            except (OSError, EOFError):
                self.close()
                await self.refused()
                continue
            if answer.status not in (429, 503):
                return answer
            await self.refused()

    async def _exchange(self, request: bytes) -> Answer:
        if self._requests % CONNECTION_REQUESTS == 0:
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        self._requests += 1
        reader, writer = self._streams
        writer.write(request)
        return await read_answer(reader)

    async def _get(self, target: str) -> bytes:
        answer = await self._ask(format_request("GET", target))
        assert answer.status == 200, f"{target}: {answer}"
        return answer.body

    async def _add_hashedrekord(self) -> None:
        content = self.random.randbytes(ENTRY_BYTES)
        digest, signature, signer = sha256(content).digest(), self._key.sign(content), self._key.public
        leaf = format_leaf(digest=digest, signature=signature, signer=signer)
        self.told.note_submitted([leaf])
        key = {"publicKey": {"rawBytes": format_base64(signer.spki)}, "keyDetails": KEY_DETAILS[Scheme.P256]}
        signed = {"content": format_base64(signature), "verifier": key}
        request = {"hashedRekordRequestV002": {"digest": format_base64(digest), "signature": signed}}
        body = json.dumps(request).encode()
        answer = await self._ask(format_request("POST", "/api/v2/log/entries", body))
        assert answer.status == 201, f"a hashedrekord: {answer} {answer.body!r}"
        proof = json.loads(answer.body)["inclusionProof"]
        self.told.note_proof(
            leaf,
            parse_decimal(proof["logIndex"], what="index"),
            hashes=[parse_base64(hash_, what="hash") for hash_ in proof["hashes"]],
            checkpoint=proof["checkpoint"]["envelope"].encode(),
        )

    async def _read_checkpoint(self) -> None:
        self.told.note_head(await self._get("/checkpoint"))

    async def _add_bytes(self) -> None:
        leaf = self.random.randbytes(ENTRY_BYTES)
        self.told.note_submitted([leaf])
        answer = await self._ask(format_request("POST", "/add", leaf))
        assert answer.status == 200, f"any bytes: {answer} {answer.body!r}"
        self.told.note_index(leaf, parse_decimal(answer.body.decode(), what="index"))

    async def _read_tile(self) -> None:
        """One of the full tiles of entries from the start; whether it is right, the end will tell."""
        number = self.random.randrange(FULL_TILES)
        entries = parse_entry_bundle(await self._get("/" + format_tile_path(TilePath(None, number, TILE_WIDTH))))
        for place, leaf in enumerate(entries):
            self.told.note_shown(leaf, number * TILE_WIDTH + place)
