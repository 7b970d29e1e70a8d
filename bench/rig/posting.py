"""`POST /add` over connections that stay open, each for one request at a time.

As thin as it can be in Python: requests are whole before the clock starts, each goes out in one write, and of an answer
only the status, the length and the body are looked at.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, cast

from bench.rig.calls import BusyError, Call, ExhaustedError
from bench.rig.entries import Submission
from bench.rig.verifier import Verifier
from treehead.errors import UnavailableError
from treehead.merkle import hash_leaf

ANSWER_SECONDS_MAX = 60

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_OK = b"HTTP/1.1 200"
_BUSY = (b"HTTP/1.1 429", b"HTTP/1.1 503")


def post_request(leaf: bytes) -> Submission:
    """The request that has a leaf logged."""
    head = b"POST /add HTTP/1.1\r\nhost: log.example\r\ncontent-length: %d\r\n\r\n" % len(leaf)
    return Submission(request=head + leaf, leaf_hashes=(hash_leaf(leaf),))


class PostConnections:
    """A connection to an HTTP server for each of so many callers. A context.

    Only what our own servers answer is understood: a status and header fields in small letters, with a length.
    """

    def __init__(self, address: str, *, callers: int) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._callers = callers
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        """Returns when all are connected."""
        loop = asyncio.get_running_loop()
        for _ in range(self._callers):
            _, connection = await loop.create_connection(_Connection, self._host, int(self._port))
            self._idle.append(connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._idle:
            connection.close()

    async def post(self, request: bytes) -> bytes:
        """The body of the answer to a request, given as it goes over the wire.

        Raises:
            BusyError: the server had no room for it.
            UnavailableError: another status, or no answer.
        """
        connection = self._idle.pop()
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            head, body = await connection.ask(request)
        self._idle.append(connection)
        if head.startswith(_OK):
            return body
        if head.startswith(_BUSY):
            raise BusyError
        raise UnavailableError(f"the server answered: {(head + body).decode(errors='replace')}")


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(UnavailableError("the server ended a connection"))

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            return
        received = self._received = self._received + data
        end = received.find(_END_OF_HEAD)
        if end < 0:
            return
        at = received.index(_LENGTH, 0, end + 2) + len(_LENGTH)
        length = int(received[at : received.index(b"\r", at)])
        body = received[end + len(_END_OF_HEAD) :]
        if len(body) == length and not self._answer.done():
            self._received = b""
            self._answer.set_result((received[:end], body))

    def ask(self, request: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        """The head and body of the answer, to come."""
        if self._transport is None or self._transport.is_closing():
            raise UnavailableError("the server ended a connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def posting(connections: PostConnections, submissions: Iterator[Submission], verifier: Verifier) -> Call:
    """Posts one entry a call; its index is all that comes back."""

    async def call() -> int:
        submission = next(submissions, None)
        if submission is None:
            raise ExhaustedError
        verifier.placed(submission, await connections.post(submission.request))
        return 1

    return call


def posting_again(connections: PostConnections, submissions: Sequence[Submission]) -> Call:
    """Posts the same entries again and again, to a server that does nothing, and verifies nothing."""
    turns = itertools.cycle(submissions)

    async def call() -> int:
        await connections.post(next(turns).request)
        return 1

    return call
