"""Ten million entries in one log: start, proofs, submits, memory and disk, beside those of a million in the same run.

What is measured, and from where to where, is said in `bench.log_size`; this is the same at ten million. To fill such
a log takes minutes and some 5 GB: give `--logs DIR` to keep it. A row that compares is the median of each round's
multiple of the cost at ten million over that at a million. Loads are warmed up for long, because after a start with a
cold cache the look-up index of the large log has to be read from the disk first, and measured long enough to see a run
of look-ups being moved.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.log_size import COLUMNS, Round, measure_sizes, plot
from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run
from bench.rig.result import Bound, Goal, Result, Row

NAME = "large"
SIZES = (10_000, 100_000)
REFERENCE = 1_000_000
LARGE = 10_000_000

_WITHIN = 1.3
"""Within 30 %."""


def _multiple(what: str) -> Goal:
    return Goal(what=f"10 million entries: {what}, over 1 million", bound=Bound.AT_MOST, target=_WITHIN, unit="×")


START = Goal(what="10 million entries: start", bound=Bound.AT_MOST, target=2, unit=" s")
PROOF = _multiple("proof over gRPC, p50")
SUBMIT = _multiple("idle submit, p50")
BATCH = _multiple("time per entry of a batch")
MEMORY = Goal(what="10 million entries: server memory", bound=Bound.AT_MOST, target=300, unit=" MB")
GOALS = (START, PROOF, SUBMIT, BATCH, MEMORY)


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds, each with all sizes."""
    sizes = sorted({*options.sizes, options.reference, options.large})
    rounds = await measure_sizes(options, scratch, sizes=sizes)
    plot(rounds, options.results / f"{NAME}.svg")
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        by=("size",),
        columns=COLUMNS,
        rows=_rows(
            [round_ for round_ in rounds if round_.size == options.large],
            [round_ for round_ in rounds if round_.size == options.reference],
        ),
    )


def _rows(large: Sequence[Round], reference: Sequence[Round]) -> tuple[Row, ...]:
    def compared(goal: Goal, cost: Callable[[Round], float]) -> Row:
        multiples = [cost(one) / cost(other) for one, other in zip(large, reference, strict=True)]
        return Row(goal=goal, measured=spread(multiples))

    return (
        Row(goal=START, measured=spread([round_.start_s for round_ in large])),
        compared(PROOF, lambda round_: round_.proof.latency.p50_ms),
        compared(SUBMIT, lambda round_: round_.submit.latency.p50_ms),
        compared(BATCH, lambda round_: 1 / round_.batch.entries_per_s),
        Row(goal=MEMORY, measured=spread([round_.memory_mb for round_ in large])),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.large", about=__doc__, rounds=3, seconds=6, warm_up_s=10)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="other sizes, for the plot")
    parser.add_argument("--reference", type=int, default=REFERENCE, help="the size to compare with")
    parser.add_argument("--large", type=int, default=LARGE, help="the size in question")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
