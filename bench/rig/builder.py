"""A log in this process, without gRPC and admission: to fill large logs quickly, and to time proofs alone.

The parts are the server's own, put together as `treehead_logserver.app` does it. The leaves are opaque, so any of
them can be made again; the log takes them, whichever kinds it would take over gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.rig.entries import OPAQUE_CHUNK_ENTRIES, OpaqueLeaves
from bench.rig.program import say
from bench.rig.server import create_log
from treehead.datadir import locked, read_key, read_vkey
from treehead.errors import StorageError
from treehead.merkle import CompactRange, hash_leaf
from treehead_logserver.config import Limits
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.heads import Head, Heads
from treehead_logserver.highwater import HighWaterMark
from treehead_logserver.metrics import Metrics
from treehead_logserver.prover import Prover
from treehead_logserver.recovery import recover_edge
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Candidate
from treehead_logserver.storage.sqlite import SqliteStorage

COMMIT_CHUNKS = 4
REPORT_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LogParts:
    """A log at work in this process."""

    sequencer: Sequencer
    heads: Heads
    prover: Prover


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledLog:
    """A stopped log of `size` entries, of which the first `filled` are `leaves`."""

    folder: Path
    size: int
    filled: int
    leaves: OpaqueLeaves

    def leaf_hashes(self, indices: Iterable[int]) -> dict[int, bytes]:
        """The leaf hashes of some of the filled entries, by index; quick when the indices are in order."""
        return {index: hash_leaf(self.leaves.leaf(index)) for index in indices}

    def tree(self) -> CompactRange:
        """The tree of the filled entries, made anew from the leaves; takes a few seconds for a million."""
        tree = CompactRange()
        for chunk in self.leaves.chunks(0, self.filled):
            for leaf in chunk:
                tree.append(hash_leaf(leaf))
        return tree

    def copy(self, folder: Path) -> FilledLog:
        """A copy to write to."""
        shutil.copytree(self.folder, folder)
        return dataclasses.replace(self, folder=folder)


async def filled_log(options: Namespace, scratch: Path, *, size: int) -> FilledLog:
    """A log with at least `size` entries: one that is kept, if there is a folder for such, else a new one."""
    leaves = OpaqueLeaves(seed=options.seed)
    folder = (options.logs or scratch) / f"log-{options.seed}-{size}"
    if not (folder / "vkey").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        await create_log(folder)
    return FilledLog(folder=folder, size=await grow_log(folder, size=size, leaves=leaves), filled=size, leaves=leaves)


@contextlib.asynccontextmanager
async def open_log(folder: Path) -> AsyncIterator[LogParts]:
    """Open the log in a folder, which no server may be using; its sequencer ends with the context."""
    directory, limits = DataDirectory(path=folder), Limits()
    async with contextlib.AsyncExitStack() as stack:
        vkey = read_vkey(directory)
        stack.enter_context(locked(directory))
        storage = await SqliteStorage.open(directory.database)
        stack.push_async_callback(storage.close)
        state = await storage.read_state()
        edge = await recover_edge(storage, state, vkey=vkey)
        mark = HighWaterMark.open(directory.mark, vkey=vkey)
        stack.callback(mark.close)
        heads = Heads(Head.of(edge, checkpoint=state.checkpoint))
        prover = Prover(storage, tiles_max=limits.tiles_max)
        sequencer = Sequencer(
            storage=storage,
            signer=Signer(key=read_key(directory, vkey=vkey, passphrase=None), origin=vkey.name),
            settle=lambda state: mark.raise_to(state.size, state.checkpoint),
            edge=edge,
            heads=heads,
            prover=prover,
            limits=limits,
            metrics=Metrics(origin=vkey.name),
        )
        committing = asyncio.create_task(sequencer.run())
        yield LogParts(sequencer=sequencer, heads=heads, prover=prover)
        sequencer.drain()
        await committing


async def grow_log(folder: Path, *, size: int, leaves: OpaqueLeaves) -> int:
    """Add leaves, from where the log ends, until it has `size` entries; returns how many it has now, perhaps more.

    Raises:
        StorageError: what was there is not made of these leaves.
    """
    async with open_log(folder) as log:
        begin = end = log.heads.newest.size
        said = began = time.perf_counter()
        pending: set[asyncio.Task[object]] = set()
        step = COMMIT_CHUNKS * OPAQUE_CHUNK_ENTRIES
        while end < size:
            first, end = end, min(size, (end // step + 1) * step)
            candidates = [Candidate(leaf, hash_leaf(leaf)) for leaf in leaves.leaves(first, end)]
            pending.add(asyncio.create_task(log.sequencer.submit(candidates)))
            if len(pending) > 1:  # one is committed while the next is made
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            if (now := time.perf_counter()) - said > REPORT_SECONDS:
                said = now
                say(f"filling a log: {end:,} of {size:,} entries, {(end - begin) / (now - began):,.0f}/s")
        for task in pending:
            await task
        if log.heads.newest.size != max(begin, size):
            raise StorageError(f"{folder} holds other leaves than those that it was to be filled with")
        return log.heads.newest.size
