"""One log from start to stop: the only module that knows which parts there are, and what each is made of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from treehead.cosignature import verify_cosignature
from treehead.errors import StorageError, TreeheadError
from treehead.httpserver import HttpBounds, HttpServer
from treehead.keys import VerifierKey
from treehead.note import Note, parse_note
from treehead.policy import Policy
from treehead.server import Server, stop_requested
from treehead.tls import ClientTls, load_server_tls
from treehead.v1 import log_pb2, log_pb2_grpc
from treehead_logserver.admission import Admission
from treehead_logserver.calls import Calls
from treehead_logserver.config import ServeConfig
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.gauges import watch_parts
from treehead_logserver.heads import Head, Heads
from treehead_logserver.health import Health
from treehead_logserver.http.add import AddFace
from treehead_logserver.http.answering import Answering
from treehead_logserver.http.application import make_application
from treehead_logserver.http.bodies import Bodies
from treehead_logserver.http.operations import OperationsFace
from treehead_logserver.http.rekor import RekorFace
from treehead_logserver.http.tiles import TilesFace
from treehead_logserver.intake import Intake
from treehead_logserver.kinds import HASHEDREKORD, OPAQUE
from treehead_logserver.metrics import Metrics
from treehead_logserver.opening import opened_log
from treehead_logserver.prover import Prover
from treehead_logserver.publisher import Publisher
from treehead_logserver.quota import Quotas
from treehead_logserver.recovery import recover_published
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.service import LogService
from treehead_logserver.signer import Signer
from treehead_logserver.witness.client import WitnessClient
from treehead_logserver.witness.exchange import witness_transport
from treehead_logserver.witness.panel import Panel

_LOG = logging.getLogger(__name__)

SERVICE_NAME = log_pb2.DESCRIPTOR.services_by_name["Log"].full_name

SWITCH_INTERVAL_SECONDS = 0.0002
"""How long the thread that commits waits for the interpreter until the event loop has to hand it over.

The wait begins anew whenever the loop lets go and takes it back before the thread has woken, as with each call to the
operating system. So it has to be shorter than the time between two of these, or the thread may wait for tens of
milliseconds. Python's own is 5 ms."""

_DESCRIPTORS = 8_192
"""Open files and connections that the process asks the operating system for. Its own bounds add up to less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLog:
    """A log that answers on two addresses (HOST:PORT). That `working` ends early is a failure, which it raises."""

    grpc: str
    http: str
    vkey: VerifierKey
    working: asyncio.Task[None]


async def serve(config: ServeConfig, *, announce: Callable[[RunningLog], None]) -> None:
    """Serve a log until SIGTERM or SIGINT asks to stop; `announce` is called with it when it is ready.

    Raises:
        UsageError: the directory holds no log, or its key or a file of the configuration cannot be used.
        StorageError: the directory is in use, or the database is damaged or failed; nothing is served any more.
        UnavailableError: an address cannot be listened on.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    _raise_descriptors()
    stop = stop_requested()
    async with running_log(config) as log:
        # What is there by now stays. A collection that had to look through it would stop everything for 15 ms.
        gc.collect()
        gc.freeze()
        announce(log)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, log.working), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _LOG.info("stopping")
        if log.working.done():
            await log.working  # which failed, and that is what the process ends with
    _LOG.info("stopped")


