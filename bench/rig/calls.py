"""Calls that a load is made of: send bytes that were prepared, verify the bytes that come back.

The generator shares two cores with the server, so it is thin: gRPC gets and gives raw bytes, requests were serialised
before the clock started, and what remains to be done for an answer is to parse it and to verify what it proves.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from bench.rig.entries import Submission
from bench.rig.verifier import Verifier
from treehead.checkpoint import parse_checkpoint
from treehead.errors import UnavailableError
from treehead.note import parse_note
from treehead.v1 import log_pb2
from treehead.wire import CHANNEL_OPTIONS

SERVICE = "/treehead.v1.Log"
CALL_SECONDS_MAX = 60
CALLERS_PER_CONNECTION = 256

Call = Callable[[], Awaitable[int]]
"""One call: what it returns is how many entries or proofs its answer has shown, all of them verified.

Raises `BusyError` when the server had no room for it, and `ExhaustedError` when nothing is left to send.
"""

Ask = Callable[[bytes], Awaitable[bytes]]


class BusyError(Exception):
    """The server refused a call with RESOURCE_EXHAUSTED; it did nothing."""


class DroppedError(BusyError):
    """The server's gRPC cancelled a call that it had not taken up, without a word on why."""


class ExhaustedError(Exception):
    """Everything that was prepared has been sent."""


class Connections:
    """As many connections to a server as so many callers use; calls take them in turn. A context."""

    def __init__(self, address: str, *, callers: int) -> None:
        # Without a pool of its own, a channel would share the connection of the one before.
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        count = -(-callers // CALLERS_PER_CONNECTION)
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(count)]

    async def __aenter__(self) -> Self:
        """Returns when all are connected."""
        for channel in self._channels:
            await channel.channel_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    def ask(self, method: str) -> Ask:
        """A function that calls this method of the log."""
        methods: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]
        methods = [channel.unary_unary(f"{SERVICE}/{method}") for channel in self._channels]
        turns = itertools.cycle(methods)

        async def ask(request: bytes) -> bytes:
            try:
                return await next(turns)(request, timeout=CALL_SECONDS_MAX)
            except grpc.aio.AioRpcError as exc:
                if exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise BusyError from exc
                if exc.code() is grpc.StatusCode.CANCELLED:
                    raise DroppedError from exc
                raise

        return ask

    async def published(self, *, size: int) -> bytes:
        """The first published checkpoint of a tree of at least `size` entries, unverified; it is waited for."""
        watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        watch = self._channels[0].unary_stream(f"{SERVICE}/WatchCheckpoints")
        async for answer in watch(log_pb2.WatchCheckpointsRequest().SerializeToString(), timeout=CALL_SECONDS_MAX):
            data = log_pb2.WatchCheckpointsResponse.FromString(answer).checkpoint
            if parse_checkpoint(parse_note(data).text).size >= size:
                return data
        raise UnavailableError(f"the log ended before it published a checkpoint of size {size}")


def adding(connections: Connections, submissions: Iterator[Submission], verifier: Verifier) -> Call:
    """Adds one entry a call."""
    return _submitting(connections.ask("AddEntry"), submissions, verifier.added)


def adding_batches(connections: Connections, submissions: Iterator[Submission], verifier: Verifier) -> Call:
    """Adds one batch of entries a call."""
    return _submitting(connections.ask("AddEntries"), submissions, verifier.added_batch)


def _submitting(ask: Ask, submissions: Iterator[Submission], verify: Callable[[Submission, bytes], None]) -> Call:
    async def call() -> int:
        submission = next(submissions, None)
        if submission is None:
            raise ExhaustedError
        verify(submission, await ask(submission.request))
        return len(submission.leaf_hashes)

    return call


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A GetInclusionProof request for the entry at an index, as it goes over the wire."""

    index: int
    leaf_hash: bytes
    request: bytes


def question(index: int, leaf_hash: bytes) -> Question:
    """The question for the proof of an entry in the newest tree."""
    request = log_pb2.GetInclusionProofRequest(leaf_index=index).SerializeToString()
    return Question(index=index, leaf_hash=leaf_hash, request=request)


def proving(connections: Connections, questions: Iterator[Question], verifier: Verifier) -> Call:
    """Asks for one inclusion proof a call."""
    ask = connections.ask("GetInclusionProof")

    async def call() -> int:
        asked = next(questions, None)
        if asked is None:
            raise ExhaustedError
        verifier.proven(asked.index, asked.leaf_hash, await ask(asked.request))
        return 1

    return call


def echoing(connections: Connections, requests: Sequence[bytes]) -> Call:
    """Sends the same requests again and again, to a server that does nothing, and verifies nothing."""
    ask = connections.ask("Echo")
    turns = itertools.cycle(requests)

    async def call() -> int:
        await ask(next(turns))
        return 1

    return call
