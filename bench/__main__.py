"""`python -m bench [NAME …]`: run the programs one after the other, each in a process of its own, then print the table.

Filled logs are made once and shared between the programs of one run. A program that fails is said to have failed, and
the others still run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from bench.report import LONG, PROGRAMS, report
from bench.rig.program import RESULTS, say


def main() -> int:
    """Run the command line; returns 1 if a program failed."""
    parser = ArgumentParser(prog="python -m bench", description="Measure what Treehead promises about its speed.")
    parser.add_argument("programs", nargs="*", metavar="NAME", help=f"which programs (default: {' '.join(PROGRAMS)})")
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="where to make logs (default: the temporary folder)"
    )
    parser.add_argument("--logs", type=Path, metavar="DIR", help="where to keep filled logs (default: not at all)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where to write the results")
    options = parser.parse_args()
    unknown = set(options.programs) - {*PROGRAMS, *LONG}
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))} (there are {' '.join((*PROGRAMS, *LONG))})")
    failed = []
    with tempfile.TemporaryDirectory(prefix="treehead-bench-", dir=options.scratch) as scratch:
        folders = ("--scratch", scratch, "--logs", options.logs or scratch, "--results", options.results)
        for name in options.programs or PROGRAMS:
            began = time.perf_counter()
            if subprocess.run([sys.executable, "-m", f"bench.{name}", *folders], check=False).returncode:
                failed.append(name)
            say(f"{name}: {'failed' if name in failed else 'done'} after {time.perf_counter() - began:.0f} s")
    print(f"\n{report(options.results)}")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