@contextlib.asynccontextmanager
async def running_log(config: ServeConfig) -> AsyncIterator[RunningLog]:
    """Start a log, and on leaving drain and stop it, in the reverse order; raises as `serve` does."""
    limits = config.limits
    tls = None if config.tls is None else load_server_tls(config.tls)
    async with contextlib.AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened_log(DataDirectory(path=config.data), passphrase=config.passphrase))
        vkey, storage, state, edge, freeze = log.vkey, log.storage, log.state, log.edge, log.freeze
        note = await storage.read_published()
        published = Heads(None if note is None else await recover_published(storage, note, edge=edge, vkey=vkey))
        _LOG.info("log %s is of size %d (SQLite %s)", vkey.name, state.size, sqlite3.sqlite_version)

        metrics = Metrics(origin=vkey.name)
        heads = Heads(Head.of(edge, checkpoint=state.checkpoint))
        prover = Prover(storage, tiles_max=limits.tiles_max)
        admission = Admission(limits, rules=config.rules)
        stack.push_async_callback(admission.close)
        await admission.start()
        sequencer = Sequencer(
            storage=storage,
            signer=Signer(key=log.key, origin=vkey.name),
            settle=lambda state: log.mark.raise_to(state.size, state.checkpoint),
            edge=edge,
            heads=heads,
            prover=prover,
            limits=limits,
            metrics=metrics,
        )
        publisher = Publisher(
            storage=storage,
            heads=heads,
            published=published,
            prover=prover,
            panel=await _open_panel(stack, config, vkey=vkey, heads=heads, published=published),
            fail_open=config.witnessing is not None and config.witnessing.fail_open,
            limits=limits,
            metrics=metrics,
        )
        quotas = Quotas(config.rates)
        intake = Intake(
            admission=admission,
            quotas=quotas,
            sequencer=sequencer,
            storage=storage,
            heads=heads,
            publisher=publisher,
            freeze=freeze,
            witnessed_max=limits.witnessed_max,
            metrics=metrics,
        )
        committing = asyncio.create_task(sequencer.run(), name="sequencer")
        stack.push_async_callback(_finish_commits, sequencer, committing, limits.drain_ms)
        await publisher.publish()  # so that there is a checkpoint to show as soon as anybody can ask
        publishing = asyncio.create_task(publisher.run(), name="publisher")
        stack.push_async_callback(_end, publishing)
        amending = asyncio.create_task(publisher.amend(), name="late cosignatures")
        stack.push_async_callback(_end, amending)

        server = Server(
            SERVICE_NAME,
            calls_max=limits.calls_max,
            drain_ms=limits.drain_ms,
            message_bytes_max=limits.message_bytes_max,
        )
        service = LogService(
            vkey=vkey,
            rules=config.rules,
            limits=limits,
            intake=intake,
            heads=heads,
            published=published,
            publisher=publisher,
            freeze=freeze,
            prover=prover,
            storage=storage,
            calls=Calls(quotas=quotas, metrics=metrics, retry_ms=limits.retry_ms),
        )
        server.add(log_pb2_grpc.add_LogServicer_to_server, service)
        bodies = Bodies(bytes_max=limits.bodies_bytes_max, quotas=quotas)
        application = make_application(
            Answering(quotas=quotas, metrics=metrics, retry_ms=limits.retry_ms),
            tiles=TilesFace(storage=storage, published=published, piece_bytes_max=limits.chunk_bytes_max),
            operations=OperationsFace(
                health=Health(sequencer=sequencer, publisher=publisher, stall_ms=limits.stall_ms), metrics=metrics
            ),
            add=AddFace(intake=intake, bodies=bodies) if OPAQUE in config.rules.kinds else None,
            rekor=RekorFace(vkey=vkey, intake=intake, bodies=bodies, prover=prover)
            if HASHEDREKORD in config.rules.kinds
            else None,
            freeze=freeze,
        )
        http = HttpServer(application, bounds=HttpBounds(), drain_ms=limits.drain_ms)
        watch_parts(
            metrics,
            heads=heads,
            publisher=publisher,
            sequencer=sequencer,
            admission=admission,
            http=http,
            is_frozen=freeze is not None,
        )
        grpc_address = await server.start(config.grpc, credentials=None if tls is None else tls.grpc_credentials())
        stack.push_async_callback(server.stop)
        http_address = await http.start(config.http, tls=None if tls is None else tls.ssl_context())
        stack.push_async_callback(http.stop)
        stack.callback(published.close)  # first of all: who watches would otherwise stay until the deadline
        working = asyncio.create_task(_first_to_end(committing, publishing, amending), name="working")
        stack.push_async_callback(_end, working)
        yield RunningLog(grpc=grpc_address, http=http_address, vkey=vkey, working=working)


async def _open_panel(
    stack: contextlib.AsyncExitStack,
    config: ServeConfig,
    *,
    vkey: VerifierKey,
    heads: Heads,
    published: Heads,
) -> Panel | None:
    """The witnesses that the configuration names; None if it names none."""
    if config.witnessing is None:
        return None
    policy, limits = config.witnessing.policy, config.limits
    transport = await stack.enter_async_context(witness_transport(ClientTls()))
    shown = parse_note(published.newest.checkpoint) if published.size >= 0 else None
    if shown is not None:
        _check_cosignatures(shown, policy)
    clients = [
        WitnessClient(
            witness,
            transport=transport,
            timeout_ms=limits.witness_ms,
            published=shown,
            log_size=lambda: heads.size,
            now=time.time,
        )
        for witness in policy.witnesses
    ]
    panel = Panel(clients, policy=policy, log=vkey, grace_ms=limits.grace_ms)
    stack.push_async_callback(panel.close)
    return panel


def _check_cosignatures(note: Note, policy: Policy) -> None:
    """Returns only if all lines by witnesses of the policy verify: from here on they count without another look."""
    for witness in policy.witnesses:
        if note.by(witness.key) is not None:
            try:
                verify_cosignature(note, key=witness.key)
            except TreeheadError as exc:
                raise StorageError(
                    f"the database's published checkpoint is damaged ({exc}): restore a copy of the database"
                ) from exc


async def _first_to_end(*tasks: asyncio.Task[None]) -> None:
    """Returns when one of the tasks ends, and raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        await task


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _raise_descriptors() -> None:
    """Ask for as many open files as the connections that are allowed may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _finish_commits(sequencer: Sequencer, committing: asyncio.Task[None], drain_ms: int) -> None:
    sequencer.drain()
    try:
        async with asyncio.timeout(drain_ms / 1_000):
            await committing
    except TimeoutError as exc:
        raise StorageError(
            f"the last commits did not end within {drain_ms} ms; who waited for them got no answer and may try again"
        ) from exc
