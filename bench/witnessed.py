"""From the call to a proof that leads to a checkpoint with the witnesses' cosignatures, at the default interval.

Attestations (P-256, about 1.2 KB) are added over gRPC with WAIT_WITNESSED, a few a second and each at a random moment,
to a log that has three witnesses, each a process on this machine. The clock runs from the moment at which an entry is
due to the one at which the caller has verified what came back: the inclusion proof, the log's signature, and as many
cosignatures as the policy asks for. Most of it is waiting for the next publication, which is half of the interval on
average. `overdue` is the share of entries that waited for longer than an interval and a quarter of one, and so missed
the publication that came next. Each round starts with an empty log. Not in it: signing the entries, connecting.

Once the policy asks for all three; and once for two of them, when one has been stopped.
"""

from __future__ import annotations

import contextlib
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.calls import Connections, adding
from bench.rig.entries import Publisher, Submission, single
from bench.rig.generator import OpenLoad, open_loop
from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.server import LogServer, create_log, read_vkey
from bench.rig.verifier import Verifier
from bench.rig.witnesses import WitnessServer, have_witnesses
from treehead.v1 import log_pb2

NAME = "witnessed"
WITNESSES = 3
CALLS_PER_S = 5.0
ALLOWED_SECONDS = 1.25
SPARE = 3
"""Random moments may be more than their rate says; there are entries for so many times as many."""

ALL = Goal(
    what="witnessed proof, 1 s interval, 3 of 3 witnesses on loopback, p50",
    bound=Bound.AT_MOST,
    target=800,
    unit=" ms",
)
MOST = Goal(
    what="witnessed proof, 1 s interval, 2 of 3 witnesses, one stopped, p50",
    bound=Bound.AT_MOST,
    target=800,
    unit=" ms",
)
GOALS = (ALL, MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round with so many witnesses stopped; all the others are needed."""

    stopped: int
    open: OpenLoad


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds, each with all witnesses and with one of them stopped."""
    count = SPARE + round(SPARE * options.calls_per_s * (options.seconds + options.warm_up))
    entries = [single(leaf, wait=log_pb2.WAIT_WITNESSED) for leaf in Publisher(seed=options.seed).leaves(count)]
    rounds = []
    for number in range(options.rounds):
        for stopped in (0, 1):
            say(f"{NAME}: round {number + 1} of {options.rounds}, {stopped} of {WITNESSES} witnesses stopped")
            folder = scratch / f"log-{number}-{stopped}"
            moments = random.Random(f"moments:{options.seed}:{number}")
            load = await _submit(folder, entries, stopped=stopped, moments=moments, options=options)
            rounds.append(Round(stopped=stopped, open=load))
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        by=("stopped",),
        columns=(
            "open.load.entries",
            "open.load.latency.p50_ms",
            "open.load.latency.p99_ms",
            "open.load.latency.max_ms",
            "open.overdue",
            "open.load.server_cpu_us",
            "open.load.server_peak_mib",
        ),
        rows=tuple(
            Row(goal=goal, measured=spread([at.open.load.latency.p50_ms for at in rounds if at.stopped == stopped]))
            for stopped, goal in enumerate(GOALS)
        ),
    )


async def _submit(
    folder: Path, entries: Sequence[Submission], *, stopped: int, moments: random.Random, options: Namespace
) -> OpenLoad:
    """The load on a new log in `folder`, everything acknowledged audited."""
    await create_log(folder)
    vkey = read_vkey(folder)
    async with contextlib.AsyncExitStack() as stack:
        witnesses = [WitnessServer(folder, number=number, log=vkey) for number in range(WITNESSES)]
        async with contextlib.AsyncExitStack() as brief:
            for number, witness in enumerate(witnesses):
                await (brief if number < stopped else stack).enter_async_context(witness)
            policy = have_witnesses(folder, witnesses, log=vkey, quorum=WITNESSES - stopped)
        verifier = Verifier(vkey, policy=policy)
        server = await stack.enter_async_context(LogServer(folder))
        connections = await stack.enter_async_context(Connections(server.address, callers=1))
        load = await open_loop(
            adding(connections, iter(entries), verifier),
            calls_per_s=options.calls_per_s,
            warm_up_s=options.warm_up,
            seconds=options.seconds,
            server=server,
            moments=moments,
            allowed_s=ALLOWED_SECONDS,
        )
        verifier.audit(await connections.published(size=verifier.acknowledged))
    return load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.witnessed", about=__doc__, rounds=3, seconds=20, warm_up_s=2)
    parser.add_argument("--calls-per-s", type=float, default=CALLS_PER_S, help="how many entries come a second")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
