"""Abusers as processes of their own, which begin and end together."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

READY_SECONDS_MAX = 60
END_SECONDS_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one abuse did: how many attempts or sessions it began, and how often what came of one."""

    begun: int
    counts: Counter[str]

    def __str__(self) -> str:
        came = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.most_common())
        return f"{self.begun} begun: {came or 'nothing came of it'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an abuser did, by abuse, and the processor time that it took."""

    cpu_s: float
    done: Mapping[str, Done]


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """What one abuser does: so many abuses at once, or, if `turn_s` is given, each for so long and then the next."""

    names: Sequence[str]
    turn_s: float | None = None


class Abuser:
    """A process for a party. A context, whose end kills it if it still runs."""

    def __init__(self, party: Party, *, grpc: str, http: str, seed: str, record: Path) -> None:
        self.record = record
        where = ("--grpc", grpc, "--http", http, "--seed", seed, "--record", str(record))
        turns = () if party.turn_s is None else ("--turn-seconds", str(party.turn_s))
        self._command = (sys.executable, "-m", "tests.abuse.abuser", *where, *turns, *party.names)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Returns when it has loaded, and waits to begin."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_SECONDS_MAX):
            assert await self._process.stdout.readline() == b"ready\n", "an abuser did not start"
        return self

    def begin(self) -> None:
        """Let it begin."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"begin\n")

    async def end(self) -> Report:
        """Have it end; returns what it did."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(END_SECONDS_MAX):
            out, _ = await self._process.communicate()
        assert self._process.returncode == 0, "an abuser failed; it has said why"
        report = json.loads(out)
        done = {
            name: Done(begun=told["begun"], counts=Counter(told["counts"])) for name, told in report["done"].items()
        }
        return Report(cpu_s=report["cpu_s"], done=done)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
