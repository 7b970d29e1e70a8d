"""`treehead demo`: the whole mission on this machine, from the first signature to a log caught lying."""

from __future__ import annotations

import importlib.util
import signal
import time
from argparse import ArgumentParser, Namespace
from types import FrameType

from treehead.errors import UsageError
from treehead_client.demo.narrator import Narrator
from treehead_client.demo.scenario import play
from treehead_client.demo.stage import Stage
from treehead_client.verdict import EXIT_OK


def configure(parser: ArgumentParser) -> None:
    """There are no arguments."""


def run(arguments: Namespace) -> int:
    """Play the story; returns only if every step of it ended as it should."""
    if importlib.util.find_spec("aiosqlite") is None:
        raise UsageError("the demo runs a log and monitors: install treehead[log,monitor]")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell's background job ignores SIGINT
        signal.signal(number, _interrupt)
    began = time.perf_counter()
    narrator = Narrator()
    print("Treehead: a log, three monitors, a publisher and a user, each a process of its own on this machine.")
    with Stage() as stage:
        play(stage, narrator)
    seconds = time.perf_counter() - began
    print(
        f"\nAll {narrator.steps} steps went as they should, in {seconds:.1f} s; every process and file is gone again."
    )
    return EXIT_OK


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ending the demonstration is the same by whatever signal: what it started is stopped."""
    raise KeyboardInterrupt
