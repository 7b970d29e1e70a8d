"""Witnesses as processes of their own on this machine, and a log that asks them.

They are the stand-ins of the tests, which do no more than the protocol asks for; what is measured is the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from bench.rig.server import ServerProcess
from treehead.keys import VerifierKey, format_vkey, parse_vkey
from treehead.policy import Policy, parse_policy

_VKEY = "vkey "


class WitnessServer(ServerProcess):
    """`python -m tests.witness_server`, the witness with a number, for one log; `folder` is where it may write."""

    def __init__(self, folder: Path, *, number: int, log: VerifierKey) -> None:
        self.name = f"w{number}"
        arguments = ("--key-seed", str(number), "--name", f"{self.name}.example", "--log", format_vkey(log))
        super().__init__("tests.witness_server", *arguments, stderr=folder / f"{self.name}.txt")
        self.vkey: VerifierKey | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.vkey = parse_vkey((await self.next_line()).removeprefix(_VKEY))
        return self

    @property
    def policy_line(self) -> str:
        """The line of a policy that makes a log ask it."""
        if self.vkey is None:
            raise ValueError("a witness has no key to name before it runs")
        return f"witness {self.name} {format_vkey(self.vkey)} http://{self.address}"


def have_witnesses(folder: Path, witnesses: Sequence[WitnessServer], *, log: VerifierKey, quorum: int) -> Policy:
    """Have the log in a folder, which does not run, publish only what so many of the witnesses cosigned.

    Returns the policy by which that is verified.
    """
    names = " ".join(witness.name for witness in witnesses)
    policy = "".join(f"{witness.policy_line}\n" for witness in witnesses) + f"group all {quorum} {names}\nquorum all\n"
    (folder / "witnesses.policy").write_text(policy, encoding="utf-8")
    (folder / "log.toml").write_text('[witnesses]\npolicy = "witnesses.policy"\nfail = "closed"\n', encoding="utf-8")
    return parse_policy(f"log {format_vkey(log)}\n{policy}".encode())
