"""What the demonstration prints: acts and steps, commands with their answers, how long it took and what it proved."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager

from treehead.display import printable

_INDENT = "    "


class Narrator:
    """Counts the steps and tells them."""

    def __init__(self) -> None:
        self.steps = 0

    def act(self, title: str) -> None:
        """Begin an act."""
        print(f"\n== {title}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Begin a step; its end says how long it took."""
        self.steps += 1
        print(f"\n{self.steps:2}. {title}", flush=True)
        began = time.perf_counter()
        yield
        print(f"{_INDENT}({time.perf_counter() - began:.2f} s)", flush=True)

    def command(self, program: str, *arguments: str) -> None:
        """Show a command as its user types it, with keys shortened."""
        words = (_shortened(argument) for argument in arguments)
        print(f"{_INDENT}$ {shlex.join([program, *words])}", flush=True)

    def answer(self, text: str, *, exit_code: int | None = None) -> None:
        """Show what a command printed, and its exit code where that is the point."""
        for line in text.splitlines():
            print(f"{_INDENT}{printable(line)}")
        if exit_code:
            print(f"{_INDENT}[exit code {exit_code}]")

    def lesson(self, text: str) -> None:
        """Say what a step has proven."""
        print(f"{_INDENT}=> {text}", flush=True)

    def remark(self, text: str) -> None:
        """Say something in between."""
        print(f"{_INDENT}{text}", flush=True)


def _shortened(argument: str) -> str:
    """The argument, and of a verifier key only its name and id: they fill a line."""
    name, plus, rest = argument.partition("+")
    key_id, plus2, after = rest.partition("+")
    if not (plus and plus2):
        return argument
    return f"{name}+{key_id}+…{'=' + after.rpartition('=')[2] if ':' in after else ''}"
