"""The gRPC service treehead.v1.Monitor: messages to values, values to messages, and errors to statuses.

protos/treehead/v1/monitor.proto says what each call promises. Anyone may call; nothing a caller says is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import grpc

from treehead.errors import StorageError, TreeheadError
from treehead.evidence import Evidence, format_evidence
from treehead.keys import parse_vkey
from treehead.v1 import monitor_pb2, monitor_pb2_grpc
from treehead.view import View
from treehead.wire import MESSAGE_BYTES_MAX, VIEW_SIZES_MAX, status_of, view_to_wire
from treehead_monitor.head import LogId, log_id
from treehead_monitor.message import Gossip
from treehead_monitor.wire import gossip_from_wire, gossip_to_wire

if TYPE_CHECKING:
    from treehead.v1.monitor_pb2_grpc import _ServicerContext as Context

_LOG = logging.getLogger(__name__)

_EVIDENCE_BYTES_MAX = MESSAGE_BYTES_MAX // 2
"""Evidence in one answer; far more than sixteen real files of each log take."""


class Monitor(Protocol):
    """What the service asks."""

    @property
    def followed(self) -> Sequence[LogId]:
        """The followed logs."""

    async def hear_call(self, source: str, gossip: Gossip) -> Gossip:
        """Hear a peer's call; returns the answer."""

    async def view(self, log: LogId, sizes: Sequence[int]) -> View | None:
        """How we see a log; None if we do not follow it."""

    def evidence(self, log: LogId) -> Sequence[Evidence]:
        """The evidence against a followed log."""


class _Status(Exception):  # noqa: N818 -- it is the answer, not a fault of ours
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class MonitorService(monitor_pb2_grpc.MonitorServicer):
    """Answers for one monitor. Every error becomes a status with one sentence; nothing else gets out."""

    def __init__(self, monitor: Monitor, *, exchanges_max: int, exchanges_waiting_max: int) -> None:
        self._monitor = monitor
        self._hearing = asyncio.Semaphore(exchanges_max)
        self._waiting = 0
        self._waiting_max = exchanges_waiting_max

    async def Exchange(self, request: monitor_pb2.ExchangeRequest, context: Context) -> monitor_pb2.ExchangeResponse:
        async with _answering(context), self._hear_few():
            gossip = gossip_from_wire(request.gossip)
            answer = await self._monitor.hear_call(f"caller {context.peer()}", gossip)
            return monitor_pb2.ExchangeResponse(gossip=gossip_to_wire(answer))

    async def GetView(self, request: monitor_pb2.GetViewRequest, context: Context) -> monitor_pb2.GetViewResponse:
        async with _answering(context):
            if len(request.sizes) > VIEW_SIZES_MAX:
                message = f"field sizes has {len(request.sizes)} sizes; at most {VIEW_SIZES_MAX} are answered"
                raise _Status(grpc.StatusCode.INVALID_ARGUMENT, message)
            view = await self._monitor.view(self._log(request.vkey), list(request.sizes))
            if view is None:
                raise _Status(grpc.StatusCode.NOT_FOUND, "field vkey: this monitor does not follow that log")
            return view_to_wire(view)

    async def GetEvidence(
        self, request: monitor_pb2.GetEvidenceRequest, context: Context
    ) -> monitor_pb2.GetEvidenceResponse:
        async with _answering(context):
            logs = [self._log(request.vkey)] if request.vkey else self._monitor.followed
            evidence = (item for log in logs for item in self._monitor.evidence(log))
            return monitor_pb2.GetEvidenceResponse(evidence=list(_that_fit(map(format_evidence, evidence))))

    @contextlib.asynccontextmanager
    async def _hear_few(self) -> AsyncIterator[None]:
        """Hear few callers at once: however many there are, our own following and gossip have their turn soon."""
        if self._hearing.locked() and self._waiting >= self._waiting_max:
            raise _Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many monitors talk to this one; try again later")
        self._waiting += 1
        try:
            await self._hearing.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._hearing.release()

    def _log(self, vkey: str) -> LogId:
        try:
            log = log_id(parse_vkey(vkey))
        except TreeheadError as exc:
            raise _Status(grpc.StatusCode.INVALID_ARGUMENT, f"field vkey: {exc}") from exc
        if log not in self._monitor.followed:
            raise _Status(grpc.StatusCode.NOT_FOUND, "field vkey: this monitor does not follow that log")
        return log


def _that_fit(files: Iterable[bytes]) -> Iterable[bytes]:
    """The files up to what one answer holds."""
    left = _EVIDENCE_BYTES_MAX
    for file in files:
        left -= len(file)
        if left < 0:
            return
        yield file


@contextlib.asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Whatever the call raises ends it with a status and one sentence that gives nothing of ours away."""
    try:
        yield
    except _Status as status:
        code, message = status.code, str(status)
    except StorageError as exc:
        _LOG.error("%s", exc)
        code, message = grpc.StatusCode.UNAVAILABLE, "the monitor cannot use its database; try again later"
    except TreeheadError as exc:
        code, message = status_of(exc), str(exc)
    except Exception:  # noqa: BLE001 -- the last line of defence: it is logged, and the caller told nothing
        _LOG.exception("a call failed over a defect of Treehead")
        code, message = grpc.StatusCode.INTERNAL, "the monitor made a mistake, and its operator finds it in the journal"
    else:
        return
    await context.abort(code, message)
