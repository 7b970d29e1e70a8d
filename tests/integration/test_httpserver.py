"""The HTTP server under callers who are slow, many, or silent: each of them is ended, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from treehead.errors import UnavailableError
from treehead.httpserver import HttpBounds, HttpServer

BOUNDS = HttpBounds(head_s=0.2, body_s=0.2, write_s=0.2, answer_s=30, idle_s=1)
DEADLINE_SECONDS = 30
LARGE = b"x" * 16_000_000
"""More than the kernel takes for a connection whose other end reads nothing."""

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what it was sent; `/large` with much; `/early` without having read the body."""
    body = b""
    if scope["path"] == "/large":
        body = LARGE
    elif scope["path"] != "/early":
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
    fields = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    for at in range(0, max(len(body), 1), 65_536):
        await send({"type": "http.response.body", "body": body[at : at + 65_536], "more_body": at + 65_536 < len(body)})


@dataclass(slots=True)
class Caller:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes = REQUEST) -> bytes:
        """Send a request, and read the answer, whose body must be empty or as long as its head says."""
        self.writer.write(request)
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return head + await self.reader.readexactly(int(length.partition(b":")[2]))

    async def is_ended(self) -> bytes:
        """What came before the server ended the connection."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def is_open(self) -> bool:
        return not self.reader.at_eof()


@dataclass(slots=True)
class Running:
    """A server, and a way to call it."""

    server: HttpServer
    address: str
    callers: contextlib.AsyncExitStack

    async def call(self, *, reads_ahead: int = 2**24 + 2**16) -> Caller:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=reads_ahead)
        self.callers.push_async_callback(_hang_up, writer)
        return Caller(reader, writer)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def running(bounds: HttpBounds = BOUNDS, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Running]:
    server = HttpServer(application, bounds=bounds, drain_ms=1_000)
    address = await server.start("127.0.0.1:0", tls=tls)
    async with contextlib.AsyncExitStack() as callers:
        try:
            yield Running(server, address, callers)
        finally:
            await server.stop()


async def test_a_caller_is_answered_again_and_again() -> None:
    async with running() as http:
        caller = await http.call()
        for _ in range(3):
            answer = await caller.ask(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert answer.endswith(b"\r\n\r\nabc")
        assert http.server.connections == 1


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nhost:",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n" + b"x" * 99,
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_given_up(begin: bytes) -> None:
    async with running() as http:
        slow, other = await http.call(), await http.call()
        slow.writer.write(begin)
        await other.ask()
        assert await slow.is_ended() == b""
        assert http.server.counts.overdue >= 1


async def test_a_request_that_comes_byte_by_byte_has_no_more_time_than_another() -> None:
    async with running() as http:
        slow = await http.call()

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    slow.writer.write(b"x")
                    await slow.writer.drain()
                    await asyncio.sleep(0.01)

        slow.writer.write(b"GET / HTTP/1.1\r\nhost: ")
        dripping = asyncio.create_task(drip())
        assert await slow.is_ended() == b""
        dripping.cancel()


async def test_a_connection_without_a_request_is_ended_after_its_time() -> None:
    async with running() as http:
        caller = await http.call()
        await caller.ask()
        assert await caller.is_ended() == b""


async def test_who_takes_nothing_of_an_answer_is_ended() -> None:
    async with running() as http:
        caller = await http.call(reads_ahead=1_024)
        caller.writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not http.server.counts.overdue:  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0)
        assert len(await caller.is_ended()) < len(LARGE)


async def test_who_takes_an_answer_gets_all_of_it() -> None:
    async with running() as http:
        caller = await http.call()
        assert (await caller.ask(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")).endswith(LARGE)


async def test_an_answer_before_the_body_is_there_leaves_the_connection_usable() -> None:
    async with running(replace(BOUNDS, body_s=20)) as http:
        caller = await http.call()
        await caller.ask(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 1_000)
        caller.writer.write(b"x" * 299_000)
        assert (await caller.ask()).startswith(b"HTTP/1.1 200")


async def test_an_answer_before_the_body_is_there_gives_no_more_time_for_the_rest() -> None:
    async with running() as http:
        caller = await http.call()
        await caller.ask(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 1_000)
        assert await caller.is_ended() == b""


async def test_more_connections_than_allowed_are_turned_away_until_others_end() -> None:
    async with running(replace(BOUNDS, connections_max=3, idle_s=20)) as http:
        callers = [await http.call() for _ in range(3)]
        for caller in callers:
            await caller.ask()
        refused = await (await http.call()).is_ended()
        assert refused.startswith(b"HTTP/1.1 503")
        callers[0].writer.close()
        await callers[0].writer.wait_closed()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while http.server.connections > 2:  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0)
        assert (await (await http.call()).ask()).startswith(b"HTTP/1.1 200")
        assert http.server.counts.refused == 1


async def test_one_address_cannot_have_all_the_connections() -> None:
    async with running(replace(BOUNDS, address_connections_max=2, idle_s=20)) as http:
        for _ in range(2):
            await (await http.call()).ask()
        assert (await (await http.call()).is_ended()).startswith(b"HTTP/1.1 503")


async def test_stopping_ends_who_is_idle_and_lets_requests_end() -> None:
    server = HttpServer(application, bounds=replace(BOUNDS, body_s=20, idle_s=20), drain_ms=20_000)
    address = await server.start("127.0.0.1:0")
    async with contextlib.AsyncExitStack() as callers:
        http = Running(server, address, callers)
        idle, busy = await http.call(), await http.call()
        await idle.ask()
        busy.writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not server._shared.state.tasks:  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0)
        stopping = asyncio.create_task(server.stop())
        assert await idle.is_ended() == b""
        busy.writer.write(b"bc")
        assert (await busy.is_ended()).endswith(b"abc")
        await stopping
    with pytest.raises(ConnectionError):
        await http.call()


async def test_an_address_that_is_in_use_is_named() -> None:
    async with running() as http:
        server = HttpServer(application, bounds=BOUNDS, drain_ms=1_000)
        with pytest.raises(UnavailableError, match=http.address):
            await server.start(http.address)
