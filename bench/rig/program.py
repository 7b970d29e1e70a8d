"""How every program runs: its options, a folder for its logs, one event loop, and its result printed and written."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.rig.environment import environment
from bench.rig.result import Result, format_figures, format_row, format_table, path_of, write
from treehead.server import loop_factory

RESULTS = Path(__file__).resolve().parent.parent / "results"
SEED = 20_261_122

Measure = Callable[[Namespace, Path], Awaitable[Result]]
"""What a program does: its options and a folder, empty and its own, to the result."""


def options_of(
    program: str,
    *,
    about: str | None,
    rounds: int | None = None,
    seconds: float | None = None,
    warm_up_s: float | None = None,
) -> ArgumentParser:
    """The options that every program has, and those of rounds and times for which it has a default."""
    parser = ArgumentParser(prog=f"python -m {program}", description=about, formatter_class=RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="how often all is measured (default %(default)s)"
        )
    if seconds is not None:
        parser.add_argument(
            "--seconds", type=float, default=seconds, help="how long each load is measured (default %(default)s)"
        )
    if warm_up_s is not None:
        parser.add_argument(
            "--warm-up",
            type=float,
            default=warm_up_s,
            metavar="SECONDS",
            help="how long it runs before that and does not count (default %(default)s)",
        )
    parser.add_argument("--seed", type=int, default=SEED, help="what entries and choices are drawn from")
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="where to make logs (default: the temporary folder)"
    )
    parser.add_argument("--logs", type=Path, metavar="DIR", help="where to keep filled logs, and to find them again")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where to write the result")
    return parser


def run(name: str, measure: Measure, parser: ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run a program; returns its exit code. An old result is gone before anything is measured."""
    options = parser.parse_args(arguments)
    # What gRPC's core has to say about connections that end is no finding.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    path_of(name, options.results).unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="treehead-bench-", dir=options.scratch) as scratch,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        where = environment(Path(scratch))
        result = runner.run(_measure(measure, options, Path(scratch)))
    unusual = {name: value for name, value in result.parameters.items() if _is_unusual(parser, name, value)}
    write(result, options.results, environment=where, unusual=unusual)
    print(f"\n{result.name}\n{format_figures(result)}")
    if result.rows:
        head = ["row", "target", "measured (median of rounds, min to max)", "met"]
        print(f"\n{format_table([head, *(format_row(row.goal, row.measured) for row in result.rows)])}")
    return 0


def _is_unusual(parser: ArgumentParser, name: str, value: object) -> bool:
    usual = parser.get_default(name)
    return usual is not None and value != (list(usual) if isinstance(value, list) else usual)


async def _measure(measure: Measure, options: Namespace, scratch: Path) -> Result:
    return await measure(options, scratch)


def parameters_of(options: Namespace) -> dict[str, object]:
    """What was asked for, without the folders, which are this machine's own."""
    return {name: value for name, value in vars(options).items() if not isinstance(value, Path) and value is not None}


def say(text: str) -> None:
    """Tell who waits how far it has come; results go to stdout, this to stderr."""
    print(text, file=sys.stderr, flush=True)
