"""A verifier's desk: a folder with an artifact, its proof, a policy and trust rules, in order until a test meddles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from tests.processes import EXIT_SECONDS_MAX, Finished, run_module
from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    LEAF,
    LOG_KEY,
    POLICY_FILE,
    PUBLISHER,
    WITNESSES,
    head_of,
    prefix_evidence,
    proof_file,
    tree_with,
)
from treehead.policy import parse_policy
from treehead.privatekey import PrivateKey
from treehead.trust import parse_trust
from treehead.wire import SERVER_OPTIONS
from treehead_client.memory import Memory
from treehead_client.verification import Verifier

DAY_S = 86_400


def trust_file(*signers: PrivateKey, match: str = "pypi:acme-*", max_age: str = "14d") -> bytes:
    """A trust file with one rule."""
    listed = ", ".join(f'"{signer.public}"' for signer in signers or (PUBLISHER,))
    return f'[[namespace]]\nmatch = "{match}"\nsigners = [{listed}]\nmax_age = "{max_age}"\n'.encode()


def cosigned_now(age_s: int = 0) -> Mapping[str, int]:
    """Every witness of the policy, having cosigned so long ago."""
    return dict.fromkeys(WITNESSES, time.time_ns() // 1_000_000_000 - age_s)


def fresh_proof(leaf: bytes = LEAF, *, age_s: int = 0) -> bytes:
    """The proof file of a leaf, cosigned so long ago."""
    return proof_file(leaf, checkpoint=head_of(tree_with(leaf), cosigned=cosigned_now(age_s)))


@asynccontextmanager
async def ended(process: asyncio.subprocess.Process, *, seconds_max: float = EXIT_SECONDS_MAX) -> AsyncIterator[None]:
    """A process that has so long to end in, and is killed if it has not, whatever goes wrong in the block."""
    try:
        async with asyncio.timeout(seconds_max):
            yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def babbling(service: str, method: str) -> AsyncIterator[str]:
    """The address of a peer that answers a method with bytes that are no message."""

    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b"\xff\xff\xff garbage"

    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Desk:
    """What lies on the desk; `verify` is what its user types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifact = folder / FILENAME
        self.proof = folder / f"{FILENAME}.tlog-proof"
        self.policy = folder / "policy"
        self.trust = folder / "trust.toml"
        self.state = folder / "state"
        self.artifact.write_bytes(CONTENT)
        self.proof.write_bytes(fresh_proof())
        self.policy.write_bytes(POLICY_FILE)
        self.trust.write_bytes(trust_file())

    def meddle(self, name: str, change: Callable[[Path], object]) -> Path:
        """Change one of the four files, by its name here; returns its path."""
        path: Path = getattr(self, name)
        change(path)
        return path

    def keep_evidence(self, content: bytes | None = None) -> Path:
        """Evidence against the log, or this instead of it, is kept in the state; returns its path."""
        path = Path(Memory(str(self.state)).keep_evidence(prefix_evidence(), log=LOG_KEY))
        if content is not None:
            path.write_bytes(content)
        return path

    def arguments(self, *files: Path) -> list[str | Path]:
        """The arguments of `treehead` that verify the artifact, or these files."""
        options = ["--policy", self.policy, "--trust", self.trust, "--state", self.state]
        return ["verify", *(files or [self.artifact]), *options]

    async def verify(self, *more: str | Path, files: tuple[Path, ...] = ()) -> Finished:
        """Run the real command; `more` adds options."""
        return await run_module("treehead_client", *self.arguments(*files), *more)

    def verifier(self) -> Verifier:
        """The same without a process."""
        return Verifier(
            policy=parse_policy(self.policy.read_bytes()),
            trust=parse_trust(self.trust.read_bytes()),
            memory=Memory(str(self.state)),
        )
