"""Inclusion proofs in process, from a log of a million entries: the server's own prover, without gRPC.

One proof is made after the other, of random entries in the newest tree, from the tiles on disk and the prover's cache
of them. `cold` is the first proofs after the log was opened, with its file not in the operating system's cache;
`warm` comes after a pass over entries all over the log, which fills the prover's cache as far as it goes; `newest`
are proofs of the 20,000 newest entries. All proofs of the cold pass are verified, outside of the time.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.builder import FilledLog, LogParts, filled_log, open_log
from bench.rig.latency import Latency, latency_of, spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.server import forget_pages, read_vkey
from treehead.checkpoint import open_checkpoint
from treehead.merkle import verify_inclusion
from treehead.tile import TILE_WIDTH

NAME = "prover"
ENTRIES = 1_000_000
COLD_PROOFS = 200
NEWEST = 20_000
PASS_PROOFS = 2_000
RATE = Goal(what="inclusion proofs in process, 1 million entries, warm", bound=Bound.AT_LEAST, target=35_000, unit="/s")
GOALS = (RATE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: latencies of the first proofs, and rates."""

    cold: Latency
    warm_per_s: float
    newest_per_s: float


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds."""
    log = await filled_log(options, scratch, size=options.entries)
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        rounds.append(await prove(log, random.Random(f"{options.seed}:{number}"), seconds=options.seconds))
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=("cold.p50_ms", "cold.p99_ms", "warm_per_s", "newest_per_s"),
        rows=(Row(goal=RATE, measured=spread([round_.warm_per_s for round_ in rounds])),),
    )


async def prove(log: FilledLog, rng: random.Random, *, seconds: float) -> Round:
    """One round on a log that no server is using."""
    forget_pages(log.folder)
    indices = [rng.randrange(log.filled) for _ in range(PASS_PROOFS)]
    newest = [rng.randrange(max(log.filled - NEWEST, 0), log.filled) for _ in range(PASS_PROOFS)]
    async with open_log(log.folder) as parts:
        cold = await _first_proofs(log, parts, rng)
        await _rate(parts, range(0, log.filled, TILE_WIDTH), 0)
        return Round(
            cold=cold,
            warm_per_s=await _rate(parts, indices, seconds),
            newest_per_s=await _rate(parts, newest, seconds),
        )


async def _first_proofs(log: FilledLog, parts: LogParts, rng: random.Random) -> Latency:
    """How long the first proofs take, each of which is verified."""
    head = parts.heads.newest
    hashes = log.leaf_hashes([rng.randrange(log.filled) for _ in range(COLD_PROOFS)])
    took = []
    proofs = {}
    for index in hashes:
        began = time.perf_counter()
        proofs[index] = await parts.prover.prove_inclusion(index=index, size=head.size, head=head)
        took.append(time.perf_counter() - began)
    checkpoint = open_checkpoint(head.checkpoint, key=read_vkey(log.folder))
    for index, proof in proofs.items():
        verify_inclusion(index=index, size=checkpoint.size, leaf_hash=hashes[index], proof=proof, root=checkpoint.root)
    return latency_of(took)


async def _rate(parts: LogParts, indices: Sequence[int], seconds: float) -> float:
    """How many proofs a second are made, over whole passes for at least so long."""
    prover, head = parts.prover, parts.heads.newest
    passes, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds or not passes:
        for index in indices:
            await prover.prove_inclusion(index=index, size=head.size, head=head)
        passes += 1
    return passes * len(indices) / took


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.prover", about=__doc__, rounds=5, seconds=1)
    parser.add_argument("--entries", type=int, default=ENTRIES, help="the size of the log (default %(default)s)")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
