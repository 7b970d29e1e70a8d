"""What our gRPC servers share: where they may listen, health and reflection beside the service, and how they stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from treehead.errors import UnavailableError, UsageError
from treehead.wire import SERVER_OPTIONS, is_loopback, parse_address


def check_listening_address(address: str, *, insecure: bool) -> None:
    """Returns only if a server without TLS may listen on HOST:PORT.

    Raises:
        UsageError: the address is malformed, or others can reach it and `insecure` is not given.
    """
    parse_address(address)
    if not insecure and not is_loopback(address):
        raise UsageError(
            f"--grpc {address} can be reached from other machines, and this version has no TLS: "
            "use a loopback address, or add --insecure if the network between is yours"
        )


class Server:
    """A gRPC server of one service with `grpc.health.v1` and reflection. For one event loop.

    Add the servicer to `grpc`, then `start`; on `stop`, calls under way get `drain_ms` to end.
    """

    def __init__(self, service_name: str, *, calls_max: int, drain_ms: int) -> None:
        self.grpc = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=calls_max)
        self._service_name = service_name
        self._drain_ms = drain_ms
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(cast("health.HealthServicer", self._health), self.grpc)
        reflection.enable_server_reflection((service_name, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)

    async def start(self, address: str) -> str:
        """Listen on HOST:PORT; returns it with the port that port 0 became.

        Raises:
            UnavailableError: it is in use, or not an address of this machine.
        """
        try:
            port = self.grpc.add_insecure_port(address)
        except RuntimeError as exc:
            raise UnavailableError(
                f"cannot listen on {address}: it is in use, or not an address of this machine"
            ) from exc
        await self.grpc.start()
        await self._health.set(self._service_name, health_pb2.HealthCheckResponse.SERVING)
        return f"{address.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Say that it no longer serves, take no more calls, and let those under way end."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(self._drain_ms / 1_000)


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
