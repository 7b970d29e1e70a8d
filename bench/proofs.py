"""Inclusion proofs over gRPC, from a log of a million entries: 1, 16 and 128 callers.

Each caller asks for the proof of a random entry in the newest tree, verifies it, and asks for the next. The log was
filled before, with random leaves of 300 bytes; the warm-up also fills the server's cache of tiles, or as much of it
as it lasts for. What is counted is proofs verified. Not in it: connecting.

Beside it: gRPC alone, at the same number of callers in the same round, with answers of the same size. `of_echo` is
the share of its rate that the log reaches.
"""

from __future__ import annotations

import itertools
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.builder import FilledLog, filled_log
from bench.rig.calls import Connections, Question, proving, question
from bench.rig.generator import Load, closed_loop
from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.server import LogServer
from bench.rig.submitting import echo
from bench.rig.verifier import Verifier

NAME = "proofs"
CALLERS = (1, 16, 128)
PROMISED_CALLERS = 128
ENTRIES = 1_000_000
QUESTIONS = 20_000
RATE = Goal(what="inclusion proofs over gRPC, verified, 128 callers", bound=Bound.AT_LEAST, target=3_500, unit="/s")
GOALS = (RATE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One number of callers in one round."""

    callers: int
    load: Load
    echo_per_s: float
    of_echo: float


def questions_about(log: FilledLog, *, count: int, seed: int) -> list[Question]:
    """Questions for the proofs of random entries."""
    rng = random.Random(f"questions:{seed}")
    hashes = log.leaf_hashes(sorted(rng.sample(range(log.filled), min(count, log.filled))))
    questions = [question(index, leaf_hash) for index, leaf_hash in hashes.items()]
    rng.shuffle(questions)
    return questions


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds, each with all numbers of callers."""
    log = await filled_log(options, scratch, size=options.entries)
    questions = questions_about(log, count=QUESTIONS, seed=options.seed)
    rounds = []
    for number in range(options.rounds):
        for callers in options.callers:
            say(f"{NAME}: round {number + 1} of {options.rounds}, {callers} callers")
            alone = await echo(scratch, [asked.request for asked in questions], callers=callers, options=options)
            load = await _ask(log, questions, callers=callers, options=options)
            of_echo = load.entries_per_s / alone.entries_per_s
            rounds.append(Round(callers=callers, load=load, echo_per_s=alone.entries_per_s, of_echo=of_echo))
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        by=("callers",),
        columns=(
            "load.entries_per_s",
            "load.latency.p50_ms",
            "load.latency.p99_ms",
            "load.latency.p999_ms",
            "echo_per_s",
            "of_echo",
            "load.server_cpu_us",
            "load.generator_cpu_us",
            "load.server_peak_mib",
        ),
        rows=_rows([round_.load.entries_per_s for round_ in rounds if round_.callers == PROMISED_CALLERS]),
    )


def _rows(promised: Sequence[float]) -> tuple[Row, ...]:
    return (Row(goal=RATE, measured=spread(promised)),) if promised else ()


async def _ask(log: FilledLog, questions: Sequence[Question], *, callers: int, options: Namespace) -> Load:
    async with (
        LogServer(log.folder) as server,
        Connections(server.address, callers=callers) as connections,
    ):
        return await closed_loop(
            proving(connections, itertools.cycle(questions), Verifier(server.vkey)),
            callers=callers,
            warm_up_s=options.warm_up,
            seconds=options.seconds,
            server=server,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.proofs", about=__doc__, rounds=3, seconds=3, warm_up_s=1.5)
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS, help="the numbers of callers")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="the size of the log (default %(default)s)")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
