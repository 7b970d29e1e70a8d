"""`python -m tests.abuse.run`: abuse a log in every way, and see what that does to those who behave.

A log with rates is asked by two clients that behave well, first alone and then beside four abusers in processes of
their own: an oversized, a malformed, a slow and a flooding one. Each does all that the catalogue holds of its class,
one thing after the other; the slow one does everything at once, for what it does takes long and costs little. The same
is measured in both: how long each request takes to its verified answer. In the end everything that was acknowledged to
anybody has to be in the log, and the log in good order.

With --at-once all four do everything at once. That asks for more than one process can give, so how long requests take
then is told and not judged; all else is.

What abusers send follows from the seed; what becomes of it does not. Abusers run at a nice value of 10: else the
machine's scheduler, and not the log, would decide who gets the two cores, which real abusers do not sit on. Even so
they take what is left over, and the summary says how much. Exit codes: 0, and 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.rig.builder import grow_log
from bench.rig.entries import OpaqueLeaves
from bench.rig.latency import latency_of
from bench.rig.server import LogServer, create_log
from tests.abuse.behaved import FULL_TILES, BehavedClient, GrpcClient, HttpClient
from tests.abuse.catalogue import ABUSES, CLASSES
from tests.abuse.figures import MEBIBYTE, Figures, Phase
from tests.abuse.oracle import check_log, check_stopped
from tests.abuse.party import Abuser, Party
from tests.abuse.record import Told
from tests.fault.oracle import LostError
from treehead.server import loop_factory
from treehead.tile import TILE_WIDTH
from treehead.wire import CHANNEL_OPTIONS

ALL_AT_ONCE = "slow"
"""The class whose abuses do not take turns."""
BASELINE_SHARE = 0.25
WARM_UP_TURNS = 20
"""Of each client, before anything counts: what a log does once must not pass for how it is when left alone."""
QUIET_SECONDS = 0.5
"""Between two phases, for what is under way to end."""
EXIT_OK, EXIT_BROKEN = 0, 1
LOG_TOML = """\
[admission]
kinds = ["attestation", "hashedrekord", "opaque"]

[admission.rates]
requests = "45/s"
address = "45/s"
"""
"""An operator who gives each address half as much again as the two clients need, who share one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A phase to come: its name, its abusers, and how long it is to last."""

    name: str
    parties: Sequence[Party]
    seconds: float


class Program:
    """One log, and all that is done to it."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.figures = Figures()
        self._folder = folder
        self._data = folder / "log"
        self._seed = seed
        self._parties = 0

    async def run(self, plans: Sequence[Plan]) -> Figures:
        """Go through the phases, and then see what is left; what went wrong is in the figures."""
        await create_log(self._data)
        leaves = OpaqueLeaves(seed=self._seed)
        await grow_log(self._data, size=FULL_TILES * TILE_WIDTH, leaves=leaves)
        (self._data / "log.toml").write_text(LOG_TOML, encoding="utf-8")
        server = LogServer(self._data)
        told = Told(vkey=server.vkey)
        told.note_submitted(leaves.leaves(0, FULL_TILES * TILE_WIDTH))
        try:
            async with server:
                await self._measure(server, told, plans)
                self.figures.memory_mib = server.usage().rss_peak_bytes / MEBIBYTE
                await check_log(server.address, told, seed=f"{self._seed}")
            await check_stopped(self._data, self._journal)
        except LostError as exc:
            self.figures.lost = exc.count
            self.figures.failures.append(str(exc))
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the log or its abusers did what they must not
            say(traceback.format_exc())
            self.figures.failures.append(f"{type(exc).__name__}: {exc}")
        self.figures.acknowledged = told.acknowledged
        return self.figures

    @property
    def _journal(self) -> Path:
        return self._data / "stderr.txt"

    async def _measure(self, server: LogServer, told: Told, plans: Sequence[Plan]) -> None:
        host, _, port = server.http.rpartition(":")
        async with grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel:
            http = HttpClient((host, int(port)), told, seed=f"{self._seed}:http")
            clients = {"grpc": GrpcClient(channel, told, seed=f"{self._seed}:grpc"), "http": http}
            with contextlib.closing(http):
                for client in clients.values():
                    for _ in range(WARM_UP_TURNS):
                        await client.turn()
                for plan in plans:
                    phase = await self._phase(plan, server=server, clients=clients, told=told)
                    self.figures.phases.append(phase)
                    say(phase.describe(self.figures.phases[0]))

    async def _phase(self, plan: Plan, *, server: LogServer, clients: Mapping[str, BehavedClient], told: Told) -> Phase:
        async with contextlib.AsyncExitStack() as stack:
            abusers = [await stack.enter_async_context(self._abuser(party, server)) for party in plan.parties]
            await asyncio.sleep(QUIET_SECONDS if abusers else 0)
            began, cpu_s, written = time.perf_counter(), server.usage().cpu_s, self._journal.stat().st_size
            over = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for client in clients.values():
                    client.begin()
                    tasks.create_task(client.run(over))
                for abuser in abusers:
                    abuser.begin()
                await asyncio.sleep(plan.seconds)
                took_s, cpu_s = time.perf_counter() - began, server.usage().cpu_s - cpu_s
                # The abuse ends on time; who still waits for an answer then waits on.
                over.set()
                reports = await asyncio.gather(*(abuser.end() for abuser in abusers))
            written = self._journal.stat().st_size - written
        for abuser in abusers:
            told.note_record(abuser.record)
        all_s = took_s * (os.cpu_count() or 1)
        return Phase(
            name=plan.name,
            seconds=took_s,
            latencies={name: latency_of(client.latencies_s) for name, client in clients.items()},
            refusals=sum(client.refusals for client in clients.values()),
            unanswered=sum(client.unanswered for client in clients.values()),
            journal_bytes_per_s=written / took_s,
            memory_mib=server.usage().rss_bytes / MEBIBYTE,
            server_share=cpu_s / all_s,
            abusers_share=sum(report.cpu_s for report in reports) / all_s,
            done={name: done for report in reports for name, done in report.done.items()},
        )

    def _abuser(self, party: Party, server: LogServer) -> Abuser:
        self._parties += 1
        return Abuser(
            party,
            grpc=server.address,
            http=server.http,
            seed=f"{self._seed}:{self._parties}",
            record=self._folder / f"record-{self._parties}",
        )


