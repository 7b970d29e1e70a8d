"""A log that is killed at random moments under load keeps its promises: what was acknowledged stays, and no head lies.

The seed decides who submits what and after how many answers the log is killed. What the log was doing at that moment is
up to the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import Tree, hashedrekord_leaf
from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.keys import VerifierKey, parse_vkey
from treehead.merkle import hash_leaf, verify_consistency, verify_inclusion
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import LogAsyncStub

SEED = 20_261_122
KILLS = 10
SUBMITTERS = 64
ANSWERS_MAX = 350
"""The log is killed after 1 to this many answers."""
SAMPLE = 40
"""How many old entries and heads are proven again after each start; after the last one it is all of them."""
CALL_SECONDS_MAX = 30


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What the log told its submitters and watchers, over all its lives."""

    vkey: VerifierKey
    index_of: dict[bytes, int] = field(default_factory=dict)
    leaf_at: dict[int, bytes] = field(default_factory=dict)
    heads: dict[int, Checkpoint] = field(default_factory=dict)
    unanswered: list[bytes] = field(default_factory=list)
    answers: int = 0

    def note_head(self, data: bytes) -> Checkpoint:
        """Keep a checkpoint that was handed out; two of one size must be equal."""
        checkpoint = open_checkpoint(data, key=self.vkey)
        assert self.heads.setdefault(checkpoint.size, checkpoint) == checkpoint
        return checkpoint

    def note_answer(self, leaf: bytes, response: log_pb2.AddEntryResponse) -> None:
        """Keep an acknowledged entry, after checking its proof and that no other entry has its index."""
        index, checkpoint = response.proof.leaf_index, self.note_head(response.proof.checkpoint)
        verify_inclusion(
            index=index,
            size=checkpoint.size,
            leaf_hash=hash_leaf(leaf),
            proof=response.proof.hashes,
            root=checkpoint.root,
        )
        if leaf in self.index_of:
            assert response.duplicate
        assert self.index_of.setdefault(leaf, index) == index
        assert self.leaf_at.setdefault(index, leaf) == leaf
        self.answers += 1


@dataclass(slots=True, kw_only=True)
class Load:
    """Submitters that send new entries, entries that went unanswered, and entries that are in the log already."""

    ledger: Ledger
    made: int = 0

    def next_leaf(self, rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.2 and self.ledger.unanswered:
            return self.ledger.unanswered.pop(rng.randrange(len(self.ledger.unanswered)))
        if kind < 0.3 and self.ledger.index_of:
            return rng.choice(list(self.ledger.index_of))
        self.made += 1
        return hashedrekord_leaf(b"artifact %d" % self.made)

    async def submit(self, rng: random.Random, stub: LogAsyncStub, enough: asyncio.Event, answers: int) -> None:
        """Submit one entry after the other until the log is gone."""
        while True:
            leaf = self.next_leaf(rng)
            try:
                response = await stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=CALL_SECONDS_MAX)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                self.ledger.unanswered.append(leaf)
                return
            self.ledger.note_answer(leaf, response)
            if self.ledger.answers >= answers:
                enough.set()

    async def watch(self, stub: LogAsyncStub) -> None:
        """Note every head that a watcher is shown until the log is gone."""
        with suppress(grpc.aio.AioRpcError):
            async for message in stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest()):
                self.ledger.note_head(message.checkpoint)

    async def until_killed(self, log: LogProcess, *, kill: int) -> None:
        """Put the log under load, and kill it at a random moment."""
        rng = random.Random(f"{SEED}:{kill}")
        enough, answers = asyncio.Event(), self.ledger.answers + rng.randrange(1, ANSWERS_MAX + 1)
        async with grpc.aio.insecure_channel(log.address) as channel, asyncio.TaskGroup() as tasks:
            stub = LogStub(channel)
            tasks.create_task(self.watch(stub))
            for number in range(SUBMITTERS):
                # Each its own: what one submits does not depend on whose turn it is.
                own = random.Random(f"{SEED}:{kill}:{number}")
                tasks.create_task(self.submit(own, stub, enough, answers))
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await enough.wait()
            await asyncio.sleep(rng.random() * 0.005)  # the commits do not wait for our count
            await log.kill()


async def entries(stub: LogAsyncStub) -> list[bytes]:
    """All entries of the log."""
    call = stub.GetEntries(log_pb2.GetEntriesRequest(), timeout=CALL_SECONDS_MAX)
    return [leaf async for message in call for leaf in message.leaves]


async def check_promises(log: LogProcess, ledger: Ledger, *, indices: Sequence[int], sizes: Sequence[int]) -> None:
    """Hold a started log to all that was ever said, and have it prove these indices and sizes itself."""
    async with grpc.aio.insecure_channel(log.address) as channel:
        stub = LogStub(channel)
        response = await stub.GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=CALL_SECONDS_MAX)
        newest = ledger.note_head(response.checkpoint)
        leaves = await entries(stub)
        assert len(leaves) == newest.size
        assert len(set(leaves)) == len(leaves)
        assert {index: leaf for index, leaf in enumerate(leaves) if index in ledger.leaf_at} == ledger.leaf_at
        tree = Tree(leaves)
        assert {size: tree.root(size) for size in ledger.heads} == {
            size: checkpoint.root for size, checkpoint in ledger.heads.items()
        }
        for index in indices:
            await check_entry(stub, ledger, index)
        for size in sizes:
            await check_head(stub, ledger.heads[size], newest)


async def check_entry(stub: LogAsyncStub, ledger: Ledger, index: int) -> None:
    """The entry is proven by its hash, and submitting it again gives its first index."""
    leaf = ledger.leaf_at[index]
    request = log_pb2.GetInclusionProofRequest(leaf_hash=hash_leaf(leaf))
    response = await stub.GetInclusionProof(request, timeout=CALL_SECONDS_MAX)
    proof = log_pb2.InclusionProof(leaf_index=index, hashes=response.hashes, checkpoint=response.checkpoint)
    ledger.note_answer(leaf, log_pb2.AddEntryResponse(proof=proof, duplicate=True))
    ledger.note_answer(leaf, await stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=CALL_SECONDS_MAX))


async def check_head(stub: LogAsyncStub, old: Checkpoint, newest: Checkpoint) -> None:
    """The log proves that the old head's tree is a prefix of the newest one."""
    request = log_pb2.GetConsistencyProofRequest(first_size=old.size, second_size=newest.size)
    response = await stub.GetConsistencyProof(request, timeout=CALL_SECONDS_MAX)
    verify_consistency(size1=old.size, size2=newest.size, root1=old.root, root2=newest.root, proof=response.hashes)


async def test_a_log_killed_ten_times_under_load_keeps_every_promise(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    ledger = Ledger(vkey=parse_vkey(await create_log(tmp_path / "log", origin="log.example/killed")))
    load = Load(ledger=ledger)
    log = LogProcess(tmp_path / "log")
    for kill in range(KILLS):
        async with log:
            indices, sizes = sorted(ledger.leaf_at), sorted(ledger.heads)
            await check_promises(
                log,
                ledger,
                indices=rng.sample(indices, min(SAMPLE, len(indices))),
                sizes=rng.sample(sizes, min(SAMPLE, len(sizes))),
            )
            await load.until_killed(log, kill=kill)
    async with log:
        await check_promises(log, ledger, indices=sorted(ledger.leaf_at), sizes=sorted(ledger.heads))
        assert await log.stop() == 0
    assert len(ledger.leaf_at) > KILLS
