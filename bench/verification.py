"""Checking inclusion proofs of 20 hashes, in process: what every client, monitor and auditor does for each entry.

Proofs of random leaves in a tree of 2^20 entries, each with hashes of its own, are checked one after the other
against the root: `treehead.merkle.verify_inclusion`, from hashes in memory to the decision. Not in it: parsing the
proof, hashing the leaf, the signature of the checkpoint.

Beside it: the same number of SHA-256 hashes over 65 bytes and nothing else, in the same round. `of_hashing` is the
share of that rate which the check reaches.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from treehead.merkle import HASH_BYTES, root_from_inclusion, verify_inclusion

NAME = "verification"
HASHES = 20
PROOFS = 2_000
RATE = Goal(what="a proof of 20 hashes checked, in process", bound=Bound.AT_LEAST, target=60_000, unit="/s")
GOALS = (RATE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A leaf, a proof, and the root that it leads to."""

    index: int
    leaf_hash: bytes
    proof: tuple[bytes, ...]
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round."""

    proofs_per_s: float
    hashing_per_s: float
    of_hashing: float


def _claims(seed: int) -> list[Claim]:
    rng = random.Random(seed)
    claims = []
    for _ in range(PROOFS):
        index = rng.randrange(1 << HASHES)
        leaf_hash, *proof = (rng.randbytes(HASH_BYTES) for _ in range(HASHES + 1))
        root = root_from_inclusion(index=index, size=1 << HASHES, leaf_hash=leaf_hash, proof=proof)
        claims.append(Claim(index=index, leaf_hash=leaf_hash, proof=tuple(proof), root=root))
    return claims


def _check(claims: Sequence[Claim]) -> None:
    for claim in claims:
        verify_inclusion(
            index=claim.index, size=1 << HASHES, leaf_hash=claim.leaf_hash, proof=claim.proof, root=claim.root
        )


def _hash(claims: Sequence[Claim]) -> None:
    node = b"\x01" + bytes(2 * HASH_BYTES)
    for _ in range(len(claims) * HASHES):
        sha256(node).digest()


def _rate(work: Callable[[Sequence[Claim]], None], claims: Sequence[Claim], seconds: float) -> float:
    """How many claims a second the work takes, over whole passes for at least so long."""
    passes, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds or not passes:
        work(claims)
        passes += 1
    return passes * len(claims) / took


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds."""
    claims = _claims(options.seed)
    _rate(_check, claims, options.warm_up)
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        hashing = _rate(_hash, claims, options.seconds / 2)
        proofs = _rate(_check, claims, options.seconds)
        rounds.append(Round(proofs_per_s=proofs, hashing_per_s=hashing, of_hashing=proofs / hashing))
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=("proofs_per_s", "hashing_per_s", "of_hashing"),
        rows=(Row(goal=RATE, measured=spread([round_.proofs_per_s for round_ in rounds])),),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return run(
        NAME, measure, options_of("bench.verification", about=__doc__, rounds=7, seconds=1, warm_up_s=0.5), arguments
    )


if __name__ == "__main__":
    sys.exit(main())
