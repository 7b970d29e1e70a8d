"""One load of submissions against a log of its own, audited at the end; and the same load on gRPC alone."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.calls import Connections, adding, adding_batches, echoing
from bench.rig.entries import Submission
from bench.rig.generator import Load, OpenLoad, closed_loop, open_loop
from bench.rig.server import EchoServer, LogServer, create_log, disk_bytes, read_vkey
from bench.rig.verifier import Verifier
from treehead.merkle import CompactRange

ANSWER_BYTES = 800
"""About what the answer to AddEntry has: a checkpoint, and a proof of sixteen hashes."""
ECHO_REQUESTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What one load did to a log. `disk_bytes` is what its database grew by for each new entry, once it was stopped."""

    start_s: float
    load: Load
    disk_bytes: float


async def submit(
    folder: Path,
    submissions: Sequence[Submission],
    *,
    callers: int,
    options: Namespace,
    kinds: Sequence[str] = (),
    before: CompactRange | None = None,
) -> Submitted:
    """Have callers submit to the log in `folder`, single entries or batches; everything acknowledged is audited.

    The log is a new one, unless the tree that it has `before` is given.
    """
    if before is None:
        await create_log(folder)
    disk_before = disk_bytes(folder)
    verifier = Verifier(read_vkey(folder))
    async with LogServer(folder, kinds=kinds) as server, Connections(server.address, callers=callers) as connections:
        add = adding if len(submissions[0].leaf_hashes) == 1 else adding_batches
        load = await closed_loop(
            add(connections, iter(submissions), verifier),
            callers=callers,
            warm_up_s=options.warm_up,
            seconds=options.seconds,
            server=server,
        )
        size = verifier.acknowledged + (0 if before is None else before.size)
        verifier.audit(await connections.published(size=size), before=before)
    disk = (disk_bytes(folder) - disk_before) / verifier.acknowledged
    return Submitted(start_s=server.start_s, load=load, disk_bytes=disk)


async def submit_at_rate(
    folder: Path, submissions: Sequence[Submission], *, calls_per_s: float, options: Namespace
) -> OpenLoad:
    """Submit single entries to a new log in `folder` at a fixed rate; everything acknowledged is audited."""
    await create_log(folder)
    verifier = Verifier(read_vkey(folder))
    async with LogServer(folder) as server, Connections(server.address, callers=1_024) as connections:
        load = await open_loop(
            adding(connections, iter(submissions), verifier),
            calls_per_s=calls_per_s,
            warm_up_s=options.warm_up,
            seconds=options.seconds,
            server=server,
        )
        verifier.audit(await connections.published(size=verifier.acknowledged))
    return load


async def echo(scratch: Path, requests: Sequence[bytes], *, callers: int, options: Namespace) -> Load:
    """Some of the requests, answered by nothing but gRPC; for half as long."""
    async with (
        EchoServer(scratch, answer_bytes=ANSWER_BYTES) as server,
        Connections(server.address, callers=callers) as connections,
    ):
        return await closed_loop(
            echoing(connections, requests[:ECHO_REQUESTS]),
            callers=callers,
            warm_up_s=options.warm_up / 2,
            seconds=options.seconds / 2,
            server=server,
        )
