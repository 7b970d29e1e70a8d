"""Load on a log: submitters of single entries and of batches, who come again when they got no answer, and watchers.

The seed decides who submits what. Whose turn it is, and what the log is doing meanwhile, is up to the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from tests.fault.ledger import Ledger
from tests.unit.library.specimens import attestation_leaf, digests, hashedrekord_leaf, release
from treehead.checkpoint import Checkpoint
from treehead.statement import format_release_statement
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import LogAsyncStub

CALL_SECONDS_MAX = 30
EVENT_SECONDS_MAX = 30
BATCH_ENTRIES_MAX = 48
ATTESTATION_EVERY = 8
"""Every so many leaves one is an attestation, the others are hashedrekords."""
TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Pool:
    """Signed leaves by number, each made once: signing costs more than all else that a submitter does."""

    def __init__(self) -> None:
        self._leaves: list[bytes] = []

    def leaf(self, number: int) -> bytes:
        """The leaf of a number, the same each time."""
        while number >= len(self._leaves):
            self._leaves.append(_make_leaf(len(self._leaves)))
        return self._leaves[number]


def _make_leaf(number: int) -> bytes:
    content = b"artifact %d" % number
    if number % ATTESTATION_EVERY:
        return hashedrekord_leaf(content)
    payload = format_release_statement(release(version=f"1.{number}", size=len(content)), digests=digests(content))
    return attestation_leaf(payload)


@dataclass(slots=True, kw_only=True)
class Load:
    """What is submitted: new entries, entries that went unanswered, and entries that are in the log already.

    `made` is the number of the next new leaf of the pool.
    """

    ledger: Ledger
    pool: Pool
    made: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def next_leaf(self, rng: random.Random) -> bytes:
        """A leaf to submit; it counts as submitted."""
        kind = rng.random()
        if kind < 0.2 and self.ledger.unanswered:
            return self.ledger.unanswered.pop(rng.randrange(len(self.ledger.unanswered)))
        if kind < 0.3 and self.ledger.leaf_at:
            # Some indices went to submitters who got no answer.
            return self.ledger.leaf_at.get(rng.randrange(len(self.ledger.leaf_at))) or self._new_leaf()
        return self._new_leaf()

    def _new_leaf(self) -> bytes:
        leaf = self.pool.leaf(self.made)
        self.made += 1
        self.ledger.submitted.add(leaf)
        return leaf

    async def run(self, address: str, over: asyncio.Event, *, seed: str, submitters: int) -> None:
        """Submit and watch until `over` is set; calls that then still wait for an answer end with the log."""
        async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
            stub = LogStub(channel)
            tasks.create_task(self._watch(stub))
            for number in range(submitters):
                # Each its own luck: what one submits does not depend on whose turn it is. Every fourth sends batches.
                rng = random.Random(f"{seed}:{number}")
                tasks.create_task(self._submit(stub, over, rng, batches=number % 4 == 3))

    async def _submit(self, stub: LogAsyncStub, over: asyncio.Event, rng: random.Random, *, batches: bool) -> None:
        while not over.is_set():
            leaves = [self.next_leaf(rng) for _ in range(rng.randint(2, BATCH_ENTRIES_MAX) if batches else 1)]
            if batches and rng.random() < 0.3:
                leaves.append(rng.choice(leaves))  # twice in one batch
            try:
                if batches:
                    await submit_batch(stub, self.ledger, leaves)
                else:
                    await submit(stub, self.ledger, leaves[0])
            except grpc.aio.AioRpcError as error:
                if error.code() not in TRY_AGAIN:
                    raise
                self.ledger.unanswered.extend(leaves)
                self.ledger.refusals += 1
            self._changed.set()

    async def _watch(self, stub: LogAsyncStub) -> None:
        size = -1
        with suppress(grpc.aio.AioRpcError):
            async for message in stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest()):
                head = self.ledger.note_head(message.checkpoint)
                assert head.size > size, "a watcher was shown an older head"
                size = head.size

    async def answers(self, count: int) -> None:
        """Returns when so many more calls have been answered."""
        enough = self.ledger.answers + count
        while self.ledger.answers < enough:
            await self._change()

    async def refusals(self, count: int) -> None:
        """Returns when so many more calls have failed."""
        enough = self.ledger.refusals + count
        while self.ledger.refusals < enough:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


async def submit(stub: LogAsyncStub, ledger: Ledger, leaf: bytes) -> log_pb2.AddEntryResponse:
    """Submit one entry, and note the answer."""
    response = await stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=CALL_SECONDS_MAX)
    ledger.note_answer(leaf, response)
    return response


async def submit_batch(stub: LogAsyncStub, ledger: Ledger, leaves: list[bytes]) -> log_pb2.AddEntriesResponse:
    """Submit a batch, and note the answer."""
    response = await stub.AddEntries(log_pb2.AddEntriesRequest(leaves=leaves), timeout=CALL_SECONDS_MAX)
    ledger.note_batch(leaves, response)
    return response


async def newest_head(stub: LogAsyncStub, ledger: Ledger) -> Checkpoint:
    """The largest checkpoint that the log has given out, now that the published one is noted as well."""
    response = await stub.GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=CALL_SECONDS_MAX)
    ledger.note_head(response.checkpoint)
    return ledger.heads[max(ledger.heads)]


async def first_of(*events: Awaitable[object]) -> None:
    """Returns when the first of some events has happened, or fails when none does in a long time."""
    waiting = [asyncio.ensure_future(event) for event in events]
    try:
        done, _ = await asyncio.wait(waiting, timeout=EVENT_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        assert done, f"nothing of what was waited for happened within {EVENT_SECONDS_MAX} s"
        for event in done:
            event.result()
    finally:
        for event in waiting:
            event.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
