"""Batches of 256 attestations: every signature verified, durable before the answer, in entries per second.

A few callers add batches (P-256, about 1.2 KB an entry) over gRPC. The answer to a batch holds a checkpoint and each
entry's index, but no proofs: what the clock covers is checked for its signature, and for places within the tree that
it signs. At the end of each round the generator makes the tree of all that was acknowledged itself, and compares its
root with the one that the log signs. Each round starts with an empty log. Not in it: signing the entries, connecting.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.entries import Publisher, batches
from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.submitting import Submitted, submit
from bench.rig.yardstick import Yardstick, yardstick

NAME = "batches"
CALLERS = 4
ENTRIES = 256
ENTRIES_PER_SECOND_MAX = 18_000
RATE = Goal(what="batches of 256, P-256, durable, tree audited", bound=Bound.AT_LEAST, target=9_000, unit=" entries/s")
GOALS = (RATE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round. `of_verify` is the rate as a share of one thread that does nothing but verify P-256 signatures."""

    submitted: Submitted
    of_verify: float
    yardstick: Yardstick


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds."""
    count = round(ENTRIES_PER_SECOND_MAX * (options.seconds + options.warm_up))
    say(f"{NAME}: signing {count} entries")
    submissions = batches(Publisher(seed=options.seed).leaves(count), entries=options.entries)
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        stick = yardstick(scratch)
        submitted = await submit(scratch / f"log{number}", submissions, callers=options.callers, options=options)
        of_verify = submitted.load.entries_per_s * stick.p256_verify_us / 1e6
        rounds.append(Round(submitted=submitted, of_verify=of_verify, yardstick=stick))
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=(
            "submitted.load.entries_per_s",
            "submitted.load.refused",
            "submitted.load.latency.p50_ms",
            "submitted.load.latency.p99_ms",
            "of_verify",
            "submitted.load.server_cpu_us",
            "submitted.load.generator_cpu_us",
            "submitted.disk_bytes",
            "submitted.load.server_peak_mib",
        ),
        rows=(Row(goal=RATE, measured=spread([round_.submitted.load.entries_per_s for round_ in rounds])),),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.batches", about=__doc__, rounds=3, seconds=4, warm_up_s=1)
    parser.add_argument("--callers", type=int, default=CALLERS, help="how many batches are under way at once")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="entries in a batch")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
