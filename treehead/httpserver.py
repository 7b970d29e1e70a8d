"""An HTTP/1.1 server for an ASGI application, in an event loop that does other things as well, and with bounds.

`treehead.httpconnection` says what a connection may do. Here is how one comes about, TLS included, and how all of them
end. uvicorn's own server is not used, because that takes the signals of the process. See docs/adr/0011.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

from uvicorn import Config

from treehead.encoding import parse_decimal
from treehead.errors import UnavailableError
from treehead.httpconnection import HttpBounds, HttpConnection, HttpConnections, HttpCounts
from treehead.turnstile import Turnstile

__all__ = ["HttpBounds", "HttpCounts", "HttpServer"]

_SWEEP_SECONDS = 1.0
_MOMENT_SECONDS = 1.0
"""When the server stops: for the last of an answer to be taken; then, for a request to see that its caller is gone."""


class HttpServer:
    """Serves an ASGI application. For one event loop."""

    def __init__(self, application: Callable[..., Any], *, bounds: HttpBounds, drain_ms: int) -> None:
        config = Config(
            Turnstile(application),
            http=HttpConnection,
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
        self._connections = HttpConnections(config, bounds)
        self._drain_ms = drain_ms
        self._server: asyncio.Server | None = None
        self._handshakes: set[_Handshake] = set()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def counts(self) -> HttpCounts:
        """What happened to connections since the start."""
        return self._connections.counts

    @property
    def connections(self) -> int:
        """How many there are now, those included on which TLS is still being agreed on."""
        return len(self._connections)

    async def start(self, address: str, *, tls: ssl.SSLContext | None = None) -> str:
        """Listen on HOST:PORT; returns it with the port that port 0 became.

        Raises:
            UnavailableError: it is in use, or not an address of this machine.
        """
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        host, _, port = address.rpartition(":")
        self._date()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: self._connection(tls),
                host.strip("[]"),
                parse_decimal(port, what="port"),
                reuse_port=False,
            )
        except OSError as exc:
            raise UnavailableError(
                f"cannot listen on {address}: it is in use, or not an address of this machine"
            ) from exc
        self._sweeping = asyncio.create_task(self._sweep(), name="http sweep")
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    def _connection(self, tls: ssl.SSLContext | None) -> asyncio.Protocol:
        if tls is None:
            return HttpConnection(self._connections)
        return _Handshake(self._connections, tls, self._handshakes)

    async def stop(self) -> None:
        """Take no more connections, and let requests under way end, and be answered, while there is time.

        When this returns, there is no connection left, and no request is being worked on.
        """
        if self._server is None:
            return
        self._server.close()
        for handshake in list(self._handshakes):
            handshake.abort()
        for connection in list(self._connections.state.connections):
            connection.shutdown()
        state = self._connections.state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_ms / 1_000):
                while state.tasks:  # the end of one may be the beginning of the next on its connection
                    await _ended(state.tasks)
                async with asyncio.timeout(_MOMENT_SECONDS):
                    await self._connections.none_left.wait()
        for connection in list(state.connections):
            connection.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT_SECONDS):
                await self._connections.none_left.wait()
                await _ended(state.tasks)
        for task in list(state.tasks):
            task.cancel()
        await _ended(state.tasks)
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
            for connection in list(self._connections.state.connections):
                cast("HttpConnection", connection).end_if_overdue(now)

    def _date(self) -> None:
        self._connections.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]


class _Handshake(asyncio.Protocol):
    """A TCP connection that counts as one, until TLS is agreed on and an `HttpConnection` takes over."""

    def __init__(self, connections: HttpConnections, tls: ssl.SSLContext, under_way: set[_Handshake]) -> None:
        self._connections = connections
        self._tls = tls
        self._under_way = under_way

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is one
        if self._connections.enter(self, transport) and self._take_socket(transport):
            self._under_way.add(self)
            self._task = asyncio.get_running_loop().create_task(self._run(), name="TLS handshake")
        else:  # what could be said before there is TLS, nobody would understand
            self._connections.leave(self)
        transport.abort()

    def _take_socket(self, transport: asyncio.Transport) -> bool:
        """Keep the socket when the transport is gone, which has read nothing and will not.

        `start_tls` would keep the transport. But uvloop's reads at once, and what is read before TLS is there is lost.
        """
        found = transport.get_extra_info("socket")
        try:
            self._socket = socket.fromfd(found.fileno(), found.family, found.type)
        except OSError:  # it is lost already, or there are too many open files
            return False
        self._socket.setblocking(False)
        return True

    def abort(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _run(self) -> None:
        bounds = self._connections.bounds
        connection = HttpConnection(self._connections, instead_of=self)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                self._socket,
                ssl=self._tls,
                ssl_handshake_timeout=bounds.head_s,
                ssl_shutdown_timeout=bounds.write_s,
            )
        except ConnectionAbortedError:  # asyncio's word for a handshake that takes too long
            self._connections.counts.overdue += 1
        except OSError:  # no TLS, or none that is taken here; the other side has the reason from OpenSSL
            pass
        finally:
            self._under_way.discard(self)
            self._connections.leave(self)


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    """Returns when all of the tasks have ended, however."""
    if tasks:
        await asyncio.wait(list(tasks))


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Keeps out of the log that a request was given up because the server stops; uvicorn reports it as a defect."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)
