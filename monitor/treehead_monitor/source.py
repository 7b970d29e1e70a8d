"""Where a log is read from. Nothing a source says is believed before it is bound to a head that the log signed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Protocol, Self, TypeVar

import grpc

from treehead.errors import MalformedError, TreeheadError
from treehead.tile import ENTRY_BYTES_MAX
from treehead.tls import ClientTls
from treehead.v1 import log_pb2, log_pb2_grpc
from treehead.wire import (
    CHANNEL_OPTIONS,
    Endpoint,
    error_of,
    format_endpoint,
    hashes_from_wire,
    open_channel,
    parse_endpoint,
    received,
)

_Answer = TypeVar("_Answer")


class LogSource(Protocol):
    """One log as its server shows it.

    Every call ends within a deadline of the source's own. Errors that any may raise: `UnavailableError` when there was
    no answer, `RefusedError` or `UndecidedError` when the log says that it will not or cannot answer, and
    `MalformedError` when the answer is none.
    """

    async def newest_checkpoint(self) -> bytes:
        """The newest signed checkpoint, as it came."""

    def entries(self, *, begin: int, end: int) -> AsyncIterator[Sequence[bytes]]:
        """The entries from `begin` to `end`, exclusive, in order and in pages; it may stop early."""

    async def inclusion_proof(self, *, index: int, size: int) -> tuple[bytes, ...]:
        """The inclusion proof of the entry at `index` in the tree of `size`, unverified."""

    async def consistency_proof(self, *, size1: int, size2: int) -> tuple[bytes, ...]:
        """The consistency proof between two sizes, unverified."""


class GrpcSource:
    """A log that speaks `treehead.v1.Log`."""

    def __init__(self, channel: grpc.aio.Channel, *, endpoint: Endpoint, timeout_ms: int) -> None:
        self._channel = channel
        self._stub: log_pb2_grpc.LogAsyncStub = log_pb2_grpc.LogStub(channel)
        self._endpoint = endpoint
        self._name = f"log at {format_endpoint(endpoint)}"
        self._timeout_s = timeout_ms / 1_000

    @classmethod
    def connect(cls, address: str, *, tls: ClientTls | None = None, timeout_ms: int, reconnect_ms: int) -> Self:
        """A source that connects when it is first asked, and again at most `reconnect_ms` after a failure.

        Raises:
            UsageError: the address, or a file of `tls`, cannot be used.
        """
        endpoint = parse_endpoint(address)
        channel = open_channel(endpoint, tls=tls, options=channel_options(reconnect_ms=reconnect_ms))
        return cls(channel, endpoint=endpoint, timeout_ms=timeout_ms)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    async def newest_checkpoint(self) -> bytes:
        request = log_pb2.GetCheckpointRequest()
        return (await self._answer(self._stub.GetCheckpoint(request, timeout=self._timeout_s))).checkpoint

    async def entries(self, *, begin: int, end: int) -> AsyncIterator[Sequence[bytes]]:
        request = log_pb2.GetEntriesRequest(first_index=begin, end_index=end)
        try:
            async for message in self._stub.GetEntries(request, timeout=self._timeout_s):
                page = received(message, peer=self._name)
                if page.first_index != begin or not 0 < len(page.leaves) <= end - begin:
                    raise MalformedError(f"{self._name} sent entries that were not asked for, or not in order")
                if any(len(leaf) > ENTRY_BYTES_MAX for leaf in page.leaves):
                    raise MalformedError(f"{self._name} sent an entry of more than {ENTRY_BYTES_MAX} bytes")
                begin += len(page.leaves)
                yield page.leaves
        except grpc.RpcError as exc:
            raise self._error(exc) from exc

    async def inclusion_proof(self, *, index: int, size: int) -> tuple[bytes, ...]:
        request = log_pb2.GetInclusionProofRequest(leaf_index=index, tree_size=size)
        answer = await self._answer(self._stub.GetInclusionProof(request, timeout=self._timeout_s))
        return hashes_from_wire(answer.hashes, what="hashes")

    async def consistency_proof(self, *, size1: int, size2: int) -> tuple[bytes, ...]:
        request = log_pb2.GetConsistencyProofRequest(first_size=size1, second_size=size2)
        answer = await self._answer(self._stub.GetConsistencyProof(request, timeout=self._timeout_s))
        return hashes_from_wire(answer.hashes, what="hashes")

    async def _answer(self, call: Awaitable[_Answer]) -> _Answer:
        try:
            return received(await call, peer=self._name)
        except grpc.RpcError as exc:
            raise self._error(exc) from exc

    def _error(self, error: grpc.RpcError) -> TreeheadError:
        """What a failed call stands for."""
        return error_of(error, peer=self._name, endpoint=self._endpoint)


def channel_options(*, reconnect_ms: int) -> list[tuple[str, int]]:
    """The settings of a channel to a server that may be down for long and must be found soon after it is back."""
    backoff = min(max(reconnect_ms, 100), 5_000)
    return [
        *CHANNEL_OPTIONS,
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", backoff),
    ]
