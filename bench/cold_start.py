"""`treehead verify`, offline and cold: from the start of the process to its end, for which a user has to wait.

An artifact was signed and logged; the proof lies beside it. Each run is a new process of the installed command
`treehead`, which reads policy, trust, proof and artifact, verifies all of it and remembers the head. The files, and
the interpreter's own, are in the operating system's cache, and all modules are compiled, as those of an installed
package are. The time is wall time, from before the process is spawned until it has been waited for.

Beside it, one after the other in each round: the interpreter alone, and the interpreter with one Ed25519 signature
verified, which is what no verifier in Python can do without. `over_bare` is the multiple of the latter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.latency import spread
from bench.rig.program import options_of, parameters_of, run, say
from bench.rig.result import Bound, Goal, Result, Row
from bench.rig.server import LogServer, create_log
from treehead.keys import format_vkey

NAME = "cold_start"
WALL = Goal(what="treehead verify, offline, cold", bound=Bound.AT_MOST, target=75, unit=" ms")
GOALS = (WALL,)
TREEHEAD = str(Path(sysconfig.get_path("scripts")) / "treehead")
ARTIFACT = "artifact.bin"
ED25519 = """
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
Ed25519PublicKey.from_public_bytes(bytes.fromhex("{public}")).verify(bytes.fromhex("{signature}"), b"message")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: the median wall time of each kind of process, and the multiples."""

    verify_ms: float
    interpreter_ms: float
    ed25519_ms: float
    over_interpreter: float
    over_bare: float


def _wall_ms(command: Sequence[str], folder: Path) -> float:
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=compiled,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with exit code {done.returncode}: {done.stderr.decode()}")
    return took * 1_000


def _treehead(*arguments: str, folder: Path) -> str:
    """What a command of `treehead` prints; the server that it may talk to is a process of its own."""
    done = subprocess.run([TREEHEAD, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


async def _logged_artifact(folder: Path, seed: int) -> list[str]:
    """Sign and log an artifact in a folder; returns the command that verifies it there."""
    log = folder / "log"
    await create_log(log)
    (folder / ARTIFACT).write_bytes(f"an artifact {seed}".encode())
    signer = _treehead("keygen", "--out", "key.pem", folder=folder).strip()
    async with LogServer(log) as server:
        (folder / "policy").write_text(f"log {format_vkey(server.vkey)}\nquorum none\n", encoding="utf-8")
        addressed = ("--log", server.address, "--policy", "policy")
        _treehead("sign", ARTIFACT, "--key", "key.pem", *addressed, folder=folder)
    rule = f'[[namespace]]\nmatch = "generic:*"\nsigners = ["{signer}"]\n'
    (folder / "trust.toml").write_text(rule, encoding="utf-8")
    return [TREEHEAD, "verify", ARTIFACT, "--policy", "policy", "--trust", "trust.toml", "--state", "state"]


def _bare() -> list[str]:
    """The command that verifies one signature by the same library, and nothing else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public, signature = key.public_key().public_bytes_raw().hex(), key.sign(b"message").hex()
    return [sys.executable, "-c", ED25519.format(public=public, signature=signature)]


async def measure(options: Namespace, scratch: Path) -> Result:
    """All rounds; in each, the processes take turns, so that a busy moment meets all of them."""
    verify, bare = await _logged_artifact(scratch, options.seed), _bare()
    interpreter = [sys.executable, "-c", "pass"]
    for command in (verify, bare, interpreter):
        _wall_ms(command, scratch)
    rounds = []
    for number in range(options.rounds):
        say(f"{NAME}: round {number + 1} of {options.rounds}")
        runs = [
            (_wall_ms(verify, scratch), _wall_ms(interpreter, scratch), _wall_ms(bare, scratch))
            for _ in range(options.runs)
        ]
        verify_ms, interpreter_ms, ed25519_ms = (spread(walls).median for walls in zip(*runs, strict=True))
        rounds.append(
            Round(
                verify_ms=verify_ms,
                interpreter_ms=interpreter_ms,
                ed25519_ms=ed25519_ms,
                over_interpreter=verify_ms / interpreter_ms,
                over_bare=verify_ms / ed25519_ms,
            )
        )
    return Result(
        name=NAME,
        parameters=parameters_of(options),
        figures=rounds,
        columns=("verify_ms", "interpreter_ms", "ed25519_ms", "over_interpreter", "over_bare"),
        rows=(Row(goal=WALL, measured=spread([round_.verify_ms for round_ in rounds])),),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = options_of("bench.cold_start", about=__doc__, rounds=5)
    parser.add_argument("--runs", type=int, default=12, help="processes of each sort in a round (default %(default)s)")
    return run(NAME, measure, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
