"""Opaque batches of 1,024 into a log of a million entries: durable, exact duplicates found, in entries per second.

A few callers add batches of random leaves of 300 bytes over gRPC. One leaf in twenty is one that the log has had from
the beginning; its answer has to give its first index. What the clock covers is checked as in `bench.batches`, and at
the end of each round the tree of the old and the new entries is made anew and compared with the one that the log
signs. Each round starts with a copy of the same log. The rate counts the duplicates, too. A round is long enough to see
look-ups being moved, which a log does now and then (docs/adr/0008).
"""

from __future__ import annotations

import random
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.builder import FilledLog, filled_log
from bench.rig.entries import OpaqueLeaves, Submission, batch
from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.submitting import Submitted, submit
from bench.rig.yardstick import Yardstick, yardstick

NAME = "opaque"
CALLERS = 4
ENTRIES = 1_024
PRESENT = 1_000_000
DUPLICATES = 0.05
ENTRIES_PER_SECOND_MAX = 120_000
RATE = Goal(
    what="opaque batches of 1,024, durable, duplicates found, 1 million entries present",
    bound=Bound.AT_LEAST,
    target=60_000,
    unit=" entries/s",
)
GOALS = (RATE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round."""

    submitted: Submitted
    yardstick: Yardstick


def opaque_batches(log: FilledLog, *, count: int, entries: int, duplicates: float, seed: int) -> Iterator[Submission]:
    """Batches of new leaves, of which a share is replaced by leaves that the log has."""
    rng = random.Random(f"duplicates:{seed}")
    fresh = OpaqueLeaves(seed=seed + 1)
    # Made in order, which is quick, and then drawn from.
    indices = sorted(rng.randrange(log.filled) for _ in range(entries))
    present = [(index, log.leaves.leaf(index)) for index in indices]
    for number in range(count):
        leaves = fresh.leaves(number * entries, (number + 1) * entries)
        known = {}
        repeated = rng.sample(present, round(duplicates * entries))
        for position, (index, leaf) in zip(rng.sample(range(entries), len(repeated)), repeated, strict=True):
            leaves[position], known[position] = leaf, index
        yield batch(leaves, known=known)


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds."""
    log = await filled_log(options, scratch, size=options.present)
    count = -(-round(ENTRIES_PER_SECOND_MAX * (options.seconds + options.warm_up)) // options.entries)
    say(f"{NAME}: making {count * options.entries:,} entries")
    submissions = list(
        opaque_batches(log, count=count, entries=options.entries, duplicates=options.duplicates, seed=options.seed)
    )
    tree = log.tree()
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        folder = log.copy(scratch / f"round{number}").folder
        submitted = await submit(
            folder, submissions, callers=options.callers, options=options, kinds=("opaque",), before=tree
        )
        shutil.rmtree(folder)
        rounds.append(Round(submitted=submitted, yardstick=yardstick(scratch)))
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=(
            "submitted.load.entries_per_s",
            "submitted.load.refused",
            "submitted.load.latency.p50_ms",
            "submitted.load.latency.p99_ms",
            "submitted.load.server_cpu_us",
            "submitted.load.generator_cpu_us",
            "submitted.disk_bytes",
            "submitted.load.server_peak_mib",
        ),
        rows=(Row(goal=RATE, measured=spread([round_.submitted.load.entries_per_s for round_ in rounds])),),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.opaque", about=__doc__, rounds=3, seconds=6, warm_up_s=1)
    parser.add_argument("--callers", type=int, default=CALLERS, help="how many batches are under way at once")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="entries in a batch")
    parser.add_argument("--present", type=int, default=PRESENT, help="entries in the log before")
    parser.add_argument("--duplicates", type=float, default=DUPLICATES, help="the share that the log has already")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
