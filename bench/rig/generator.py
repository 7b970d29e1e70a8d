"""Load: callers who each wait for their answer (closed loop), or arrivals by a clock that waits for nobody (open loop).

A latency ends when the answer has been verified. In a closed loop it begins when the call is made. In an open loop it
begins when the call was due, so that a server which makes the generator late is not credited with the wait. Only what
ends (closed) or was due (open) after the warm-up counts. Processor time per entry is that of the same span of time:
the server's with all processes that it has started, the generator's with the verification.

Python's cycle collector is off in the generator meanwhile, for its pauses would count as the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.rig.calls import BusyError, Call, DroppedError, ExhaustedError
from bench.rig.latency import Latency, latency_of
from bench.rig.process import Usage
from bench.rig.server import ServerProcess

RETRY_SECONDS = 0.1
"""After how long a caller who was refused comes again, as the log asks callers to."""

_MEBIBYTE = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one load measured. `entries` were verified, or proofs of so many; processor time is for each of them.

    `refused` counts the calls for which the server had no room, and `dropped` those of them that gRPC cancelled instead
    of having them refused, which no caller can tell from a fault; they are in no other figure.
    """

    seconds: float
    entries: int
    entries_per_s: float
    refused: int
    dropped: int
    latency: Latency
    server_cpu_us: float
    generator_cpu_us: float
    server_rss_mib: float
    server_peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """What an open loop measured.

    `late` is how long after its time each call was sent, which is in its latency. `overdue` is the share of calls that
    took longer than they were allowed to.
    """

    offered_per_s: float
    load: Load
    late: Latency
    overdue: float


class TooFewError(Exception):
    """Too little was prepared for the load: nothing was left, or nothing came back, when its clock was to start."""


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What is counted while `counting`. `over` tells the callers to stop."""

    server: ServerProcess
    counting: bool = False
    entries: int = 0
    refused: int = 0
    dropped: int = 0
    latencies_s: list[float] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _begin: tuple[float, float, Usage] | None = None
    _end: tuple[float, float, Usage] | None = None

    def begin(self) -> None:
        """Start to count."""
        self._begin = self._meters()
        self.counting = True

    def end(self) -> None:
        """Stop counting, at the first call of this."""
        if self.counting:
            self._end = self._meters()
        self.counting = False
        self.first.set()
        self.over.set()

    def count(self, *, seconds: float, entries: int) -> None:
        """Count one call that was answered."""
        self.latencies_s.append(seconds)
        self.entries += entries
        self.first.set()

    def count_refused(self, error: BusyError) -> None:
        """Count one call for which there was no room."""
        self.refused += 1
        self.dropped += isinstance(error, DroppedError)

    def _meters(self) -> tuple[float, float, Usage]:
        return time.perf_counter(), time.process_time(), self.server.usage()

    def load(self) -> Load:
        """What was counted."""
        if self._begin is None or self._end is None or not self.latencies_s:
            raise TooFewError("nothing was measured: prepare more entries, or measure for longer")
        (began, own_began, server_began), (ended, own_ended, server_ended) = self._begin, self._end
        return Load(
            seconds=ended - began,
            entries=self.entries,
            entries_per_s=self.entries / (ended - began),
            refused=self.refused,
            dropped=self.dropped,
            latency=latency_of(self.latencies_s),
            server_cpu_us=(server_ended.cpu_s - server_began.cpu_s) / self.entries * 1e6,
            generator_cpu_us=(own_ended - own_began) / self.entries * 1e6,
            server_rss_mib=server_ended.rss_bytes / _MEBIBYTE,
            server_peak_mib=server_ended.rss_peak_bytes / _MEBIBYTE,
        )


async def closed_loop(call: Call, *, callers: int, warm_up_s: float, seconds: float, server: ServerProcess) -> Load:
    """Have so many callers call, each again as soon as it has its answer.

    It ends early when nothing is left to send, and late when no call has been answered in all that time.
    """
    tally = _Tally(server=server)
    with _collector_off():
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(_call_on(call, tally))
            await _wait(tally.over, warm_up_s)
            if not tally.over.is_set():
                tally.begin()
                await _wait(tally.over, seconds)
                await tally.first.wait()
                tally.end()
    return tally.load()


async def _call_on(call: Call, tally: _Tally) -> None:
    while not tally.over.is_set():
        began = time.perf_counter()
        try:
            entries = await call()
        except ExhaustedError:
            tally.end()
            return
        except BusyError as exc:
            if tally.counting:
                tally.count_refused(exc)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        if tally.counting:
            tally.count(seconds=time.perf_counter() - began, entries=entries)


async def open_loop(
    call: Call,
    *,
    calls_per_s: float,
    warm_up_s: float,
    seconds: float,
    server: ServerProcess,
    moments: random.Random | None = None,
    allowed_s: float = math.inf,
) -> OpenLoad:
    """Make calls at a rate, whatever becomes of them; returns when all are answered.

    They are evenly spaced, or, with something to draw their `moments` from, independent of one another (Poisson).
    """
    tally = _Tally(server=server)
    late_s: list[float] = []
    began = time.perf_counter()
    due = began
    with _collector_off():
        async with asyncio.TaskGroup() as tasks:
            for after_s in _moments(calls_per_s, warm_up_s + seconds, moments):
                due = began + after_s
                await asyncio.sleep(0)  # even when late: the answers want to be taken, too
                while (early := due - time.perf_counter()) > 0:  # noqa: ASYNC110 -- a timer may ring early
                    await asyncio.sleep(early)
                counts = due >= began + warm_up_s
                if counts and not tally.counting:
                    tally.begin()
                if counts:
                    late_s.append(time.perf_counter() - due)
                tasks.create_task(_call_once(call, tally, due=due, counts=counts))
        tally.end()
    load = tally.load()
    overdue = sum(latency_s > allowed_s for latency_s in tally.latencies_s) / load.latency.count
    return OpenLoad(offered_per_s=calls_per_s, load=load, late=latency_of(late_s), overdue=overdue)


def _moments(calls_per_s: float, seconds: float, moments: random.Random | None) -> Iterator[float]:
    """When calls are due, in seconds from the start on."""
    if moments is None:
        yield from (number / calls_per_s for number in range(round(calls_per_s * seconds)))
        return
    after_s = moments.expovariate(calls_per_s)
    while after_s < seconds:
        yield after_s
        after_s += moments.expovariate(calls_per_s)


async def _call_once(call: Call, tally: _Tally, *, due: float, counts: bool) -> None:
    try:
        entries = await call()
    except BusyError as exc:
        if counts:
            tally.count_refused(exc)
        return
    if counts:
        tally.count(seconds=time.perf_counter() - due, entries=entries)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
