"""Arrivals that wait for nobody: latency against rate, from an idle log to one that is offered more than it can take.

Attestations (P-256, about 1.2 KB) arrive over gRPC at a fixed rate, evenly spaced. A latency runs from the moment at
which an entry was *due* to the verified proof, so that what a slow answer delays counts as well; `late` is the share
of the generator in that, from when an entry was due to when it was sent. Calls refused with RESOURCE_EXHAUSTED
are counted by themselves, and among them those that gRPC dropped. Each rate of each round starts with an empty log.
Beyond what the log can take, latencies grow for as long as the load lasts, and say how long it lasted.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.entries import Publisher, single
from bench.rig.generator import OpenLoad
from bench.rig.plot import Line, Panel, write_plot
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Goal, Result
from bench.rig.submitting import submit_at_rate
from bench.rig.yardstick import Yardstick, yardstick

NAME = "open_loop"
RATES_PER_S = (100, 250, 500, 1_000, 1_500, 2_000)
GOALS: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One rate in one round."""

    calls_per_s: float
    open: OpenLoad
    yardstick: Yardstick


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds, each with all rates."""
    count = round(max(options.calls_per_s) * (options.seconds + options.warm_up))
    entries = [single(leaf) for leaf in Publisher(seed=options.seed).leaves(count)]
    rounds = []
    for number in range(options.rounds):
        for calls_per_s in options.calls_per_s:
            say(f"{NAME}: round {number + 1} of {options.rounds}, {calls_per_s:g}/s")
            folder = scratch / f"log-{number}-{calls_per_s}"
            load = await submit_at_rate(folder, entries, calls_per_s=calls_per_s, options=options)
            rounds.append(Round(calls_per_s=calls_per_s, open=load, yardstick=yardstick(scratch)))
    _plot(rounds, options)
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        by=("calls_per_s",),
        columns=(
            "open.load.entries_per_s",
            "open.load.refused",
            "open.load.dropped",
            "open.load.latency.p50_ms",
            "open.load.latency.p99_ms",
            "open.load.latency.p999_ms",
            "open.late.p50_ms",
            "open.late.p99_ms",
            "open.load.server_cpu_us",
            "open.load.generator_cpu_us",
            "open.load.server_peak_mib",
        ),
    )


def _plot(rounds: Sequence[Round], options: Namespace) -> None:
    def line(label: str, percentile: str) -> Line:
        points = [(round_.calls_per_s, getattr(round_.open.load.latency, percentile)) for round_ in rounds]
        return Line.of(label, points)

    panel = Panel(
        title="From due to verified proof, over gRPC",
        x="entries offered per second",
        y="milliseconds",
        log_y=True,
        lines=(line("p50", "p50_ms"), line("p99", "p99_ms"), line("p99.9", "p999_ms")),
    )
    write_plot(options.results / f"{NAME}.svg", [panel])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.open_loop", about=__doc__, rounds=3, seconds=3, warm_up_s=1)
    parser.add_argument("--calls-per-s", type=float, nargs="+", default=RATES_PER_S, help="the rates")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
