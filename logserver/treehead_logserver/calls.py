"""How a gRPC call of the log is answered: counted, given an id and a place, and ended with a status and a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from time import perf_counter
from typing import TYPE_CHECKING

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from treehead import wire
from treehead.errors import StorageError, TreeheadError, UntrustedError
from treehead_logserver.backlog import BusyError, QuotaError
from treehead_logserver.freeze import FrozenError
from treehead_logserver.journal import REFUSALS, REQUEST, REQUEST_ID, RequestId
from treehead_logserver.metrics import Metrics
from treehead_logserver.quota import Quotas

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import _ServicerContext as Context

_LOG = logging.getLogger(__name__)
_MISREAD = "the log cannot read its database; try again later"
_REFUSALS = logging.getLogger(REFUSALS)

_STREAMS = frozenset({"WatchCheckpoints", "GetEntries"})
"""How long these take is up to the caller."""

PUSHBACK = "grpc-retry-pushback-ms"
"""The trailing metadata by which a gRPC server says when to try again (gRFC A6)."""


class Status(Exception):  # noqa: N818 -- it is the answer, not a fault of ours
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Status:
    """What the caller sent cannot be read; the message names the field."""
    return Status(grpc.StatusCode.INVALID_ARGUMENT, message)


def out_of_range(message: str) -> Status:
    """What the caller asks for is not there yet; the message names the field."""
    return Status(grpc.StatusCode.OUT_OF_RANGE, message)


class Places:
    """The places of one kind of call, each taken until gRPC is done with the call: its answer is ours till then."""

    def __init__(self, count_max: int, *, doing: str) -> None:
        self._count_max = count_max
        self._doing = doing
        self._taken = 0

    def take(self, context: Context) -> None:
        """Give the call a place.

        Raises:
            BusyError: there is none left.
        """
        if self._taken >= self._count_max:
            raise BusyError(f"{self._taken} others {self._doing} this log already, and it allows no more")
        self._taken += 1
        context.add_done_callback(self._leave)  # type: ignore[arg-type] # its type is no protocol

    def _leave(self, _: Context) -> None:
        self._taken -= 1


class Calls:
    """The calls of one log. For one event loop."""

    def __init__(self, *, quotas: Quotas, metrics: Metrics, retry_ms: int) -> None:
        self._quotas = quotas
        self._metrics = metrics
        self._retry_ms = retry_ms

    @contextlib.asynccontextmanager
    async def answering(self, method: str, context: Context) -> AsyncIterator[None]:
        """Whatever the call raises ends it with a status and one sentence that gives nothing of ours away."""
        began = perf_counter()
        REQUEST.set(RequestId(lambda: _request_id_of(context)))
        trailing: tuple[tuple[str, str | bytes], ...] = ()
        try:
            self._quotas.charge_request(context.peer)
            yield
        except Status as status:
            code, message = status.code, str(status)
        except BusyError as exc:
            if isinstance(exc, QuotaError):
                await self._quotas.hold()
            code, message = grpc.StatusCode.RESOURCE_EXHAUSTED, str(exc)
            trailing = _when_to_retry(message, exc.retry_ms if isinstance(exc, QuotaError) else self._retry_ms)
        except StorageError as exc:
            _LOG.error("%s", exc)
            code, message = grpc.StatusCode.UNAVAILABLE, _MISREAD
        except TreeheadError as exc:
            code, message = status_of(exc), str(exc)
        except Exception:  # noqa: BLE001 -- it is logged, and the caller learns no more than that it happened
            _LOG.exception("a call failed over a defect of Treehead")
            code, message = grpc.StatusCode.INTERNAL, "the log made a mistake, and its operator finds it in the journal"
        else:
            self._count(method, "OK", began)
            return
        self._count(method, code.name, began)
        if message is not _MISREAD:  # of which the journal has more already
            _report(code, message)
        context.set_trailing_metadata((*trailing, (REQUEST_ID, str(REQUEST.get()))))
        await context.abort(code, message)

    async def paced(self, context: Context) -> None:
        """Count one more message of a stream as a request, and wait until there is room for it."""
        while True:
            try:
                self._quotas.charge_request(context.peer)
            except QuotaError as exc:
                await asyncio.sleep(exc.retry_ms / 1_000)
            else:
                return

    def _count(self, method: str, code: str, began: float) -> None:
        self._metrics.grpc_calls.labels(method, code).inc()
        if method not in _STREAMS:
            self._metrics.grpc_seconds.labels(method).observe(perf_counter() - began)


def _when_to_retry(message: str, retry_ms: int) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that tell a caller when to try again: gRPC itself, and programs that read `RetryInfo`."""
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(retry_ms)
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message=message)
    status.details.add().Pack(info)
    return ((PUSHBACK, str(retry_ms)), *rpc_status.to_status(status).trailing_metadata)


def status_of(error: TreeheadError) -> grpc.StatusCode:
    """The status that an error ends a call with."""
    if isinstance(error, UntrustedError):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, FrozenError):
        return grpc.StatusCode.FAILED_PRECONDITION
    return wire.status_of(error)


def _request_id_of(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str):
            return value
    return None


def _report(code: grpc.StatusCode, message: str) -> None:
    if code is grpc.StatusCode.UNAVAILABLE:
        _LOG.warning("answered %s: %s", code.name, message)
    elif code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE):
        _REFUSALS.info("answered %s: %s", code.name, message)
