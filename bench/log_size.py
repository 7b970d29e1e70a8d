"""What a log's size costs: start, memory, proofs and submits, at sizes from ten thousand to a million entries.

`bench.large` goes on to ten million. Logs are filled in process, with random leaves of 300 bytes; with `--logs DIR`
they are kept there and used again. In each round each log is started, used and stopped in turn, so what is compared
was measured within the same minutes. In this order:

  start    from the start of the process to "listening", when the operating system has forgotten the file
  first    the first proofs of random entries over gRPC, one caller, which nobody has cached
  proof    such proofs later, one caller
  submit   attestations (P-256) one after the other, to the verified proof
  batch    opaque batches of 1,024 by four callers; the processor time is per entry
  prover   proofs in process, see `bench.prover`

Memory is that of the server after the batches. Logs of up to a million entries are copied before they are written to;
larger ones grow by what is measured. Answers are verified; trees are not audited as in `bench.batches`.
"""

from __future__ import annotations

import itertools
import random
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import prover
from bench.opaque import opaque_batches
from bench.proofs import questions_about
from bench.rig.builder import FilledLog, filled_log
from bench.rig.calls import Connections, adding, adding_batches, proving
from bench.rig.entries import Publisher, single
from bench.rig.generator import Load, closed_loop
from bench.rig.plot import Line, Panel, write_plot
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Goal, Result
from bench.rig.server import LogServer, disk_bytes, forget_pages
from bench.rig.verifier import Verifier

NAME = "log_size"
SIZES = (10_000, 100_000, 1_000_000)
COPIED_ENTRIES_MAX = 1_000_000
FIRST_PROOFS = 100
QUESTIONS = 5_000
SUBMITS_PER_SECOND_MAX = 1_500
BATCH_CALLERS = 4
BATCH_ENTRIES = 1_024
BATCHED_PER_SECOND_MAX = 120_000
KINDS = ("attestation", "opaque")
GOALS: tuple[Goal, ...] = ()
COLUMNS = (
    "start_s",
    "first.latency.p50_ms",
    "proof.latency.p50_ms",
    "submit.latency.p50_ms",
    "submit.latency.p99_ms",
    "submit.server_cpu_us",
    "batch.entries_per_s",
    "batch.server_cpu_us",
    "memory_mb",
    "disk_bytes",
    "prover.cold.p50_ms",
    "prover.warm_per_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One size in one round. `disk_bytes` is the size of the filled log's database for each entry."""

    size: int
    start_s: float
    first: Load
    proof: Load
    submit: Load
    batch: Load
    memory_mb: float
    disk_bytes: float
    prover: prover.Round


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds, each with all sizes."""
    sizes = sorted(options.sizes)
    rounds = await measure_sizes(options, scratch, sizes=sizes)
    plot(rounds, options.results / f"{NAME}.svg")
    return Result(name=NAME, parameters=parameters_of(options), figures=rounds, by=("size",), columns=COLUMNS)


async def measure_sizes(options: Namespace, scratch: Path, *, sizes: Sequence[int]) -> list[Round]:
    """All rounds, each with all of the sizes."""
    logs = [await filled_log(options, scratch, size=size) for size in sizes]
    rounds = []
    for number in range(options.rounds):
        for log in logs:
            say(f"round {number + 1} of {options.rounds}, {log.filled:,} entries")
            copied = log.filled <= COPIED_ENTRIES_MAX
            used = log.copy(scratch / "copy") if copied else log
            rounds.append(await _measure_log(used, options, number))
            if copied:
                shutil.rmtree(used.folder)
    return rounds


async def _measure_log(log: FilledLog, options: Namespace, number: int) -> Round:
    disk = disk_bytes(log.folder) / log.size
    # A log that is kept has what was measured on it before: this is new each time.
    seed = options.seed + log.size + number
    in_process = await prover.prove(log, random.Random(f"{seed}:prover"), seconds=options.seconds)
    questions = questions_about(log, count=QUESTIONS + FIRST_PROOFS, seed=seed)
    singles = map(single, Publisher(seed=seed).leaves(_count(SUBMITS_PER_SECOND_MAX, options)))
    batches = list(
        opaque_batches(
            log,
            count=-(-_count(BATCHED_PER_SECOND_MAX, options) // BATCH_ENTRIES),
            entries=BATCH_ENTRIES,
            duplicates=0,
            seed=seed,
        )
    )
    forget_pages(log.folder)
    async with LogServer(log.folder, kinds=KINDS) as server, Connections(server.address, callers=1) as connections:
        verifier = Verifier(server.vkey)
        asked, later = iter(questions[:FIRST_PROOFS]), itertools.cycle(questions[FIRST_PROOFS:] or questions)
        first = await closed_loop(
            proving(connections, asked, verifier), callers=1, warm_up_s=0, seconds=60, server=server
        )
        proof, submit, batch = [
            await closed_loop(call, callers=callers, warm_up_s=options.warm_up, seconds=options.seconds, server=server)
            for call, callers in (
                (proving(connections, later, verifier), 1),
                (adding(connections, singles, verifier), 1),
                (adding_batches(connections, iter(batches), verifier), BATCH_CALLERS),
            )
        ]
        memory_mb = server.usage().rss_peak_bytes / 1e6
    return Round(
        size=log.filled,
        start_s=server.start_s,
        first=first,
        proof=proof,
        submit=submit,
        batch=batch,
        memory_mb=memory_mb,
        disk_bytes=disk,
        prover=in_process,
    )


def _count(per_second: int, options: Namespace) -> int:
    seconds: float = options.seconds + options.warm_up
    return round(per_second * seconds)


def plot(rounds: Sequence[Round], path: Path) -> None:
    """Draw the costs against the size."""

    def line(label: str, figure: Callable[[Round], float]) -> Line:
        return Line.of(label, [(round_.size, figure(round_)) for round_ in rounds])

    milliseconds = (
        line("submit, p50", lambda round_: round_.submit.latency.p50_ms),
        line("submit, p99", lambda round_: round_.submit.latency.p99_ms),
        line("proof, p50", lambda round_: round_.proof.latency.p50_ms),
        line("first proof, p50", lambda round_: round_.first.latency.p50_ms),
    )
    microseconds = (
        line("one submit", lambda round_: round_.submit.server_cpu_us),
        line("one proof", lambda round_: round_.proof.server_cpu_us),
        line("one entry of a batch", lambda round_: round_.batch.server_cpu_us),
    )
    room = (
        line("server memory, MB", lambda round_: round_.memory_mb),
        line("disk, bytes per entry", lambda round_: round_.disk_bytes),
    )
    x = "entries in the log"
    panels = [
        Panel(title="Latency over gRPC, one caller", x=x, y="ms", lines=milliseconds, log_x=True, log_y=True),
        Panel(title="Server's processor time", x=x, y="µs", lines=microseconds, log_x=True, log_y=True),
        Panel(title="Memory and disk", x=x, y="MB, bytes", lines=room, log_x=True),
    ]
    write_plot(path, panels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.log_size", about=__doc__, rounds=3, seconds=1, warm_up_s=0.5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="entries in the logs")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
