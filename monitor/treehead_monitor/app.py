"""One monitor from start to stop: the only module that knows which parts there are, and what each is made of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from treehead.datadir import locked, read_key, read_vkey
from treehead.errors import TreeheadError
from treehead.evidence import Evidence, verify_evidence
from treehead.keys import VerifierKey
from treehead.server import Server, stop_requested
from treehead.v1 import monitor_pb2, monitor_pb2_grpc
from treehead_monitor import gossip
from treehead_monitor.audit import Audit
from treehead_monitor.config import LogAddress, RunConfig
from treehead_monitor.cosigner import Cosigner
from treehead_monitor.datadir import DataDirectory, read_evidence
from treehead_monitor.driver import Driver, FollowedLog
from treehead_monitor.event import KeepEvidence
from treehead_monitor.head import log_id
from treehead_monitor.history import History, TileCache
from treehead_monitor.memory import Memory
from treehead_monitor.message import EvidenceId
from treehead_monitor.outbox import Outbox
from treehead_monitor.service import MonitorService
from treehead_monitor.source import GrpcSource
from treehead_monitor.store import Recollection, Store
from treehead_monitor.wire import GOSSIP_BYTES_MAX

_LOG = logging.getLogger(__name__)

SERVICE_NAME = monitor_pb2.DESCRIPTOR.services_by_name["Monitor"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMonitor:
    """A monitor that answers on `address` (HOST:PORT). That `working` ends early is a failure, which it raises."""

    address: str
    driver: Driver
    working: asyncio.Task[None]


def now_ms() -> int:
    """The wall clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def run(config: RunConfig, *, announce: Callable[[str], None]) -> None:
    """Run a monitor until SIGTERM or SIGINT asks to stop; `announce` is called with its address when it is ready.

    Raises:
        UsageError: the directory holds no monitor, or its key or a file of `config.tls` cannot be used.
        StorageError: the directory is in use, or the database is damaged or failed.
        UnavailableError: the address cannot be listened on.
    """
    stop = stop_requested()
    async with running_monitor(config) as monitor:
        announce(monitor.address)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, monitor.working), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if monitor.working.done():
            await monitor.working
        _LOG.info("stopping")
    _LOG.info("stopped")


