"""The writing half of a log on a real database, without gRPC and signatures: what the sequencer's tests are about."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN
from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.merkle import hash_leaf
from treehead.tile import RightEdge
from treehead_logserver.config import Limits
from treehead_logserver.heads import Head, Heads
from treehead_logserver.metrics import Metrics
from treehead_logserver.prover import Prover
from treehead_logserver.recovery import recover_edge
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Candidate, Extend, Placed, Sequencing, Settle, Storage, TreeState
from treehead_logserver.storage.sqlite import SqliteStorage, create_database

DRAIN_SECONDS_MAX = 30
SIGNER = Signer(key=LOG, origin=ORIGIN)


def candidate(leaf: bytes) -> Candidate:
    return Candidate(leaf, hash_leaf(leaf))


def random_leaves(count: int, *, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(24) for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A sequencer at work, and what it works on."""

    storage: Storage
    heads: Heads
    prover: Prover
    sequencer: Sequencer
    committing: asyncio.Task[None]

    async def submit(self, *leaves: bytes) -> list[Placed]:
        return list(await self.sequencer.submit([candidate(leaf) for leaf in leaves]))

    def checkpoint(self) -> Checkpoint:
        """What the newest head signs."""
        return open_checkpoint(self.heads.newest.checkpoint, key=LOG_KEY)


class Valve:
    """A `Sequencing` before a real one, which lets commits through when told to, or fails them."""

    def __init__(self, storage: Sequencing) -> None:
        self._storage = storage
        self._turns = asyncio.Semaphore(0)
        self.began = asyncio.Semaphore(0)
        self.sizes: list[int] = []
        self.before_commit: Exception | None = None
        self.at_commit: Exception | None = None

    def let_through(self, commits: int = 1) -> None:
        for _ in range(commits):
            self._turns.release()

    async def read_state(self) -> TreeState:
        return await self._storage.read_state()

    async def tidy(self) -> bool:
        return await self._storage.tidy()

    async def append(self, candidates: Sequence[Candidate], extend: Extend, settle: Settle) -> Sequence[Placed]:
        self.sizes.append(len(candidates))
        self.began.release()
        await self._turns.acquire()
        if (error := self.before_commit) is not None:
            # As in a transaction that fails: the tree has been extended, and none of it happened.
            extend((await self._storage.read_state()).size, [candidate.leaf_hash for candidate in candidates])
            raise error
        placed = await self._storage.append(candidates, extend, settle)
        if self.at_commit is not None:
            raise self.at_commit
        return placed


def create(folder: Path) -> Path:
    """The database of an empty log."""
    path = folder / "log.sqlite"
    create_database(path, SIGNER.state_of(RightEdge()))
    return path


@contextlib.asynccontextmanager
async def parts(
    path: Path,
    *,
    limits: Limits | None = None,
    before: Callable[[Storage], Sequencing] = lambda storage: storage,
    settle: Settle = lambda state: None,
) -> AsyncIterator[Parts]:
    """Open the log and set its sequencer to work; `before` puts something between it and the storage."""
    limits = limits or Limits()
    async with contextlib.AsyncExitStack() as stack:
        storage = await SqliteStorage.open(path)
        stack.push_async_callback(storage.close)
        state = await storage.read_state()
        edge = await recover_edge(storage, state, vkey=LOG_KEY)
        heads = Heads(Head.of(edge, checkpoint=state.checkpoint))
        prover = Prover(storage, tiles_max=limits.tiles_max)
        sequencer = Sequencer(
            storage=before(storage),
            signer=SIGNER,
            settle=settle,
            edge=edge,
            heads=heads,
            prover=prover,
            limits=limits,
            metrics=Metrics(origin=ORIGIN),
        )
        committing = asyncio.create_task(sequencer.run())
        stack.callback(committing.cancel)
        yield Parts(storage=storage, heads=heads, prover=prover, sequencer=sequencer, committing=committing)
        sequencer.drain()
        await asyncio.wait((committing,), timeout=DRAIN_SECONDS_MAX)
