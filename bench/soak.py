"""An hour of mixed load on one server: does its memory stay flat?

The load is `bench.rig.mixture`: all kinds of calls, callers who send rubbish and callers who go away, at a rate that
the server can well take; every answer is verified. The log has a good million entries from the start, so that caches
that are filled to a bound are full before the end of the warm-up. Once a second the server's resident memory, threads
and open files are read, and the size of its write-ahead log.

The warm-up is the first third. After it, the rise is the slope of a robust line through the samples (the median of
the slopes between pairs of them) times the rest of the run; that is what is judged, along with the largest
write-ahead log. `python -m bench.soak --seconds 60` is over sooner, and tells less.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.rig.builder import filled_log
from bench.rig.latency import spread
from bench.rig.mixture import Mixture
from bench.rig.plot import Line, Panel, write_plot
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.server import LogServer
from treehead.wire import CHANNEL_OPTIONS

NAME = "soak"
CALLERS = 32
CALLS_PER_S = 250.0
ENTRIES = 1_200_000
SAMPLES_PER_S = 1.0
WARM_UP_SHARE = 1 / 3
PAIRS_MAX = 500
REPORT_SECONDS = 30
_MEBIBYTE = 1_048_576

RISE = Goal(what="an hour of mixed load: rise of memory after warm-up", bound=Bound.AT_MOST, target=16, unit=" MiB")
WAL = Goal(what="an hour of mixed load: largest write-ahead log", bound=Bound.AT_MOST, target=64, unit=" MiB")
FILES = Goal(what="an hour of mixed load: rise of open files after warm-up", bound=Bound.AT_MOST, target=8, unit="")
GOALS = (RISE, WAL, FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The server at one moment; `calls` are those that were made until then."""

    at_s: float
    calls: int
    rss_mib: float
    wal_mib: float
    threads: int
    files: int


async def measure(options: Namespace, scratch: Path) -> Result:
    """One run of the load, sampled."""
    log = await filled_log(options, scratch, size=options.entries)
    folder = log.copy(scratch / "soaked").folder
    async with (
        LogServer(folder) as server,
        grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel,
    ):
        mixture = Mixture(channel, server.vkey, seed=options.seed)
        samples: list[Sample] = []
        async with asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(_sample(server, mixture, samples))
            await mixture.run(
                callers=options.callers,
                calls=round(options.calls_per_s * options.seconds),
                calls_per_s=options.calls_per_s,
            )
            sampling.cancel()
    _plot(samples, options.results / f"{NAME}.svg")
    say(f"{NAME}: " + ", ".join(f"{count:,} {what}" for what, count in mixture.done.most_common()))
    after = samples[int(len(samples) * WARM_UP_SHARE) :]
    return Result(
        name=NAME,
        parameters=parameters_of(options) | {"calls": dict(mixture.done)},
        figures=samples,
        columns=("calls", "rss_mib", "wal_mib", "threads", "files"),
        rows=(
            Row(goal=RISE, measured=spread([rise([(sample.at_s, sample.rss_mib) for sample in after])])),
            Row(goal=WAL, measured=spread([max(sample.wal_mib for sample in samples)])),
            Row(goal=FILES, measured=spread([rise([(sample.at_s, float(sample.files)) for sample in after])])),
        ),
    )


async def _sample(server: LogServer, mixture: Mixture, samples: list[Sample]) -> None:
    """Sample until cancelled, beginning now."""
    began = said = time.perf_counter()
    while True:
        usage, now = server.usage(), time.perf_counter()
        sample = Sample(
            at_s=now - began,
            calls=mixture.done.total(),
            rss_mib=usage.rss_bytes / _MEBIBYTE,
            wal_mib=server.wal_bytes() / _MEBIBYTE,
            threads=usage.threads,
            files=usage.descriptors,
        )
        samples.append(sample)
        if now - said > REPORT_SECONDS:
            said = now
            say(f"{NAME}: {sample.at_s:,.0f} s, {sample.calls:,} calls, {sample.rss_mib:.1f} MiB")
        await asyncio.sleep(1 / SAMPLES_PER_S)


def rise(points: Sequence[tuple[float, float]]) -> float:
    """By how much the line through some points rises between the first and the last of them (Theil and Sen)."""
    thinned = points[:: -(-len(points) // PAIRS_MAX)]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(thinned, 2)]
    return statistics.median(slopes) * (points[-1][0] - points[0][0]) if slopes else 0.0


def _plot(samples: Sequence[Sample], path: Path) -> None:
    memory = Line.of("server", [(sample.at_s / 60, sample.rss_mib) for sample in samples])
    wal = Line.of("write-ahead log", [(sample.at_s / 60, sample.wal_mib) for sample in samples])
    write_plot(
        path,
        [
            Panel(title="Resident memory under mixed load", x="minutes", y="MiB", lines=(memory,)),
            Panel(title="Beside the database", x="minutes", y="MiB", lines=(wal,)),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.soak", about=__doc__, seconds=3_600)
    parser.add_argument("--callers", type=int, default=CALLERS, help="how many callers there are")
    parser.add_argument("--calls-per-s", type=float, default=CALLS_PER_S, help="how often they call, between them")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="the size of the log before (default %(default)s)")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