@contextlib.asynccontextmanager
async def running_monitor(config: RunConfig) -> AsyncIterator[RunningMonitor]:
    """Start a monitor, and on leaving drain and stop it, in the reverse order; raises as `run` does."""
    limits = config.limits
    directory = DataDirectory(path=config.data)
    async with contextlib.AsyncExitStack() as stack:
        vkey = read_vkey(directory)
        stack.enter_context(locked(directory))
        key = read_key(directory, vkey=vkey, passphrase=config.passphrase)
        store = await Store.open(directory.database)
        stack.push_async_callback(store.close)
        _LOG.info("monitor %s (SQLite %s)", vkey.name, sqlite3.sqlite_version)

        evidence = read_evidence(directory)
        known = {log.key: await _recall(log, store, evidence) for log in config.logs}
        await store.follow_only([log_id(key) for key in known])
        for log, recollection in known.items():
            if recollection.evidence:
                _LOG.critical("log %s has misbehaved: the evidence is in %s", log.name, directory.evidence)
        outboxes = {
            record.address: Outbox.connect(
                record,
                now_ms=now_ms,
                timeout_ms=limits.rpc_timeout_ms,
                messages_max=limits.outbox_messages_max,
                rounds_max=limits.rounds_max,
                reconnect_ms=config.interval_ms,
                tls=config.tls,
            )
            for record in await store.recall_peers(config.peers)
        }
        sources = {
            log.key: GrpcSource.connect(
                log.address, tls=config.tls, timeout_ms=limits.rpc_timeout_ms, reconnect_ms=config.interval_ms
            )
            for log in config.logs
        }
        for outbox in outboxes.values():
            stack.push_async_callback(outbox.close)
        for source in sources.values():
            stack.push_async_callback(source.close)
        cache = TileCache(store, tiles_max=limits.tiles_max)
        driver = Driver(
            machine=gossip.GossipMachine(
                logs=[_memory(key, recollection, evidence) for key, recollection in known.items()],
                peers=config.peers,
                limits=gossip.Limits(
                    parked_max=limits.parked_max,
                    parked_deadline_ms=config.resolve_ms,
                    peers_per_round=limits.peers_per_round,
                ),
            ),
            logs={log_id(key): _followed(key, recollection, cache) for key, recollection in known.items()},
            outboxes=outboxes,
            store=store,
            directory=directory,
            cosigner=Cosigner(key=key, name=vkey.name),
            cosign_every_s=limits.cosign_every_s,
            now_ms=now_ms,
            random=Random(),  # noqa: S311 -- which peer to call first is no secret
        )
        stack.push_async_callback(driver.finish)
        for recollection in known.values():
            await driver.resume([*recollection.recent, *(parked.head for parked in recollection.parked)])
        server = Server(
            SERVICE_NAME, calls_max=limits.calls_max, drain_ms=limits.drain_ms, message_bytes_max=GOSSIP_BYTES_MAX
        )
        service = MonitorService(
            driver, exchanges_max=limits.exchanges_max, exchanges_waiting_max=limits.exchanges_waiting_max
        )
        server.add(monitor_pb2_grpc.add_MonitorServicer_to_server, service)
        address = await server.start(config.grpc)
        stack.push_async_callback(server.stop)
        tasks = [driver.broken(), driver.gossip(interval_ms=config.interval_ms)]
        tasks += [outbox.run(driver.hear_answer) for outbox in outboxes.values()]
        for followed, recollection in known.items():
            audit = Audit(
                key=followed,
                source=sources[followed],
                ledger=driver,
                progress=recollection.progress,
                page_entries_max=limits.page_entries_max,
                look_pages_max=limits.look_pages_max,
                unverified_entries_max=limits.unverified_entries_max,
            )
            tasks.append(driver.follow(log_id(followed), audit, interval_ms=config.interval_ms))
        working = asyncio.create_task(_work(tasks), name="monitor")
        stack.push_async_callback(_stop_working, working)
        yield RunningMonitor(address=address, driver=driver, working=working)


async def _recall(log: LogAddress, store: Store, files: dict[EvidenceId, tuple[bytes, Evidence]]) -> Recollection:
    """What is known of a log, after evidence files that a crash, or a person, left beside the database are taken up."""
    recollection = await store.recall(log.key, address=log.address)
    for id_ in recollection.evidence - files.keys():
        _LOG.error(
            "evidence %s against log %s is gone; the log counts as misbehaved all the same", id_.hex(), log.key.name
        )
    taken = []
    for id_, (data, evidence) in files.items():
        if id_ in recollection.evidence or evidence.first.by(log.key) is None:
            continue
        with contextlib.suppress(TreeheadError):
            first, second = verify_evidence(evidence, key=log.key)
            taken.append(
                KeepEvidence(
                    log=log_id(log.key),
                    id=id_,
                    data=data,
                    fork=evidence.fork,
                    sizes=(first.size, second.size),
                    source="file",
                    at_ms=now_ms(),
                )
            )
    if not taken:
        return recollection
    await store.keep(taken)
    return await store.recall(log.key, address=log.address)


def _memory(key: VerifierKey, known: Recollection, files: dict[EvidenceId, tuple[bytes, Evidence]]) -> Memory:
    return Memory(
        key=key,
        head=known.head,
        parked=known.parked,
        evidence=tuple(data for id_, (data, _) in files.items() if id_ in known.evidence),
        misbehaved=bool(known.evidence),
    )


def _followed(key: VerifierKey, known: Recollection, cache: TileCache) -> FollowedLog:
    return FollowedLog(
        key=key,
        history=History(log=log_id(key), edge=known.edge, cache=cache),
        head=known.head,
        cosigned=known.cosigned,
        suspicions={suspicion.doubt: suspicion for suspicion in known.suspicions},
    )


async def _work(tasks: list[Coroutine[Any, Any, None]]) -> None:
    """Run all tasks; the first error ends them all and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _stop_working(working: asyncio.Task[None]) -> None:
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError, TreeheadError):
        await working
