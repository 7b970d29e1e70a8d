"""Monitors, asked for their view of a log. `treehead.view` judges what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import grpc

from treehead.checkpoint import parse_checkpoint
from treehead.errors import MalformedError, OperationalError, TreeheadError, UndecidedError, UsageError
from treehead.keys import VerifierKey, format_vkey
from treehead.tls import ClientTls
from treehead.v1 import monitor_pb2
from treehead.v1.monitor_pb2_grpc import MonitorStub
from treehead.view import View
from treehead.wire import Endpoint, error_of, format_endpoint, open_channel, parse_endpoint, received, view_from_wire

_BEHIND_PAUSE_S = 0.1
"""How long a monitor that is behind gets before it is asked again."""


class Answers(NamedTuple):
    """The views of the monitors that answered, and what came of the others."""

    views: tuple[View, ...]
    failures: tuple[TreeheadError, ...]


class Monitors:
    """The monitors at some addresses, asked all at once; a context, whose end closes the connections.

    For addresses that begin with https://, `tls` says whom to trust; None are the authorities of the operating system.

    Raises:
        UsageError: an address cannot be used, or on entering: a file of `tls` cannot be used.
    """

    def __init__(self, addresses: Sequence[str], *, timeout_s: int, tls: ClientTls | None = None) -> None:
        self._endpoints = [parse_endpoint(address) for address in addresses]
        self.addresses = tuple(map(format_endpoint, self._endpoints))
        self._timeout_s = timeout_s
        self._tls = tls
        # One loop for all questions: gRPC tolerates no second one in a process.
        self._runner = asyncio.Runner()
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._open())
        except UsageError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.run(self._close())
        self._runner.close()

    def ask(self, log: VerifierKey, *, sizes: Sequence[int]) -> Answers:
        """What each monitor says about a log, with proofs for heads of these sizes.

        A monitor that has not followed the log so far yet is asked again until the time is up; then its last answer
        counts.
        """
        request = monitor_pb2.GetViewRequest(vkey=format_vkey(log), sizes=sorted(set(sizes)))
        outcomes = self._runner.run(self._ask_all(request))
        return Answers(
            views=tuple(outcome for outcome in outcomes if isinstance(outcome, View)),
            failures=tuple(outcome for outcome in outcomes if isinstance(outcome, TreeheadError)),
        )

    async def _ask_all(self, request: monitor_pb2.GetViewRequest) -> list[View | TreeheadError]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(endpoint, request)) for endpoint in self._endpoints]
        return [task.result() for task in tasks]

    async def _ask(self, endpoint: Endpoint, request: monitor_pb2.GetViewRequest) -> View | TreeheadError:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout_s
        stub, address = MonitorStub(self._channels[endpoint]), format_endpoint(endpoint)
        view = None
        try:
            while True:
                response = await stub.GetView(request, timeout=max(0.0, deadline - clock()))
                view = view_from_wire(received(response, peer="it"), monitor=address)
                if _is_far_enough(view, max(request.sizes)) or clock() + _BEHIND_PAUSE_S >= deadline:
                    return view
                await asyncio.sleep(_BEHIND_PAUSE_S)
        except grpc.RpcError as exc:
            if view is not None:
                return view
            error = error_of(exc, peer=f"monitor {address}", endpoint=endpoint)
            # That a monitor refuses to answer says nothing against the artifact.
            return error if isinstance(error, OperationalError) else UndecidedError(str(error))
        except MalformedError as exc:
            return UndecidedError(f"monitor {address} sent an answer that cannot be read: {exc}")

    async def _open(self) -> None:
        for endpoint in self._endpoints:
            if endpoint not in self._channels:
                self._channels[endpoint] = open_channel(endpoint, tls=self._tls)

    async def _close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


def _is_far_enough(view: View, size: int) -> bool:
    """Whether asking again is of no use: there is evidence, a fault, or a head (unverified) of at least this size."""
    if view.evidence or view.faults:
        return True
    try:
        return view.head is not None and parse_checkpoint(view.head.text).size >= size
    except MalformedError:
        return True  # as it will be said to be when it is verified
