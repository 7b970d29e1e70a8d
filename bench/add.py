"""Any bytes over HTTP: `POST /add` into an opaque log, one entry a request, durable, in requests per second.

Each of 128 callers has a connection that stays open, and posts a random leaf of 300 bytes that nobody sent before; when
it has the index, it posts the next. An index proves nothing: at the end of each round the generator makes the tree of
all that was acknowledged itself, and compares its root with the one that the log publishes. Each round starts with an
empty log. Not in it: making the leaves, connecting.

Beside it: HTTP alone, with the same requests and as many connections, in the same round. `of_echo` is the share of its
rate that the log reaches.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.calls import Connections
from bench.rig.entries import OpaqueLeaves, Submission
from bench.rig.generator import Load, closed_loop
from bench.rig.latency import spread
from bench.rig.posting import PostConnections, post_request, posting, posting_again
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.server import HttpEchoServer, LogServer, create_log, disk_bytes, read_vkey
from bench.rig.submitting import ECHO_REQUESTS
from bench.rig.verifier import Verifier
from bench.rig.yardstick import Yardstick, yardstick

NAME = "add"
CALLERS = 128
ENTRIES_PER_SECOND_MAX = 15_000
ANSWER_BYTES = 6
RATE = Goal(what="opaque POST /add, 128 connections, durable", bound=Bound.AT_LEAST, target=5_700, unit="/s")
GOALS = (RATE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round. `disk_bytes` is what the log's database grew by for each entry."""

    load: Load
    disk_bytes: float
    echo_per_s: float
    of_echo: float
    yardstick: Yardstick


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds."""
    count = round(ENTRIES_PER_SECOND_MAX * (options.seconds + options.warm_up))
    submissions = [post_request(leaf) for leaf in OpaqueLeaves(seed=options.seed).leaves(0, count)]
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        alone = await _echo(scratch, submissions, options)
        load, disk = await _post(scratch / f"log{number}", submissions, options)
        rounds.append(
            Round(
                load=load,
                disk_bytes=disk,
                echo_per_s=alone.entries_per_s,
                of_echo=load.entries_per_s / alone.entries_per_s,
                yardstick=yardstick(scratch),
            )
        )
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=(
            "load.entries_per_s",
            "load.refused",
            "load.latency.p50_ms",
            "load.latency.p99_ms",
            "load.latency.p999_ms",
            "echo_per_s",
            "of_echo",
            "load.server_cpu_us",
            "load.generator_cpu_us",
            "disk_bytes",
            "load.server_peak_mib",
        ),
        rows=(Row(goal=RATE, measured=spread([round_.load.entries_per_s for round_ in rounds])),),
    )


async def _post(folder: Path, submissions: Sequence[Submission], options: Namespace) -> tuple[Load, float]:
    """The load on a new log, audited, and what each entry takes on its disk."""
    await create_log(folder)
    disk_before = disk_bytes(folder)
    verifier = Verifier(read_vkey(folder))
    async with LogServer(folder, kinds=("opaque",)) as server, Connections(server.address, callers=1) as auditor:
        async with PostConnections(server.http, callers=options.callers) as connections:
            load = await closed_loop(
                posting(connections, iter(submissions), verifier),
                callers=options.callers,
                warm_up_s=options.warm_up,
                seconds=options.seconds,
                server=server,
            )
        verifier.audit(await auditor.published(size=verifier.acknowledged))
    return load, (disk_bytes(folder) - disk_before) / verifier.acknowledged


async def _echo(scratch: Path, submissions: Sequence[Submission], options: Namespace) -> Load:
    """Some of the requests, answered by nothing but HTTP; for half as long."""
    async with (
        HttpEchoServer(scratch, answer_bytes=ANSWER_BYTES) as server,
        PostConnections(server.address, callers=options.callers) as connections,
    ):
        return await closed_loop(
            posting_again(connections, submissions[:ECHO_REQUESTS]),
            callers=options.callers,
            warm_up_s=options.warm_up / 2,
            seconds=options.seconds / 2,
            server=server,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.add", about=__doc__, rounds=3, seconds=4, warm_up_s=1)
    parser.add_argument("--callers", type=int, default=CALLERS, help="how many connections there are")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
