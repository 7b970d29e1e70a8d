"""Many callers at once, each adding one entry after the other: a closed loop at 1, 16, 128 and 1,024 callers.

Each caller adds an attestation (P-256, about 1.2 KB) over gRPC, verifies the proof that comes back, and only then
adds the next. A latency is that of one such turn; the rate is of proofs verified. Each setting of each round starts
with an empty log, and ends with the log's tree compared with the one that the generator makes of all that was
acknowledged. Not in it: signing the entries, connecting.

Beside it: gRPC alone, at the same number of callers in the same round, with requests and answers of the same sizes.
`of_echo` is the share of its rate that the log reaches.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.entries import Publisher, single
from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.submitting import Submitted, echo, submit
from bench.rig.yardstick import Yardstick, yardstick

NAME = "unary"
CALLERS = (1, 16, 128, 1_024)
PROMISED_CALLERS = 128
ENTRIES_PER_SECOND_MAX = 5_000
RATE = Goal(what="128 callers, P-256, durable, proof verified", bound=Bound.AT_LEAST, target=2_000, unit="/s")
P99 = Goal(what="128 callers, P-256, durable, proof verified, p99", bound=Bound.AT_MOST, target=120, unit=" ms")
GOALS = (RATE, P99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One number of callers in one round."""

    callers: int
    submitted: Submitted
    echo_per_s: float
    of_echo: float
    yardstick: Yardstick


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds, each with all numbers of callers."""
    count = round(ENTRIES_PER_SECOND_MAX * (options.seconds + options.warm_up))
    entries = [single(leaf) for leaf in Publisher(seed=options.seed).leaves(count)]
    rounds = []
    for number in range(options.rounds):
        for callers in options.callers:
            say(f"{NAME}: round {number + 1} of {options.rounds}, {callers} callers")
            alone = await echo(scratch, [entry.request for entry in entries], callers=callers, options=options)
            folder = scratch / f"log-{number}-{callers}"
            submitted = await submit(folder, entries, callers=callers, options=options)
            rounds.append(
                Round(
                    callers=callers,
                    submitted=submitted,
                    echo_per_s=alone.entries_per_s,
                    of_echo=submitted.load.entries_per_s / alone.entries_per_s,
                    yardstick=yardstick(scratch),
                )
            )
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        by=("callers",),
        columns=(
            "submitted.load.entries_per_s",
            "submitted.load.refused",
            "submitted.load.dropped",
            "submitted.load.latency.p50_ms",
            "submitted.load.latency.p99_ms",
            "submitted.load.latency.p999_ms",
            "echo_per_s",
            "of_echo",
            "submitted.load.server_cpu_us",
            "submitted.load.generator_cpu_us",
            "submitted.disk_bytes",
            "submitted.load.server_peak_mib",
        ),
        rows=_rows([round_.submitted for round_ in rounds if round_.callers == PROMISED_CALLERS]),
    )


def _rows(promised: Sequence[Submitted]) -> tuple[Row, ...]:
    if not promised:
        return ()
    return (
        Row(goal=RATE, measured=spread([submitted.load.entries_per_s for submitted in promised])),
        Row(goal=P99, measured=spread([submitted.load.latency.p99_ms for submitted in promised])),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.unary", about=__doc__, rounds=3, seconds=3, warm_up_s=1)
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS, help="the numbers of callers")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
