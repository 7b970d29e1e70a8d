"""`python -m tests.fault.run`: put logs through faults, and say in one line what came of it.

Which fault a run has, and all else that chance decides, follows from the seed and the number of the run; what the
machine does meanwhile does not. Exit codes: 0, 1 when a log broke a promise, 2 when the faults cannot be had here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault.catalogue import ClockJump, Corrupted, DiskFull, Fault, Killed, Locked, Phase, StepFault, catalogue
from tests.fault.load import Pool
from tests.fault.making import run_making
from tests.fault.oracle import LostError
from tests.fault.preload import MissingShimError, build_shim
from tests.fault.surroundings import (
    NotPermittedError,
    run_clock,
    run_corrupted,
    run_disk_full,
    run_killed,
    run_locked,
)
from tests.fault.trial import Trial, Workshop
from tests.fault.workshop import open_workshop

RUN_SECONDS_MAX = 120
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


@dataclass(slots=True, kw_only=True)
class Figures:
    """What came of all runs."""

    runs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    refused: int = 0
    failed: list[int] = field(default_factory=list)
    missed: int = 0
    not_permitted: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = " ".join(f"{kind}={count}" for kind, count in sorted(self.kinds.items()))
        return (
            f"fault: runs={self.runs} ({kinds}) kills={self.kills} acknowledged={self.acknowledged} "
            f"lost={self.lost} failed={len(self.failed)} damage-named={self.refused} "
            f"did-not-happen={self.missed} left-out={sum(self.not_permitted.values())} "
            f"recovered p50={percentile(self.recoveries, 50):.2f}s "
            f"p99={percentile(self.recoveries, 99):.2f}s"
        )


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that is at least as large as so many percent of them; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0


def trial_of(workshop: Workshop, fault: Fault, *, folder: Path, seed: str) -> Trial:
    """A trial for a fault, with a log that will meet it."""
    step = fault.step if isinstance(fault, StepFault) else None
    return Trial(workshop, folder=folder, seed=seed, step=step)


async def put_through(trial: Trial, fault: Fault) -> None:
    """Put a log through a fault; returns if it kept every promise."""
    match fault:
        case StepFault(phase=Phase.MAKING):
            await run_making(trial, fault)
        case StepFault():
            await trial.run_step(fault)
        case Killed():
            await run_killed(trial)
        case ClockJump():
            await run_clock(trial, fault)
        case Locked():
            await run_locked(trial, fault)
        case Corrupted():
            await run_corrupted(trial, fault)
        case DiskFull():
            await run_disk_full(trial)


def fault_of(faults: Sequence[Fault], *, seed: int, run: int) -> Fault:
    """The fault of a run: all of them in an order that the seed decides, then all again in another one."""
    turn, place = divmod(run, len(faults))
    return random.Random(f"{seed}:{turn}").sample(faults, len(faults))[place]


@dataclass(slots=True, kw_only=True)
class Program:
    """All runs of one seed."""

    workshop: Workshop
    faults: Sequence[Fault]
    seed: int
    folder: Path
    figures: Figures = field(default_factory=Figures)

    async def run_all(self, runs: Sequence[int], *, jobs: int) -> None:
        """Do these runs, so many at a time."""
        waiting = iter(runs)

        async def work() -> None:
            for run in waiting:
                await self.run(run)
                self._show_progress(len(runs))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(jobs):
                tasks.create_task(work())

    async def run(self, run: int) -> None:
        """Do one run, count what came of it, and say what went wrong."""
        fault = fault_of(self.faults, seed=self.seed, run=run)
        figures = self.figures
        with tempfile.TemporaryDirectory(prefix=f"run-{run}-", dir=self.folder) as folder:
            trial = trial_of(self.workshop, fault, folder=Path(folder), seed=f"{self.seed}:{run}")
            try:
                async with asyncio.timeout(RUN_SECONDS_MAX):
                    await put_through(trial, fault)
            except NotPermittedError as exc:
                figures.not_permitted[str(exc)] += 1
                return
            except Exception as exc:  # noqa: BLE001 -- whatever it is, this run failed, and the next one is to come
                figures.failed.append(run)
                figures.lost += exc.count if isinstance(exc, LostError) else 0
                # By its name, too: which run has which fault changes with the steps that a log takes.
                replay = f"make fault SEED={self.seed} ARGS=\"--only {run} --fault '{fault}'\""
                say(f"run {run} failed: {fault}\n{traceback.format_exc()}again: {replay}")
        figures.runs += 1
        figures.kinds[fault.kind] += 1
        figures.missed += not trial.fired
        figures.kills += trial.kills
        figures.acknowledged += trial.acknowledged
        figures.refused += trial.refused
        figures.recoveries += trial.recoveries
        figures.steps[f"{'' if trial.fired else 'missed '}{fault}"] += 1

    def _show_progress(self, runs: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{self.figures.runs} of {runs} runs, {len(self.figures.failed)} failed", end="", file=sys.stderr)


def say(text: str) -> None:
    """Tell whoever looks on."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fault.run", description="Put logs through faults.")
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what decides all of chance")
    parser.add_argument("--only", type=int, metavar="RUN", help="just the run with this number")
    parser.add_argument("--fault", metavar="NAME", help="the fault of all runs, as --list and --verbose name it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="runs at a time")
    parser.add_argument("--list", action="store_true", help="say which runs have which faults, and do none")
    parser.add_argument("--verbose", action="store_true", help="say which faults there were, and which did not happen")
    return parser.parse_args(arguments)


async def run_program(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="treehead-fault-") as name:
        folder = Path(name)
        try:
            workshop = await open_workshop(folder, library=build_shim(folder), pool=Pool())
        except MissingShimError as exc:
            say(f"make fault: {exc}")
            return EXIT_USAGE
        faults = catalogue(list(workshop.counts))
        if options.fault is not None and not (faults := [fault for fault in faults if str(fault) == options.fault]):
            say(f"make fault: --fault {options.fault!r} is none of those that --list names")
            return EXIT_USAGE
        runs = range(options.runs) if options.only is None else [options.only]
        if options.list:
            for run in runs:
                print(f"{run}: {fault_of(faults, seed=options.seed, run=run)}")
            return EXIT_OK
        program = Program(workshop=workshop, faults=faults, seed=options.seed, folder=folder)
        begin = time.perf_counter()
        await program.run_all(runs, jobs=options.jobs)
        seconds = time.perf_counter() - begin
    figures = program.figures
    if sys.stderr.isatty():
        say("")
    if options.verbose:
        for fault, count in sorted(figures.steps.items()):
            say(f"{count:4} {fault}")
        say(f"{seconds:.1f} s")
    for reason, count in figures.not_permitted.items():
        say(f"{count} runs were left out: {reason}")
    print(figures)
    if figures.failed:
        return EXIT_FAILED
    return EXIT_OK if figures.runs else EXIT_USAGE


if __name__ == "__main__":
    sys.exit(asyncio.run(run_program(parse_arguments(None))))