def say(text: str) -> None:
    """Tell whoever looks on."""
    print(text, file=sys.stderr, flush=True)


def plans_of(options: argparse.Namespace) -> list[Plan]:
    """The phases that the command line asks for."""
    classes = {name: [abuse.name for abuse in abuses] for name, abuses in CLASSES.items()}
    plans = [Plan(name="nobody", parties=(), seconds=options.baseline_seconds)]
    if options.only:
        these = [Party(names=[name]) for name in options.only]
        return [*plans, Plan(name="these", parties=these, seconds=options.seconds)]
    if options.each:
        alone = {**classes, **{name: [name] for name in ABUSES}}
        plans += [Plan(name=name, parties=[Party(names=names)], seconds=options.each) for name, names in alone.items()]
    if options.at_once:
        parties = [Party(names=names) for names in classes.values()]
        return [*plans, Plan(name="all at once", parties=parties, seconds=options.seconds)]
    parties = [
        Party(names=names, turn_s=None if name == ALL_AT_ONCE else options.seconds / len(names))
        for name, names in classes.items()
    ]
    return [*plans, Plan(name="all", parties=parties, seconds=options.seconds)]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse.run", description="Abuse a log in every way.")
    parser.add_argument("--seconds", type=float, default=60, help="how long all abuses last (default %(default)s)")
    parser.add_argument(
        "--baseline-seconds", type=float, metavar="SECONDS", help="how long nobody abuses it (default: a quarter of it)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what decides what is sent")
    parser.add_argument(
        "--each", type=float, metavar="SECONDS", help="before that, each class and each abuse alone for so long"
    )
    parser.add_argument("--only", nargs="+", choices=sorted(ABUSES), metavar="NAME", help="these abuses, not all")
    parser.add_argument("--at-once", action="store_true", help="everything at once, and judge no time")
    parser.add_argument("--list", action="store_true", help="say which abuses there are, and do none")
    parser.add_argument("--verbose", action="store_true", help="say what came of each abuse")
    options = parser.parse_args(arguments)
    if options.baseline_seconds is None:
        options.baseline_seconds = options.seconds * BASELINE_SHARE
    return options


async def run_program(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    if options.list:
        for name, abuses in CLASSES.items():
            print(f"{name}: {' '.join(abuse.name for abuse in abuses)}")
        return EXIT_OK
    with tempfile.TemporaryDirectory(prefix="treehead-abuse-") as folder:
        figures = await Program(Path(folder), seed=options.seed).run(plans_of(options))
    if options.verbose and figures.phases:
        for name, done in figures.phases[-1].done.items():
            say(f"{name}: {done}")
    broken = figures.broken if options.at_once else [*figures.broken, *figures.slow]
    for sentence in broken:
        say(f"broken: {sentence}")
    print(figures)
    return EXIT_BROKEN if broken else EXIT_OK


if __name__ == "__main__":
    # The clients' own collector would stop them for as long as a request takes, and the longer the more they were told.
    gc.disable()
    # What gRPC's core has to say about connections that end is no finding.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(run_program(parse_arguments(None))))
