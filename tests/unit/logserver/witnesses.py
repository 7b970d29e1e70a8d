"""A growing log and stand-in witnesses over loopback: what the tests of the log's side of witnessing are about."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import httpx

from tests.unit.library.specimens import LOG_KEY, NOW, ORIGIN, Tree, signed_checkpoint
from tests.witness_server import StandInWitness, WitnessServer, witness_key
from treehead.checkpoint import Checkpoint
from treehead.keys import VerifierKey
from treehead.note import Note
from treehead.policy import Witness
from treehead.tls import ClientTls
from treehead.witness import parse_add_checkpoint
from treehead_logserver.witness.client import WitnessClient
from treehead_logserver.witness.exchange import witness_transport

TIMEOUT_MS = 20_000
"""More than any answer of these witnesses takes."""


@cache
def _system_roots() -> ssl.SSLContext:
    return ClientTls().ssl_context()


class SystemTls(ClientTls):
    """What a log trusts without options. It takes a tenth of a second to read, and is read once."""

    def ssl_context(self) -> ssl.SSLContext:
        """See `ClientTls.ssl_context`."""
        return _system_roots()


class Clock:
    """POSIX seconds, for witnesses and clients alike, which pass when told to."""

    def __init__(self) -> None:
        self.at = float(NOW)

    def __call__(self) -> float:
        return self.at


class GrowingLog:
    """A log's tree; with another `salt` that of a fork."""

    def __init__(self, size: int = 0, *, salt: str = "") -> None:
        self._salt = salt
        self._tree = Tree()
        self.grow(size)

    def grow(self, leaves: int) -> None:
        """Add leaves."""
        for index in range(self.size, self.size + leaves):
            self._tree.append(f"leaf {index} {self._salt}".encode())

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._tree.size

    def note(self, size: int | None = None) -> Note:
        """The log's signed checkpoint at a size, by default the present one."""
        size = self.size if size is None else size
        return signed_checkpoint(size, self._tree.root(size))

    async def prove(self, size1: int, size2: int) -> Sequence[bytes]:
        """The consistency proof between two sizes."""
        return self._tree.consistency(size1, size2)


@dataclass(kw_only=True)
class Desk:
    """A log, one witness that listens, and what the log asks it with."""

    server: WitnessServer
    client: WitnessClient
    transport: httpx.AsyncBaseTransport
    clock: Clock
    log: GrowingLog
    asked: int = field(default=0)

    async def cosign(self, *, size: int | None = None) -> bool:
        """Ask for the log's checkpoint; whether it is cosigned now."""
        note = self.log.note(size)
        line = await self.client.cosign(note, size=self.log.size if size is None else size, prove=self.log.prove)
        return line is not None

    def another_client(self, *, published: Note | None = None, timeout_ms: int = TIMEOUT_MS) -> WitnessClient:
        """The client after a restart of the log."""
        return client_of(
            self.server,
            log=self.log,
            transport=self.transport,
            clock=self.clock,
            published=published,
            timeout_ms=timeout_ms,
        )

    @property
    def held(self) -> Checkpoint:
        """What the witness has cosigned last."""
        return self.server.witness.latest(ORIGIN)

    def old_sizes(self) -> list[int]:
        """The old sizes in the requests since this was asked last."""
        requests = self.server.requests[self.asked :]
        self.asked += len(requests)
        return [parse_add_checkpoint(request.body).old_size for request in requests]


def client_of(
    server: WitnessServer,
    *,
    log: GrowingLog,
    transport: httpx.AsyncBaseTransport,
    clock: Clock,
    name: bytes = b"w1",
    published: Note | None = None,
    timeout_ms: int = TIMEOUT_MS,
) -> WitnessClient:
    """A client of a witness that listens."""
    return WitnessClient(
        policy_witness(server, name=name),
        transport=transport,
        timeout_ms=timeout_ms,
        published=published,
        log_size=lambda: log.size,
        now=clock,
    )


def policy_witness(server: WitnessServer, *, name: bytes = b"w1") -> Witness:
    """The line of a policy about a witness that listens."""
    return Witness(name=name, key=server.witness.vkey, url=server.url.encode())


def stand_in(clock: Clock, *, number: int = 1, logs: Sequence[VerifierKey] = (LOG_KEY,)) -> StandInWitness:
    """The witness with a number."""
    return StandInWitness(key=witness_key(number), name=f"w{number}.example", logs=logs, now=clock)


@contextlib.asynccontextmanager
async def desk(
    *,
    size: int = 7,
    misbehave: str = "",
    timeout_ms: int = TIMEOUT_MS,
    logs: Sequence[VerifierKey] = (LOG_KEY,),
) -> AsyncIterator[Desk]:
    """A log of some size, and a witness that has not heard of it unless `logs` has its key."""
    clock, log = Clock(), GrowingLog(size)
    async with (
        witness_transport(SystemTls()) as transport,
        WitnessServer(stand_in(clock, logs=logs), misbehave=misbehave).listening() as server,
    ):
        client = client_of(server, log=log, transport=transport, clock=clock, timeout_ms=timeout_ms)
        yield Desk(server=server, client=client, transport=transport, clock=clock, log=log)
