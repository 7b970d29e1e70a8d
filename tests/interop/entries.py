"""Entries of all kinds, and how a log gets and publishes them."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from tests.unit.library.specimens import attestation_leaf, hashedrekord_leaf, statement
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS

BATCH_ENTRIES = 1_024
HASTY = "[publication]\ninterval_ms = 100\n"
"""A log.toml for a log that nobody should have to wait for."""
DEADLINE_SECONDS = 30


def mixed_leaves(count: int) -> list[bytes]:
    """As many signatures over files as attestations, one after the other."""
    return [
        attestation_leaf(statement(version=f"1.{number}")) if number % 2 else hashedrekord_leaf(b"file %d" % number)
        for number in range(count)
    ]


async def publish(address: str, leaves: Sequence[bytes]) -> bytes:
    """Log entries by gRPC; returns a published checkpoint that holds all of them."""
    checkpoint = b""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = LogStub(channel)
        for first in range(0, len(leaves), BATCH_ENTRIES):
            is_last = first + BATCH_ENTRIES >= len(leaves)
            wait = log_pb2.WAIT_WITNESSED if is_last else log_pb2.WAIT_INTEGRATED
            request = log_pb2.AddEntriesRequest(leaves=leaves[first : first + BATCH_ENTRIES], wait=wait)
            response = await stub.AddEntries(request, timeout=DEADLINE_SECONDS)
            assert all(result.HasField("added") for result in response.results), response
            checkpoint = response.checkpoint
    return checkpoint
