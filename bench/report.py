"""The table of promises against what was measured last: `python -m bench.report`.

It is read from the results that the programs have written, so programs can be run again one by one. A promise for
which there is no result is in the table, too.
"""

from __future__ import annotations

import importlib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.rig.latency import Spread
from bench.rig.program import RESULTS
from bench.rig.result import Goal, format_row, format_table, path_of

PROGRAMS = (
    "idle",
    "unary",
    "open_loop",
    "batches",
    "opaque",
    "add",
    "witnessed",
    "proofs",
    "prover",
    "verification",
    "cold_start",
    "log_size",
)
"""What `make bench` runs, in this order. A new row of the table is a new program, and its name here."""
LONG = ("large", "soak")
"""What takes too long for that: `make bench-large` and `make bench-soak`."""


def report(results: Path) -> str:
    """The table, and under which circumstances its figures were made."""
    lines = [["program", "row", "target", "measured (median of rounds, min to max)", "met"]]
    remarks = set()
    for name in (*PROGRAMS, *LONG):
        result = _read(path_of(name, results))
        if result is not None:
            remarks.add(_circumstances(result["environment"]))
            if result.get("unusual"):
                told = ", ".join(f"{option} {value}" for option, value in result["unusual"].items())
                remarks.add(f"{name} was not run as usual, but with {told}")
        goals: Sequence[Goal] = importlib.import_module(f"bench.{name}").GOALS
        lines += [[name, *_cells(goal, result)] for goal in goals]
    return "\n".join([format_table(lines), *sorted(remarks)])


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _cells(goal: Goal, result: dict[str, Any] | None) -> list[str]:
    for row in [] if result is None else result["rows"]:
        if row["what"] == goal.what:
            return format_row(goal, Spread(**row["measured"]))
    return [goal.what, str(goal), "not measured", ""]


def _circumstances(environment: dict[str, Any]) -> str:
    names = ("python", "grpcio", "sqlite", "cryptography", "uvloop")
    versions = ", ".join(f"{name} {environment[name]}".replace("python CPython", "CPython") for name in names)
    machine = f"{environment['cores']} cores of {environment['processor']}, {environment['machine']}"
    return f"{machine}, {environment['file_system']}, {versions}"


def main() -> int:
    """Run the command line."""
    parser = ArgumentParser(prog="python -m bench.report", description="Print what was measured, row by row.")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the results are")
    print(report(parser.parse_args().results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
