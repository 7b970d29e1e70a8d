"""One log from start to stop: the only module that knows which parts there are, and what each is made of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from treehead.checkpoint import open_checkpoint
from treehead.datadir import locked, read_key, read_vkey
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.server import Server, stop_requested
from treehead.v1 import log_pb2, log_pb2_grpc
from treehead_logserver.admission import Admission
from treehead_logserver.config import ServeConfig
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.heads import Head, Heads
from treehead_logserver.highwater import HighWaterMark, create_mark
from treehead_logserver.prover import Prover
from treehead_logserver.recovery import check_mark, recover_edge
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.service import LogService
from treehead_logserver.signer import Signer
from treehead_logserver.storage.schema import read_unmarked_checkpoint
from treehead_logserver.storage.sqlite import SqliteStorage

_LOG = logging.getLogger(__name__)

SERVICE_NAME = log_pb2.DESCRIPTOR.services_by_name["Log"].full_name

SWITCH_INTERVAL_SECONDS = 0.0002
"""How long the thread that commits waits for the interpreter until the event loop has to hand it over.

The wait begins anew whenever the loop lets go and takes it back before the thread has woken, as with each call to the
operating system. So it has to be shorter than the time between two of these, or the thread may wait for tens of
milliseconds. Python's own is 5 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLog:
    """A log that answers on `address` (HOST:PORT). That `committing` ends early is a failure, which it raises."""

    address: str
    vkey: VerifierKey
    committing: asyncio.Task[None]


async def serve(config: ServeConfig, *, announce: Callable[[str], None]) -> None:
    """Serve a log until SIGTERM or SIGINT asks to stop; `announce` is called with its address when it is ready.

    Raises:
        UsageError: the directory holds no log, or its key cannot be opened.
        StorageError: the directory is in use, or the database is damaged or failed; nothing is served any more.
        UnavailableError: the address cannot be listened on.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    stop = stop_requested()
    async with running_log(config) as log:
        # What is there by now stays. A collection that had to look through it would stop everything for 15 ms.
        gc.collect()
        gc.freeze()
        announce(log.address)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, log.committing), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _LOG.info("stopping")
    _LOG.info("stopped")


@contextlib.asynccontextmanager
async def running_log(config: ServeConfig) -> AsyncIterator[RunningLog]:
    """Start a log, and on leaving drain and stop it, in the reverse order; raises as `serve` does."""
    limits = config.limits
    directory = DataDirectory(path=config.data)
    async with contextlib.AsyncExitStack() as stack:
        vkey = read_vkey(directory)
        stack.enter_context(locked(directory))
        key = read_key(directory, vkey=vkey, passphrase=config.passphrase)
        mark = _open_mark(directory, vkey)
        stack.callback(mark.close)  # after the storage, whose last commit may still note what it settled
        storage = await SqliteStorage.open(directory.database)
        stack.push_async_callback(storage.close)
        state = await storage.read_state()
        edge = await recover_edge(storage, state, vkey=vkey)
        with _advising(directory):
            await check_mark(storage, edge, mark.newest)
        # What an earlier process committed and did not come to show is shown from now on. It is noted even if it was
        # noted before: that may have reached the cache only.
        mark.raise_to(state.size, state.checkpoint)
        _LOG.info("log %s has %d entries (SQLite %s)", vkey.name, state.size, sqlite3.sqlite_version)

        heads = Heads(Head.of(edge, checkpoint=state.checkpoint))
        prover = Prover(storage, tiles_max=limits.tiles_max)
        admission = Admission(limits, kinds=config.kinds)
        stack.push_async_callback(admission.close)
        await admission.start()
        sequencer = Sequencer(
            storage=storage,
            signer=Signer(key=key, origin=vkey.name),
            settle=lambda state: mark.raise_to(state.size, state.checkpoint),
            edge=edge,
            heads=heads,
            prover=prover,
            limits=limits,
        )
        committing = asyncio.create_task(sequencer.run(), name="sequencer")
        stack.push_async_callback(_finish_commits, sequencer, committing, limits.drain_ms)

        server = Server(
            SERVICE_NAME,
            calls_max=limits.calls_max,
            drain_ms=limits.drain_ms,
            message_bytes_max=limits.message_bytes_max,
        )
        service = LogService(
            vkey=vkey,
            kinds=config.kinds,
            limits=limits,
            admission=admission,
            sequencer=sequencer,
            heads=heads,
            prover=prover,
            storage=storage,
        )
        log_pb2_grpc.add_LogServicer_to_server(service, server.grpc)
        address = await server.start(config.grpc)
        stack.push_async_callback(server.stop)
        stack.callback(heads.close)  # first of all: who watches would otherwise stay until the deadline
        yield RunningLog(address=address, vkey=vkey, committing=committing)


def _open_mark(directory: DataDirectory, vkey: VerifierKey) -> HighWaterMark:
    """The high-water mark; a log of the first version, which had none, is given one."""
    if not directory.mark.exists() and (checkpoint := read_unmarked_checkpoint(directory.database)) is not None:
        try:
            open_checkpoint(checkpoint, key=vkey)
        except (MalformedError, SignatureError) as exc:
            raise StorageError(f"the database's checkpoint is not by {vkey.name}: {exc}") from exc
        create_mark(directory.mark, checkpoint)
    with _advising(directory):
        return HighWaterMark.open(directory.mark, vkey=vkey)


@contextlib.contextmanager
def _advising(directory: DataDirectory) -> Iterator[None]:
    """What is wrong with the mark, or with the database by what it says, ends with where to read on."""
    try:
        yield
    except StorageError as exc:
        raise type(exc)(f"{exc}; treehead-log recover --data {directory.path} says what to do") from exc


async def _finish_commits(sequencer: Sequencer, committing: asyncio.Task[None], drain_ms: int) -> None:
    sequencer.drain()
    try:
        async with asyncio.timeout(drain_ms / 1_000):
            await committing
    except TimeoutError as exc:
        raise StorageError(
            f"the last commits did not end within {drain_ms} ms; who waited for them got no answer and may try again"
        ) from exc
