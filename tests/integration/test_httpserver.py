"""The HTTP server under callers who are slow, many, silent or sly: each of them is ended, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from uvicorn import Config

from tests.certificates import Authority
from treehead import httpserver
from treehead.errors import UnavailableError
from treehead.httpconnection import HttpConnection, HttpConnections
from treehead.httpserver import HttpBounds, HttpServer
from treehead.tls import ServerTls, load_server_tls

BOUNDS = HttpBounds(head_s=0.2, body_s=0.2, write_s=0.2, answer_s=30, idle_s=1)
PATIENT = HttpBounds()
"""Its times are longer than any of these tests: what ends a connection here is another bound."""
DEADLINE_SECONDS = 30
LARGE = b"x" * 16_000_000
"""More than the kernel takes for a connection whose other end reads nothing."""

GET = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
CHUNKED = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
REQUEST = GET % b"/"


@pytest.fixture(autouse=True)
def swept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpserver, "_SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(httpserver, "_MOMENT_SECONDS", 0.3)


class Application:
    """Answers with what it was sent; `/large` with much; `/early` without having read the body; `/fields` with the
    names of the fields; `/held` when `released`; `/slow` after a while; `/deaf` never; `/gone` waits until it is `left`
    by its caller.
    """

    def __init__(self) -> None:
        self.begun, self.released, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.begun.set()
        body = b""
        match scope["path"]:
            case "/large":
                body = LARGE
            case "/held":
                await self.released.wait()
            case "/slow":
                await asyncio.sleep(0.3)
            case "/deaf":
                await asyncio.Event().wait()
            case "/gone":
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.left.set()
                return
            case path if path != "/early":
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message["body"]
                    more = message["more_body"]
        if scope["path"] == "/fields":
            body = b" ".join(name for name, _ in scope["headers"])
        fields = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        for at in range(0, max(len(body), 1), 65_536):
            piece, more = body[at : at + 65_536], at + 65_536 < len(body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


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
            except ConnectionError:
                return b""

    async def drip(self, piece: bytes) -> None:
        """Send a piece again and again, for as long as the server lets."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            with contextlib.suppress(ConnectionError):
                while not self.reader.at_eof():
                    self.writer.write(piece)
                    await self.writer.drain()
                    await asyncio.sleep(0.001)


