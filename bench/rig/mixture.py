"""A mixed load that exercises every call of the log, from a seed: what a server meets that is left to its users.

Entries are added one by one and in batches, again, and malformed; proofs are asked for by index, by hash and between
heads; entries are read and looked for; heads are watched; and callers go away in the middle of it. Every answer is
verified. Each caller draws from a generator of its own, so what one of them does depends on the seed and on what the
log has told it, not on whose turn it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from bench.rig.entries import Publisher
from bench.rig.verifier import Verifier
from treehead.checkpoint import Checkpoint
from treehead.errors import RefusedError
from treehead.keys import VerifierKey
from treehead.merkle import hash_leaf, verify_consistency, verify_inclusion
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import LogAsyncStub

CALL_SECONDS_MAX = 60
RETRY_SECONDS = 0.1
BATCH_ENTRIES_MAX = 32
READ_ENTRIES_MAX = 512
WATCHED_HEADS_MAX = 3
WATCH_SECONDS_MAX = 1.0
LEAVE_SECONDS_MAX = 0.01
KNOWN_MAX = 20_000
HEADS_MAX = 1_000


Operation = Callable[[random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An entry that the log acknowledged."""

    index: int
    leaf: bytes
    sha256: bytes


class Mixture:
    """The load on one log. `done` counts the calls by what they were, and those that were refused for lack of room."""

    def __init__(self, channel: grpc.aio.Channel, vkey: VerifierKey, *, seed: int) -> None:
        self._stub: LogAsyncStub = LogStub(channel)
        self._verifier = Verifier(vkey)
        self._publisher = Publisher(seed=seed)
        self._seed = seed
        self._runs = 0
        self._known: deque[Known] = deque(maxlen=KNOWN_MAX)
        self._heads: deque[Checkpoint] = deque(maxlen=HEADS_MAX)
        self.done: Counter[str] = Counter()
        self._weights: dict[Operation, int] = {
            self._add: 36,
            self._add_again: 8,
            self._add_batch: 6,
            self._add_malformed: 6,
            self._prove_index: 10,
            self._prove_hash: 6,
            self._prove_consistency: 6,
            self._read: 4,
            self._audit: 6,
            self._find: 6,
            self._watch: 2,
            self._leave: 4,
        }

    @property
    def operations(self) -> list[str]:
        """The kinds of calls that there are, as `done` names them."""
        return [operation.__name__.lstrip("_") for operation in self._weights]

    async def run(self, *, callers: int, calls: int, calls_per_s: float | None = None) -> None:
        """Have so many callers make so many calls between them; about so many a second, if that is given."""
        self._runs += 1
        left = iter(range(calls))
        pause_s = 0.0 if calls_per_s is None else callers / calls_per_s
        async with asyncio.TaskGroup() as tasks:
            for caller in range(callers):
                rng = random.Random(f"mixture:{self._seed}:{self._runs}:{caller}")
                tasks.create_task(self._call_on(rng, left, pause_s))

    async def _call_on(self, rng: random.Random, left: Iterator[int], pause_s: float) -> None:
        for _ in left:
            (operation,) = rng.choices([*self._weights], [*self._weights.values()])
            if not self._known:
                operation = self._add
            try:
                await operation(rng)
                self.done[operation.__name__.lstrip("_")] += 1
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                self.done["refused"] += 1
                await asyncio.sleep(RETRY_SECONDS)
            if pause_s:
                await asyncio.sleep(rng.expovariate(1 / pause_s))

    # --- what is added -----------------------------------------------------------------------------------------------

    async def _add(self, rng: random.Random) -> None:
        leaf, sha256 = self._publisher.leaf_with_digest()
        response = await self._stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=CALL_SECONDS_MAX)
        index = self._proven(leaf, response.proof)
        if response.duplicate:
            raise RefusedError(f"the log calls the new entry {index} a duplicate")
        self._known.append(Known(index=index, leaf=leaf, sha256=sha256))

    async def _add_again(self, rng: random.Random) -> None:
        known = rng.choice(self._known)
        response = await self._stub.AddEntry(log_pb2.AddEntryRequest(leaf=known.leaf), timeout=CALL_SECONDS_MAX)
        if not response.duplicate or self._proven(known.leaf, response.proof) != known.index:
            raise RefusedError(f"the log does not remember entry {known.index}")

    async def _add_batch(self, rng: random.Random) -> None:
        """New entries, one that the log has, and one that is malformed."""
        known = rng.choice(self._known)
        fresh = [self._publisher.leaf_with_digest() for _ in range(rng.randrange(1, BATCH_ENTRIES_MAX))]
        leaves = [*(leaf for leaf, _ in fresh), known.leaf, known.leaf[:-1]]
        response = await self._stub.AddEntries(log_pb2.AddEntriesRequest(leaves=leaves), timeout=CALL_SECONDS_MAX)
        self._head(response.checkpoint)
        *added, again, malformed = response.results
        if again.added.leaf_index != known.index or not malformed.HasField("refused"):
            raise RefusedError("the log mistook a duplicate, or took what is malformed")
        for (leaf, sha256), result in zip(fresh, added, strict=True):
            if not result.HasField("added"):
                raise RefusedError(f"the log did not take a good entry: {result.refused.reason}")
            self._known.append(Known(index=result.added.leaf_index, leaf=leaf, sha256=sha256))

    async def _add_malformed(self, rng: random.Random) -> None:
        leaf = bytearray(rng.choice(self._known).leaf)
        leaf[rng.randrange(len(leaf))] ^= 0x80
        try:
            await self._stub.AddEntry(log_pb2.AddEntryRequest(leaf=bytes(leaf)), timeout=CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return
            raise
        raise RefusedError("the log took an entry that is malformed")

    # --- what is asked -----------------------------------------------------------------------------------------------

    async def _prove_index(self, rng: random.Random) -> None:
        known = rng.choice(self._known)
        await self._prove(known, log_pb2.GetInclusionProofRequest(leaf_index=known.index))

    async def _prove_hash(self, rng: random.Random) -> None:
        known = rng.choice(self._known)
        await self._prove(known, log_pb2.GetInclusionProofRequest(leaf_hash=hash_leaf(known.leaf)))

    async def _prove(self, known: Known, request: log_pb2.GetInclusionProofRequest) -> None:
        response = await self._stub.GetInclusionProof(request, timeout=CALL_SECONDS_MAX)
        self._verify(known.leaf, response.leaf_index, response.hashes, self._head(response.checkpoint))

    async def _prove_consistency(self, rng: random.Random) -> None:
        first, second = sorted((rng.choice(self._heads), rng.choice(self._heads)), key=lambda head: head.size)
        request = log_pb2.GetConsistencyProofRequest(first_size=first.size, second_size=second.size)
        response = await self._stub.GetConsistencyProof(request, timeout=CALL_SECONDS_MAX)
        verify_consistency(
            size1=first.size, size2=second.size, root1=first.root, root2=second.root, proof=response.hashes
        )

    async def _read(self, rng: random.Random) -> None:
        known = rng.choice(self._known)
        request = log_pb2.GetEntriesRequest(
            first_index=known.index, end_index=min(known.index + READ_ENTRIES_MAX, self._heads[-1].size)
        )
        call = self._stub.GetEntries(request, timeout=CALL_SECONDS_MAX)
        leaves = [leaf async for message in call for leaf in message.leaves]
        if not leaves or leaves[0] != known.leaf:
            raise RefusedError(f"the log gave out another entry {known.index}")

    async def _audit(self, rng: random.Random) -> None:
        """Read an entry of any age, and have it proven."""
        index = rng.randrange(self._heads[-1].size)
        call = self._stub.GetEntries(
            log_pb2.GetEntriesRequest(first_index=index, end_index=index + 1), timeout=CALL_SECONDS_MAX
        )
        (leaf,) = [leaf async for message in call for leaf in message.leaves]
        request = log_pb2.GetInclusionProofRequest(leaf_index=index)
        response = await self._stub.GetInclusionProof(request, timeout=CALL_SECONDS_MAX)
        self._verify(leaf, index, response.hashes, self._head(response.checkpoint))

    async def _find(self, rng: random.Random) -> None:
        known = rng.choice(self._known)
        request = log_pb2.FindEntriesRequest(digest=log_pb2.Digest(algorithm="sha256", value=known.sha256))
        response = await self._stub.FindEntries(request, timeout=CALL_SECONDS_MAX)
        head = self._head(response.checkpoint)
        for entry in response.entries:
            self._verify(entry.leaf, entry.leaf_index, entry.hashes, head)
        # What is found is what has been published.
        if known.index < head.size and known.leaf not in [entry.leaf for entry in response.entries]:
            raise RefusedError(f"the log does not find entry {known.index} by its digest")

    # --- who watches, and who goes away ------------------------------------------------------------------------------

    async def _watch(self, rng: random.Random) -> None:
        """Take some heads, or wait a while for them, and go away."""
        call = self._stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest())
        wanted = rng.randrange(1, WATCHED_HEADS_MAX + 1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS_MAX):
                async for message in call:
                    self._head(message.checkpoint)
                    wanted -= 1
                    if not wanted:
                        break
        call.cancel()

    async def _leave(self, rng: random.Random) -> None:
        """Begin something, and go away before it is done."""
        leaves = [self._publisher.leaf() for _ in range(rng.randrange(1, BATCH_ENTRIES_MAX))]
        begun: tuple[grpc.aio.RpcContext, ...] = (
            self._stub.AddEntries(log_pb2.AddEntriesRequest(leaves=leaves)),
            self._stub.GetEntries(log_pb2.GetEntriesRequest()),
        )
        await asyncio.sleep(rng.random() * LEAVE_SECONDS_MAX)
        for call in begun:
            call.cancel()

    # --- what every answer is held to --------------------------------------------------------------------------------

    def _head(self, data: bytes) -> Checkpoint:
        head = self._verifier.checkpoint(data)
        if not self._heads or head.size > self._heads[-1].size:
            self._heads.append(head)
        return head

    def _proven(self, leaf: bytes, proof: log_pb2.InclusionProof) -> int:
        """The index of the leaf, which the proof shows."""
        self._verify(leaf, proof.leaf_index, proof.hashes, self._head(proof.checkpoint))
        return proof.leaf_index

    def _verify(self, leaf: bytes, index: int, hashes: Sequence[bytes], head: Checkpoint) -> None:
        verify_inclusion(index=index, size=head.size, leaf_hash=hash_leaf(leaf), proof=hashes, root=head.root)
