"""One entry into an idle log: from the call to the verified proof.

One caller adds one attestation (P-256, about 1.2 KB) after the other over gRPC. The clock runs from the call to the
moment at which the caller has verified what came back: the inclusion proof, and the signature of the checkpoint that
it leads to. In between the log has parsed the entry, verified its signature and committed it durably. Each round
starts with an empty log. Not in it: signing the entry, connecting.

Beside it: gRPC alone, with a request and an answer of the same sizes, in the same round.
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

NAME = "idle"
ENTRIES_PER_SECOND_MAX = 1_500
P50 = Goal(what="one idle submit to its verified proof, p50", bound=Bound.AT_MOST, target=3, unit=" ms")
P99 = Goal(what="one idle submit to its verified proof, p99", bound=Bound.AT_MOST, target=15, unit=" ms")
GOALS = (P50, P99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round. `over_echo` is the median latency as a multiple of gRPC's alone."""

    submitted: Submitted
    echo_p50_ms: float
    over_echo: float
    yardstick: Yardstick


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds."""
    count = round(ENTRIES_PER_SECOND_MAX * (options.seconds + options.warm_up))
    entries = [single(leaf) for leaf in Publisher(seed=options.seed).leaves(count)]
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        alone = await echo(scratch, [entry.request for entry in entries], callers=1, options=options)
        submitted = await submit(scratch / f"log{number}", entries, callers=1, options=options)
        rounds.append(
            Round(
                submitted=submitted,
                echo_p50_ms=alone.latency.p50_ms,
                over_echo=submitted.load.latency.p50_ms / alone.latency.p50_ms,
                yardstick=yardstick(scratch),
            )
        )
    latencies = [round_.submitted.load.latency for round_ in rounds]
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=(
            "submitted.load.entries",
            "submitted.load.latency.p50_ms",
            "submitted.load.latency.p99_ms",
            "submitted.load.latency.p999_ms",
            "echo_p50_ms",
            "over_echo",
            "submitted.load.server_cpu_us",
            "submitted.load.generator_cpu_us",
            "submitted.load.server_peak_mib",
        ),
        rows=(
            Row(goal=P50, measured=spread([latency.p50_ms for latency in latencies])),
            Row(goal=P99, measured=spread([latency.p99_ms for latency in latencies])),
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return run(NAME, measure, options_of("bench.idle", about=__doc__, rounds=5, seconds=3, warm_up_s=1), arguments)


if __name__ == "__main__":
    sys.exit(main())
