"""Stand-in witnesses as processes of their own, for tests and benchmarks of whole programs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tests.processes import ServerProcess
from tests.witness_server import witness_key
from treehead.keys import NoteKeyType, VerifierKey, format_vkey


class WitnessProcess(ServerProcess):
    """`python -m tests.witness_server` for one log, on a free loopback port; after a stop it comes back to the same.

    `name` is the policy's; the witness signs as `NAME.example`.
    """

    def __init__(
        self, name: str, *, log: VerifierKey, key_seed: int = 0, misbehave: str = "", state: Path | None = None
    ) -> None:
        self.name = name
        self.vkey = witness_key(key_seed).verifier_key(name=f"{name}.example", key_type=NoteKeyType.COSIGNATURE_ED25519)
        arguments: list[str | Path] = ["--key-seed", str(key_seed), "--name", self.vkey.name, "--log", format_vkey(log)]
        arguments += ["--misbehave", misbehave] if misbehave else []
        arguments += ["--state", state] if state is not None else []
        super().__init__("tests.witness_server", *arguments)

    async def start(self) -> Self:
        """Returns when it listens; see `ServerProcess.start`."""
        await super().start()
        if "--port" not in self.arguments:
            self.arguments = (*self.arguments, "--port", self.address.rpartition(":")[2])
        return self

    @property
    def url(self) -> str:
        """Its submission prefix."""
        return f"http://{self.address}"

    @property
    def policy_line(self) -> str:
        """The line of a policy that makes the log ask it."""
        return f"witness {self.name} {format_vkey(self.vkey)} {self.url}"
