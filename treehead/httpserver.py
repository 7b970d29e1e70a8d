"""An HTTP/1.1 server for an ASGI application, in an event loop that does other things as well, and with bounds.

The protocol is uvicorn's, over httptools. What uvicorn leaves open is closed here: how long a request may take to
arrive and its answer to be taken, how large its head may be, how many connections there may be, and from one address.
Its own server is not used, because that takes the signals of the process. See docs/adr/0011.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from treehead.encoding import parse_decimal
from treehead.errors import UnavailableError

_SWEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBounds:
    """What one HTTP server lets callers do.

    Attributes:
        connections_max, address_connections_max: connections in all, and from one address.
        head_bytes_max, head_lines_max: bytes and lines of header fields, and bytes of the request's target.
        head_s: how long a request may take until its head is there.
        body_s: how long from then on until its body is.
        write_s: how long the caller may take nothing of an answer.
        answer_s: how long an answer may take in all.
        idle_s: how long a connection may be without a request.
        pipelined_max: requests of one connection that wait for the one before.
    """

    connections_max: int = 1_024
    address_connections_max: int = 256
    head_bytes_max: int = 16_384
    head_lines_max: int = 64
    head_s: float = 10.0
    body_s: float = 20.0
    write_s: float = 20.0
    answer_s: float = 300.0
    idle_s: int = 60
    pipelined_max: int = 8


@dataclass(slots=True)
class HttpCounts:
    """What happened to connections since the start, for metrics.

    Attributes:
        refused: connections that were turned away, because there were too many.
        overdue: connections that were ended, because their caller was too slow.
        malformed: requests that are no HTTP, or have too large a head.
    """

    refused: int = 0
    overdue: int = 0
    malformed: int = 0


@dataclass(slots=True)
class _Shared:
    """What the connections of a server have in common."""

    config: Config
    bounds: HttpBounds
    state: ServerState = field(default_factory=ServerState)
    counts: HttpCounts = field(default_factory=HttpCounts)
    of_address: Counter[str] = field(default_factory=Counter)


class HttpServer:
    """Serves an ASGI application. For one event loop."""

    def __init__(self, application: Callable[..., Any], *, bounds: HttpBounds, drain_ms: int) -> None:
        config = Config(
            application,
            http=_Connection,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=bounds.idle_s,
        )
        config.load()
        self._shared = _Shared(config, bounds)
        self._drain_ms = drain_ms
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def counts(self) -> HttpCounts:
        """What happened to connections since the start."""
        return self._shared.counts

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._shared.state.connections)

    async def start(self, address: str, *, tls: ssl.SSLContext | None = None) -> str:
        """Listen on HOST:PORT; returns it with the port that port 0 became.

        Raises:
            UnavailableError: it is in use, or not an address of this machine.
        """
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        self._date()
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self._shared),
                host.strip("[]"),
                parse_decimal(port, what="port"),
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self._shared.bounds.head_s,
                reuse_port=False,
            )
        except OSError as exc:
            raise UnavailableError(
                f"cannot listen on {address}: it is in use, or not an address of this machine"
            ) from exc
        self._sweeping = asyncio.create_task(self._sweep(), name="http sweep")
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Take no more connections, and let requests under way end."""
        if self._server is None:
            return
        self._server.close()
        state = self._shared.state
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=self._drain_ms / 1_000)
        for task in state.tasks:
            task.cancel()
        for connection in list(state.connections):
            connection.transport.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping

    async def _sweep(self) -> None:
        """End the connections whose caller is too slow, and keep the date that answers carry."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._date()
            now = asyncio.get_running_loop().time()
            for connection in list(self._shared.state.connections):
                cast("_Connection", connection).end_if_overdue(now)

    def _date(self) -> None:
        self._shared.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]


class _Refusal(Exception):  # noqa: N818 -- it is the answer, not a fault of ours
    """The request is answered with this status, and its connection ends."""

    def __init__(self, status: bytes, message: bytes) -> None:
        super().__init__(message)
        fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close" % len(message)
        self.answer = b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, fields, message)


_MALFORMED = _Refusal(b"400 Bad Request", b"the request is not HTTP/1.1\n")
_TOO_LARGE = _Refusal(b"431 Request Header Fields Too Large", b"the head of the request is too large\n")
_TOO_MANY = _Refusal(b"503 Service Unavailable", b"there are too many connections; try again later\n")


class _Connection(HttpToolsProtocol):
    """One connection, which is ended when its deadline has passed.

    The deadline is that of whatever is waited for: the head of a request, its body, or that the answer is taken.
    """

    def __init__(self, shared: _Shared) -> None:
        super().__init__(config=shared.config, server_state=shared.state, app_state={})
        self._shared = shared
        self._bounds = shared.bounds
        self._address = ""
        self._refusal = _MALFORMED
        self._in_head = True
        self._head_bytes = self._arrived_bytes = 0
        self._deadline = self._answer_deadline = math.inf

    # --- connections -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        of_address = self._shared.of_address
        of_address[self._address] += 1
        self._deadline = self.loop.time() + self._bounds.head_s
        if (
            len(self.connections) > self._bounds.connections_max
            or of_address[self._address] > self._bounds.address_connections_max
        ):
            self._shared.counts.refused += 1
            self._refuse(_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        of_address = self._shared.of_address
        of_address[self._address] -= 1
        if not of_address[self._address]:
            del of_address[self._address]

    def end_if_overdue(self, now: float) -> None:
        """End the connection if what is waited for is overdue."""
        if self.transport.is_closing():  # who takes nothing of the last answer would keep it for ever
            self._deadline = min(self._deadline, now + self._bounds.write_s)
        if now > self._deadline:
            self._shared.counts.overdue += 1
            self.transport.abort()

    def _refuse(self, refusal: _Refusal) -> None:
        self.transport.write(refusal.answer)
        self.transport.close()

    # --- requests ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._count_arrived(len(data))

    def _count_arrived(self, count_bytes: int) -> None:
        """Count what came of a head that is not complete; the parser reports a field only when all of it is there."""
        self._arrived_bytes += count_bytes
        if self._arrived_bytes > 2 * self._bounds.head_bytes_max:
            self._shared.counts.malformed += 1
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._arrived_bytes = 0
        self._deadline = self.loop.time() + self._bounds.head_s

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if len(self.headers) >= self._bounds.head_lines_max:
            self._refusal = _TOO_LARGE
            raise self._refusal
        super().on_header(name, value)

    def _count_head(self, count_bytes: int) -> None:
        self._head_bytes += count_bytes
        if self._head_bytes > self._bounds.head_bytes_max:
            self._refusal = _TOO_LARGE
            raise self._refusal

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= self._bounds.pipelined_max:
            self._refusal = _TOO_MANY
            raise self._refusal
        self._in_head = False
        super().on_headers_complete()
        self._deadline = self.loop.time() + self._bounds.body_s

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._deadline = self.loop.time() + self._bounds.idle_s
        else:
            self._deadline = self._answer_deadline = self.loop.time() + self._bounds.answer_s

    def on_response_complete(self) -> None:
        more_body, more_requests = self.cycle.more_body, bool(self.pipeline)
        super().on_response_complete()
        if more_requests:
            self._deadline = self._answer_deadline = self.loop.time() + self._bounds.answer_s
        elif not more_body:  # else the rest of it, which nobody wants any more, has to come in the time for a body
            self._deadline = self.loop.time() + self._bounds.idle_s

    def send_400_response(self, msg: str) -> None:
        self._shared.counts.malformed += 1
        self._refuse(self._refusal)

    # --- answers -----------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._deadline = min(self._deadline, self.loop.time() + self._bounds.write_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._deadline = self._answer_deadline
