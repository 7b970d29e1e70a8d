"""Where an abuse takes place: the log's two addresses, the addresses to come from, luck, and what came of it."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.abuse.record import Record

ATTEMPT_SECONDS_MAX = 30.0
FAILED_PAUSE_SECONDS = 0.02
LINE_BYTES_MAX = 65_536

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_IP_BIND_ADDRESS_NO_PORT = 24  # of Linux; the socket module has no name for it

Address = tuple[str, int]


@dataclass(slots=True, kw_only=True)
class Scene:
    """One abuse of one log.

    Attributes:
        sources: the loopback addresses that it comes from, in turn.
        begun: how many attempts, or sessions of many, there were.
        counts: how often what came of one.
    """

    grpc: Address
    http: Address
    sources: Sequence[str]
    seed: str
    record: Record
    begun: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    _turns: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._turns = itertools.cycle(self.sources)

    def random(self, number: int = 0) -> random.Random:
        """The luck of the part of the abuse with this number."""
        return random.Random(f"{self.seed}:{number}")

    async def connect(self, to: Address, *, receive_bytes: int | None = None) -> socket.socket:
        """A connection; its other end gets a reset when it is closed, so that no port of ours stays taken.

        `receive_bytes` is about how much of what is not read the operating system keeps.
        """
        connection = socket.socket()
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            connection.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_bytes is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            connection.bind((next(self._turns), 0))
            await asyncio.get_running_loop().sock_connect(connection, to)
        except BaseException:
            connection.close()
            raise
        return connection

    @asynccontextmanager
    async def opened(self, to: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection as streams, which ends with the context."""
        reader, writer = await asyncio.open_connection(sock=await self.connect(to), limit=LINE_BYTES_MAX)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


Attempt = Callable[[Scene, random.Random], Awaitable[str]]
"""Does something to the log once; returns in a word what came of it."""


async def repeat(
    scene: Scene,
    attempt: Attempt,
    *,
    workers: int,
    pause_s: float = 0.0,
    seconds_max: float | None = ATTEMPT_SECONDS_MAX,
) -> None:
    """Attempt it again and again, so many at a time, each with a pause after it, until cancelled."""

    async def work(rng: random.Random) -> None:
        while True:
            scene.begun += 1
            pause = pause_s
            try:
                async with asyncio.timeout(seconds_max):
                    outcome = await attempt(scene, rng)
            except TimeoutError:
                outcome = "unanswered"
            except (OSError, EOFError, asyncio.LimitOverrunError):
                outcome, pause = "cut off", max(pause_s, FAILED_PAUSE_SECONDS)
            scene.counts[outcome] += 1
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as tasks:
        for number in range(workers):
            tasks.create_task(work(scene.random(number)))
