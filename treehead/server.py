"""What our gRPC servers share: where they may listen, health and reflection beside the service, and how they stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from treehead.certfile import CERTIFICATE_FLAG, KEY_FLAG
from treehead.display import printable
from treehead.errors import UnavailableError, UsageError
from treehead.wire import MESSAGE_BYTES_MAX, SERVER_OPTIONS, is_loopback, parse_address

HEALTH_WATCHERS_MAX = 32
REFLECTIONS_MAX = 16
"""Streams that stay open for as long as their caller likes, of all that one server allows."""


def check_listening_address(address: str, *, insecure: bool, tls: bool | None = None, flag: str = "--grpc") -> None:
    """Returns only if a server may listen on HOST:PORT, which the option `flag` names.

    `tls` is whether it speaks TLS there; None, if that cannot be had.

    Raises:
        UsageError: the address is malformed, or others can reach it, without TLS, and `insecure` is not given.
    """
    parse_address(address)
    if tls or insecure or is_loopback(address):
        return
    cure = (
        "use a loopback address" if tls is None else f"give {CERTIFICATE_FLAG} and {KEY_FLAG}, use a loopback address"
    )
    raise UsageError(
        f"{flag} {address} can be reached from other machines, and has no TLS: {cure}, "
        "or add --insecure if the network between is yours"
    )


class _Health(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1` of a server that serves from its start to its end.

    The one that comes with gRPC has no bound on its watchers, never ends them, and waits for the slowest of them.
    """

    def __init__(self, service_name: str) -> None:
        self._services = {health.OVERALL_HEALTH, service_name}
        self._watchers = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Answer NOT_SERVING from now on, and end the watches with it."""
        self._stopping.set()

    async def Check(  # noqa: N802 -- the name in the contract
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "field service: this server has no such service")
        return self._status(request.service)

    async def Watch(  # noqa: N802 -- the name in the contract
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        if self._watchers >= HEALTH_WATCHERS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._watchers} others watch already; ask with Check instead"
            )
        self._watchers += 1
        context.add_done_callback(self._gone)
        yield self._status(request.service)
        await self._stopping.wait()
        yield self._status(request.service)

    def _gone(self, _: object) -> None:
        self._watchers -= 1

    def _status(self, service: str) -> health_pb2.HealthCheckResponse:
        statuses = health_pb2.HealthCheckResponse
        if service not in self._services:
            return statuses(status=statuses.SERVICE_UNKNOWN)
        return statuses(status=statuses.NOT_SERVING if self._stopping.is_set() else statuses.SERVING)


class _Reflection(reflection.aio.ReflectionServicer):
    """Server reflection for a bounded number of callers at a time."""

    def __init__(self, service_names: tuple[str, ...]) -> None:
        super().__init__(service_names)
        self._callers = 0

    async def ServerReflectionInfo(  # type: ignore[override] # noqa: N802 -- gRPC's own types say coroutine
        self, request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        if self._callers >= REFLECTIONS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._callers} others use reflection already")
        self._callers += 1
        context.add_done_callback(self._gone)
        responses: Any = super().ServerReflectionInfo(request_iterator, context)
        async for response in responses:
            yield response

    def _gone(self, _: object) -> None:
        self._callers -= 1


class Server:
    """A gRPC server of one service with `grpc.health.v1` and reflection. For one event loop.

    `add` the servicer, then `start`; on `stop`, calls under way get `drain_ms` to end. What callers can make it hold is
    bounded by `calls_max` requests of `message_bytes_max` under way at once.
    """

    def __init__(
        self, service_name: str, *, calls_max: int, drain_ms: int, message_bytes_max: int = MESSAGE_BYTES_MAX
    ) -> None:
        options = {**dict(SERVER_OPTIONS), "grpc.max_receive_message_length": message_bytes_max}
        self.grpc = grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=calls_max)
        self._drain_ms = drain_ms
        self._health = _Health(service_name)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (service_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(names), self.grpc)  # type: ignore[no-untyped-call]
        _shorten_reports_of_grpc()

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Have a servicer answer, by the generated function for it, such as `add_LogServicer_to_server`."""
        add_to_server(servicer, _Registry(self.grpc))

    async def start(self, address: str, *, credentials: grpc.ServerCredentials | None = None) -> str:
        """Listen on HOST:PORT, over TLS if there are credentials; returns it with the port that port 0 became.

        Raises:
            UnavailableError: it is in use, or not an address of this machine.
        """
        try:
            if credentials is None:
                port = self.grpc.add_insecure_port(address)
            else:
                port = self.grpc.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise UnavailableError(
                f"cannot listen on {address}: it is in use, or not an address of this machine"
            ) from exc
        await self.grpc.start()
        return f"{address.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Say that it no longer serves, take no more calls, and let those under way end."""
        self._health.stop()
        await self.grpc.stop(self._drain_ms / 1_000)


class _Registry:
    """A server, for the generated function that adds a servicer: what is no message gets an answer that says so.

    gRPC alone ends such a call with UNKNOWN, and calls it a defect of the server.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers come by the other method, and count for more."""

    def add_registered_method_handlers(self, service_name: str, handlers: Mapping[str, Any]) -> None:
        """Add them all, each behind what reads its requests."""
        self._server.add_registered_method_handlers(
            service_name, {name: _with_messages_only(handler) for name, handler in handlers.items()}
        )


def _with_messages_only(handler: Any) -> Any:
    """The handler, of a method that takes one message, which does not get what is none."""
    kind = "unary_stream" if handler.response_streaming else "unary_unary"
    answer = getattr(handler, kind)

    def read(data: bytes) -> object:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            return None

    async def answer_messages(request: object, context: Any) -> object:
        if request is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message that this method takes")
        return await answer(request, context)

    return handler._replace(request_deserializer=read, **{kind: answer_messages})


def _shorten_reports_of_grpc() -> None:
    """Have gRPC report in one line what it meets, such as a request for health that is no message, not in a traceback.

    Our servicers report their own defects; nothing of theirs comes through gRPC's logger.
    """
    logger = logging.getLogger("grpc._cython.cygrpc")
    if _shorten not in logger.filters:
        logger.addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    if record.exc_info:
        error = record.exc_info[1]
        record.msg, record.args = "a call failed in gRPC: %s (%s)", (record.getMessage(), printable(str(error)))
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.exc_info = record.exc_text = None
    return True


def stop_requested() -> asyncio.Event:
    """The event that SIGTERM or SIGINT sets from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of a server: uvloop where it is installed, else asyncio's own, which is slower."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
