"""A process that abuses a log: `python -m tests.abuse.abuser --grpc … --http … --record FILE NAME…`.

It says `ready` when it has loaded, begins with the first line on stdin, and when stdin ends says in a line of JSON what
came of each abuse and how much processor time it took. It does all of its abuses at once, or with --turn-seconds each
for so long, one after the other. It runs at a nice value of 10, so that its share of the machine is what others leave.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.abuse.catalogue import ABUSES
from tests.abuse.record import Record
from tests.abuse.scene import Address, Scene
from treehead.server import loop_factory

NICE = 10
DESCRIPTORS = 8_192


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse.abuser", description="Abuse a log, for a test.")
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT")
    parser.add_argument("--http", required=True, metavar="HOST:PORT")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE")
    parser.add_argument("--turn-seconds", type=float, metavar="SECONDS")
    parser.add_argument("names", nargs="+", choices=sorted(ABUSES), metavar="NAME")
    return parser.parse_args()


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def _run(options: argparse.Namespace) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with Record(options.record) as record:
        scenes = {
            name: Scene(
                grpc=_address(options.grpc),
                http=_address(options.http),
                sources=ABUSES[name].sources,
                seed=f"{options.seed}:{name}",
                record=record,
            )
            for name in options.names
        }
        print("ready", flush=True)
        if not await reader.readline():
            return
        before = _cpu_s()
        if options.turn_seconds is None:
            tasks = [asyncio.create_task(_abuse(name, scene)) for name, scene in scenes.items()]
        else:
            tasks = [asyncio.create_task(_take_turns(scenes, turn_s=options.turn_seconds))]
        ending = asyncio.create_task(reader.read())
        await asyncio.wait((ending, *tasks), return_when=asyncio.FIRST_COMPLETED)
        cpu_s = _cpu_s() - before
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise outcome or AssertionError("an abuse came to its end")
    done = {name: {"begun": scene.begun, "counts": scene.counts} for name, scene in scenes.items()}
    print(json.dumps({"cpu_s": cpu_s, "done": done}), flush=True)


async def _abuse(name: str, scene: Scene) -> None:
    await ABUSES[name].run(scene)


async def _take_turns(scenes: Mapping[str, Scene], *, turn_s: float) -> None:
    while True:
        for name, scene in scenes.items():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(turn_s):
                    await _abuse(name, scene)
                return


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run the command line."""
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if hard < 0 else min(DESCRIPTORS, hard), hard))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_run(_parse_arguments()))


if __name__ == "__main__":
    main()