@dataclass(slots=True)
class Running:
    """A server, what it serves, and a way to call it."""

    server: HttpServer
    application: Application
    address: str
    callers: contextlib.AsyncExitStack

    async def call(self, *, reads_ahead: int = 2**24 + 2**16, tls: ssl.SSLContext | None = None) -> Caller:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=reads_ahead, ssl=tls)
        self.callers.push_async_callback(_hang_up, writer)
        return Caller(reader, writer)

    async def until(self, is_so: Callable[[HttpServer], object]) -> None:
        """Returns when something is true of the server, which tells nobody."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not is_so(self.server):  # noqa: ASYNC110 -- as it says
                await asyncio.sleep(0)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def running(
    bounds: HttpBounds = BOUNDS, *, tls: ssl.SSLContext | None = None, drain_ms: int = 1_000
) -> AsyncIterator[Running]:
    application = Application()
    server = HttpServer(application, bounds=bounds, drain_ms=drain_ms)
    address = await server.start("127.0.0.1:0", tls=tls)
    async with contextlib.AsyncExitStack() as callers:
        try:
            yield Running(server, application, address, callers)
        finally:
            await server.stop()


async def test_a_caller_is_answered_again_and_again() -> None:
    async with running() as http:
        caller = await http.call()
        for _ in range(3):
            answer = await caller.ask(POST % (b"/", 3) + b"abc")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert answer.endswith(b"\r\n\r\nabc")
        assert http.server.connections == 1


# --- requests that come slowly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nhost:",
        POST % (b"/", 100) + b"x" * 99,
        CHUNKED % b"/" + b"1\r\nx\r\n",
        CHUNKED % b"/" + b"1\r\nx\r\n0\r\nsome: trailer\r\n",
        REQUEST + b"GET / HTTP/1.1\r\nhost:",
        REQUEST + POST % (b"/", 100),
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_given_up(begin: bytes) -> None:
    async with running(replace(BOUNDS, idle_s=60)) as http:
        slow, other = await http.call(), await http.call()
        slow.writer.write(begin)
        await other.ask()
        assert (await slow.is_ended()).count(b"HTTP/1.1 ") == begin.count(REQUEST)
        assert http.server.counts.overdue >= 1


async def test_a_request_that_comes_byte_by_byte_has_no_more_time_than_another() -> None:
    async with running() as http:
        slow = await http.call()
        slow.writer.write(b"GET / HTTP/1.1\r\nhost: ")
        await slow.drip(b"x")
        assert await slow.is_ended() == b""
        assert (http.server.counts.overdue, http.server.counts.malformed) == (1, 0)


async def test_a_connection_without_a_request_is_ended_after_its_time() -> None:
    async with running() as http:
        caller = await http.call()
        await caller.ask()
        assert await caller.is_ended() == b""


async def test_a_request_that_waits_for_the_one_before_has_its_time_when_it_is_its_turn() -> None:
    async with running() as http:
        patient = await http.call()
        patient.writer.write(GET % b"/held" + POST % (b"/", 2) + b"a")
        await http.application.begun.wait()
        later = await http.call()
        later.writer.write(POST % (b"/", 2) + b"a")
        assert await later.is_ended() == b""
        http.application.released.set()
        assert (await patient.ask(b"")).startswith(b"HTTP/1.1 200")
        assert (await patient.ask(b"b")).endswith(b"\r\n\r\nab")


async def test_a_request_that_waited_has_no_more_time_for_its_body_than_another() -> None:
    async with running(replace(BOUNDS, answer_s=600, idle_s=60)) as http:
        slow = await http.call()
        slow.writer.write(GET % b"/held" + POST % (b"/", 2) + b"a")
        await http.application.begun.wait()
        http.application.released.set()
        assert (await slow.ask(b"")).startswith(b"HTTP/1.1 200")
        assert await slow.is_ended() == b""
        assert http.server.counts.overdue == 1


# --- answers that are taken slowly -----------------------------------------------------------------------------------


async def test_who_takes_nothing_of_an_answer_is_ended() -> None:
    async with running() as http:
        caller = await http.call(reads_ahead=1_024)
        caller.writer.write(GET % b"/large")
        await http.until(lambda server: server.counts.overdue)
        assert len(await caller.is_ended()) < len(LARGE)


async def test_who_takes_an_answer_gets_all_of_it_and_may_ask_again_later() -> None:
    async with running(replace(BOUNDS, head_s=0.5, idle_s=60)) as http:
        caller = await http.call()
        assert (await caller.ask(GET % b"/large")).endswith(LARGE)
        assert await (await http.call()).is_ended() == b""
        assert (await caller.ask()).startswith(b"HTTP/1.1 200")


async def test_who_takes_an_answer_slowly_but_steadily_gets_all_of_it() -> None:
    bounds = replace(BOUNDS, write_s=0.3)
    async with running(bounds) as http:
        caller = await http.call(reads_ahead=1_024)
        caller.writer.write(GET % b"/large")
        await caller.reader.readuntil(b"\r\n\r\n")
        taken, since = 0, asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < since + 2 * bounds.write_s:
            taken += len(await caller.reader.read(65_536))
            await asyncio.sleep(0.005)
        assert taken < len(LARGE)
        assert set(await caller.reader.readexactly(len(LARGE) - taken)) == set(LARGE)


async def test_an_answer_that_is_not_made_in_its_time_is_given_up() -> None:
    async with running(replace(BOUNDS, answer_s=0.2)) as http:
        assert await _ended_after(await http.call(), GET % b"/held") == b""
        assert http.server.counts.overdue == 1
        http.application.released.set()


async def _ended_after(caller: Caller, request: bytes) -> bytes:
    caller.writer.write(request)
    return await caller.is_ended()


async def test_an_answer_before_the_body_is_there_leaves_the_connection_usable() -> None:
    async with running(replace(BOUNDS, body_s=20)) as http:
        caller = await http.call()
        await caller.ask(POST % (b"/early", 300_000) + b"x" * 1_000)
        caller.writer.write(b"x" * 299_000)
        assert (await caller.ask()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", [b"/early", b"/large"])
async def test_an_answer_before_the_body_is_there_gives_no_more_time_for_the_rest(path: bytes) -> None:
    async with running(replace(BOUNDS, body_s=0.5, idle_s=60)) as http:
        caller = await http.call(reads_ahead=1_024)
        caller.writer.write(POST % (path, 300_000) + b"x" * 1_000)
        assert (await caller.is_ended()).startswith(b"HTTP/1.1 200")
        assert http.server.counts.overdue == 1


async def test_an_answer_does_not_begin_the_time_for_the_rest_of_a_body_anew() -> None:
    async with running(PATIENT) as http:
        caller = await http.call()
        caller.writer.write(POST % (b"/held", 2) + b"a")
        await http.application.begun.wait()
        (connection,) = cast("set[HttpConnection]", http.server._connections.state.connections)
        deadline = connection._receive_by
        http.application.released.set()
        assert (await caller.ask(b"")).startswith(b"HTTP/1.1 200")
        assert connection._receive_by == deadline


async def test_a_request_learns_that_its_caller_is_gone_though_another_waits_behind_it() -> None:
    async with running(PATIENT) as http:
        caller = await http.call()
        caller.writer.write(GET % b"/gone" + REQUEST)
        await http.application.begun.wait()
        caller.writer.transport.abort()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await http.application.left.wait()


# --- what is no request ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nhost: ",
        CHUNKED % b"/" + b"1;",
        CHUNKED % b"/" + b"1\r\nx\r\n0\r\n",
        CHUNKED % b"/" + b"1\r\nx\r\n0\r\nsome: ",
    ],
)
async def test_what_does_not_end_is_kept_no_longer_than_a_head_may_be(begin: bytes) -> None:
    async with running(replace(PATIENT, head_bytes_max=1_000)) as http:
        whole, dripping = await http.call(), await http.call()
        refused = await _ended_after(whole, begin + (b"x" if begin else b"\r\n") * 3_100)
        assert refused.startswith(b"HTTP/1.1 431")
        dripping.writer.write(begin)
        await dripping.drip(b"x" * 100 if begin else b"\r\n" * 50)
        assert http.server.counts.malformed == 2
        assert (await (await http.call()).ask()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("field", [b"name: %b\r\n" % (b"x" * 40), b"a:\r\n"])
@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nhost: x\r\n", CHUNKED % b"/" + b"1\r\nx\r\n0\r\n"])
async def test_fields_without_end_are_refused_before_a_body_and_after_it(begin: bytes, field: bytes) -> None:
    async with running(replace(PATIENT, head_bytes_max=1_000)) as http:
        whole, dripping = await http.call(), await http.call()
        assert (await _ended_after(whole, begin + field * 70)).startswith(b"HTTP/1.1 431")
        dripping.writer.write(begin)
        await dripping.drip(field)
        assert http.server.counts.malformed == 2


async def test_trailers_are_no_fields_of_the_request() -> None:
    async with running() as http:
        caller = await http.call()
        for _ in range(2):
            answer = await caller.ask(
                CHUNKED % b"/fields" + b"1\r\nx\r\n0\r\nauthorization: x\r\nx-request-id: y\r\n\r\n"
            )
            assert answer.endswith(b"\r\n\r\nhost transfer-encoding")


async def test_chunks_without_end_are_none_of_what_is_counted_against_a_head() -> None:
    async with running(replace(PATIENT, head_bytes_max=1_000)) as http:
        caller = await http.call()
        answer = await caller.ask(CHUNKED % b"/" + b"64;x\r\n%b\r\n" % (b"x" * 100) * 1_000 + b"0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n" + b"x" * 100_000)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x/y\r\n\r\n",
        b"GET /\r\n\r\n",
    ],
)
async def test_a_request_names_one_host(request_: bytes) -> None:
    async with running() as http:
        assert (await _ended_after(await http.call(), request_)).startswith(b"HTTP/1.1 400")
        assert http.server.counts.malformed == 1


@pytest.mark.parametrize("host", [b"", b"log.example", b"192.0.2.7:8462", b"[2001:db8::1]:8462"])
async def test_a_host_may_be_a_name_an_address_or_none(host: bytes) -> None:
    async with running() as http:
        answer = await (await http.call()).ask(b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % host)
        assert answer.startswith(b"HTTP/1.1 200")


async def test_http_1_0_needs_no_host() -> None:
    async with running() as http:
        assert (await (await http.call()).ask(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("behind", "answered"),
    [
        (b"garbage", 1),
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (CHUNKED % b"/" + b"x", 1),
        (REQUEST + b"garbage", 2),
        (REQUEST + CHUNKED % b"/" + b"x", 2),
        (REQUEST * 9, 9),
    ],
)
@pytest.mark.parametrize("path", [b"/large", b"/held"])
async def test_what_came_as_a_whole_is_answered_before_a_refusal_ends_the_connection(
    path: bytes, behind: bytes, answered: int
) -> None:
    async with running(PATIENT) as http:
        caller = await http.call(reads_ahead=1_024)
        caller.writer.write(GET % path)
        await http.application.begun.wait()
        caller.writer.write(behind)
        await http.until(lambda server: server.counts.malformed)
        http.application.released.set()
        answer = await caller.is_ended()
        assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.1 ") == answered
        assert answer.count(LARGE) == (path == b"/large")
        assert http.server.counts.malformed == 1


async def test_a_malformed_body_is_answered_unless_the_request_was() -> None:
    async with running(PATIENT) as http:
        assert (await _ended_after(await http.call(), CHUNKED % b"/" + b"x")).startswith(b"HTTP/1.1 400")
        caller = await http.call()
        assert (await caller.ask(CHUNKED % b"/early")).startswith(b"HTTP/1.1 200")
        assert await _ended_after(caller, b"x") == b""
        caller = await http.call(reads_ahead=1_024)
        caller.writer.write(CHUNKED % b"/large")
        await caller.reader.readuntil(b"\r\n\r\n")
        assert set(await _ended_after(caller, b"x")) == set(LARGE)


async def test_a_request_for_another_protocol_is_answered_and_is_the_last() -> None:
    upgrade = b" HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    async with running(PATIENT) as http:
        caller = await http.call()
        caller.writer.write(b"GET /held" + upgrade)
        await http.application.begun.wait()
        caller.writer.write(REQUEST + b"garbage")
        await (await http.call()).ask()  # by then that was read
        http.application.released.set()
        assert (await caller.is_ended()).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("length", [b"content-length: %d" % len(REQUEST), b"transfer-encoding: chunked"])
async def test_the_body_of_a_request_for_another_protocol_is_never_read_as_a_request(length: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n%b\r\n\r\n" % length
    async with running(PATIENT) as http:
        caller = await http.call()
        refused = await caller.ask(head)
        assert refused.startswith(b"HTTP/1.1 501")
        assert await _ended_after(caller, REQUEST) == b""


async def test_nothing_is_kept_of_connections_that_were_refused() -> None:
    async with running() as http:
        for _ in range(20):
            await _ended_after(await http.call(), b"GET / HTTP/1.1\r\n\r\n")
        await http.until(lambda server: not server.connections)
    await asyncio.sleep(0)
    gc.collect()
    assert [found for found in gc.get_objects() if isinstance(found, HttpConnection)] == []


# --- many connections ------------------------------------------------------------------------------------------------


async def test_more_connections_than_allowed_are_turned_away_until_others_end() -> None:
    async with running(replace(BOUNDS, connections_max=3, idle_s=20)) as http:
        callers = [await http.call() for _ in range(3)]
        for caller in callers:
            await caller.ask()
        refused = await (await http.call()).is_ended()
        assert refused.startswith(b"HTTP/1.1 503")
        callers[0].writer.close()
        await callers[0].writer.wait_closed()
        await http.until(lambda server: server.connections == 2)
        assert (await (await http.call()).ask()).startswith(b"HTTP/1.1 200")
        assert http.server.counts.refused == 1


async def test_one_address_cannot_have_all_the_connections() -> None:
    async with running(replace(BOUNDS, address_connections_max=2, idle_s=20)) as http:
        for _ in range(2):
            await (await http.call()).ask()
        assert (await (await http.call()).is_ended()).startswith(b"HTTP/1.1 503")


@dataclass(frozen=True, slots=True)
class From:
    """A transport from an address; real ones of these this machine has not."""

    host: str

    def get_extra_info(self, name: str) -> object:
        return (self.host, 50_000) if name == "peername" else None


@pytest.mark.parametrize(
    "hosts",
    [
        ("192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:2:ffff::"),
    ],
)
async def test_the_addresses_of_one_network_count_as_one(hosts: tuple[str, ...]) -> None:
    bounds = replace(BOUNDS, address_connections_max=len(hosts) - 1)
    connections = HttpConnections(Config(Application()), bounds)

    def enters(host: str) -> bool:
        return connections.enter(object(), cast("asyncio.Transport", From(host)))

    assert [enters(host) for host in hosts] == [True] * (len(hosts) - 1) + [False]
    assert enters("2001:db8:1:3::1")
    assert enters("192.0.2.8")


# --- TLS -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contexts:
    """What TLS is spoken with."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture
def tls(tmp_path: Path) -> Contexts:
    authority = Authority()
    files = authority.server(tmp_path / "server")
    server = load_server_tls(ServerTls(certificate=files.certificate, key=files.key)).ssl_context()
    return Contexts(server, ssl.create_default_context(cadata=authority.pem.decode()))


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]:
    """Runs a test in a loop of its own: the log has uvloop's, which upgrades connections in another way."""
    factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else asyncio.SelectorEventLoop

    def run(test: Callable[[], Any]) -> Awaitable[None]:
        def in_thread() -> None:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(test())

        return asyncio.to_thread(in_thread)

    return run


async def test_requests_are_answered_over_tls(tls: Contexts, loop: Any) -> None:
    async def test() -> None:
        async with running(tls=tls.server) as http:
            caller = await http.call(tls=tls.client)
            assert (await caller.ask(POST % (b"/", 3) + b"abc")).endswith(b"\r\n\r\nabc")
            assert (await caller.ask(GET % b"/large")).endswith(LARGE)
            assert http.server.connections == 1

    await loop(test)


async def _shake_hands(caller: Caller, context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Agree on TLS, with the last message of it still to be sent; and have nobody who would answer for the caller."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    spoken = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                spoken.do_handshake()
            except ssl.SSLWantReadError:
                caller.writer.write(outgoing.read())
                incoming.write(await caller.reader.read(65_536))
            else:
                return spoken, incoming, outgoing


async def test_a_request_in_one_piece_with_the_end_of_the_handshake_is_answered(tls: Contexts, loop: Any) -> None:
    async def test() -> None:
        async with running(tls=tls.server) as http:
            caller = await http.call()
            spoken, incoming, outgoing = await _shake_hands(caller, tls.client)
            spoken.write(REQUEST)
            caller.writer.write(outgoing.read())
            answer = b""
            async with asyncio.timeout(DEADLINE_SECONDS):
                while b"\r\n\r\n" not in answer:
                    incoming.write(await caller.reader.read(65_536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += spoken.read()
            assert answer.startswith(b"HTTP/1.1 200")

    await loop(test)


async def test_connections_count_before_tls_is_agreed_on(tls: Contexts, loop: Any) -> None:
    async def test() -> None:
        async with running(replace(PATIENT, connections_max=3), tls=tls.server) as http:
            silent = [await http.call() for _ in range(3)]
            await http.until(lambda server: server.connections == 3)
            assert await (await http.call()).is_ended() == b""
            assert http.server.counts.refused == 1
            silent[0].writer.close()
            await http.until(lambda server: server.connections == 2)
            assert (await (await http.call(tls=tls.client)).ask()).startswith(b"HTTP/1.1 200")

    await loop(test)


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_tls_that_is_not_agreed_on_in_its_time_is_given_up(
    tls: Contexts, loop: Any, begin: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(tls=tls.server) as http:
            assert await _ended_after(await http.call(), begin) == b""
            await http.until(lambda server: not server.connections)
            assert http.server.counts.overdue == 1

    await loop(test)
    assert caplog.records == []


async def test_what_comes_without_tls_is_not_read_where_there_is_tls(
    tls: Contexts, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(PATIENT, tls=tls.server) as http:
            assert b"HTTP" not in await _ended_after(await http.call(), REQUEST)
            await http.until(lambda server: not server.connections)
            assert not http.application.begun.is_set()

    await loop(test)
    assert caplog.records == []


# --- stopping --------------------------------------------------------------------------------------------------------


async def test_stopping_ends_who_is_idle_and_lets_requests_end() -> None:
    async with running(PATIENT, drain_ms=20_000) as http:
        idle, busy = await http.call(), await http.call()
        await idle.ask()
        http.application.begun.clear()
        busy.writer.write(POST % (b"/", 3) + b"a")
        await http.application.begun.wait()
        stopping = asyncio.create_task(http.server.stop())
        assert await idle.is_ended() == b""
        busy.writer.write(b"bc")
        assert (await busy.is_ended()).endswith(b"abc")
        await stopping
        with pytest.raises(ConnectionError):
            await http.call()


async def test_stopping_lets_requests_end_that_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpserver, "_MOMENT_SECONDS", 0.05)
    async with running(PATIENT, drain_ms=20_000) as http:
        caller = await http.call()
        caller.writer.write(POST % (b"/", 3) + b"abc" + GET % b"/slow")
        await http.application.begun.wait()
        stopping = asyncio.create_task(http.server.stop())
        assert (await caller.is_ended()).count(b"HTTP/1.1 200") == 2
        await stopping


async def test_stopping_lets_answers_be_taken_to_their_end(tls: Contexts, loop: Any) -> None:
    async def test() -> None:
        async with running(PATIENT, tls=tls.server, drain_ms=20_000) as http:
            caller = await http.call(reads_ahead=1_024, tls=tls.client)
            caller.writer.write(GET % b"/large")
            await caller.reader.readuntil(b"\r\n\r\n")
            stopping = asyncio.create_task(http.server.stop())
            assert await caller.is_ended() == LARGE
            await stopping

    await loop(test)


async def test_stopping_waits_for_nobody_who_is_idle(tls: Contexts, loop: Any) -> None:
    async def test() -> None:
        async with running(PATIENT, tls=tls.server, drain_ms=600_000) as http:
            _, idle = await http.call(), await http.call()
            spoken, _, outgoing = await _shake_hands(idle, tls.client)
            spoken.write(REQUEST)
            idle.writer.write(outgoing.read())
            await http.application.begun.wait()
            await http.until(lambda server: len(server._connections.state.connections) == 1)
            async with asyncio.timeout(PATIENT.write_s / 2):
                await http.server.stop()
            assert http.server.connections == 0

    await loop(test)


@pytest.mark.parametrize("path", [b"/large", b"/held", b"/deaf", b"/gone"])
async def test_who_is_not_answered_in_time_is_ended_with_the_server_and_is_no_defect(
    path: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpserver, "_MOMENT_SECONDS", 0.05)
    async with running(PATIENT, drain_ms=50) as http:
        callers = [await http.call(reads_ahead=1_024) for _ in range(3)]
        for caller in callers:
            caller.writer.write(GET % path)
        await http.until(lambda server: len(requests_of(server)) == 3)
        await http.server.stop()
        assert requests_of(http.server) == set()
        assert http.server.connections == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def requests_of(server: HttpServer) -> set[asyncio.Task[None]]:
    """The requests that are being worked on."""
    return server._connections.state.tasks


async def test_an_address_that_is_in_use_is_named() -> None:
    async with running() as http:
        server = HttpServer(Application(), bounds=BOUNDS, drain_ms=1_000)
        with pytest.raises(UnavailableError, match=http.address):
            await server.start(http.address)
