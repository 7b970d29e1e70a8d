"""What all faces do alike with a request: charge and count it, and turn what goes wrong into one sentence."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from treehead.errors import StorageError, TreeheadError
from treehead_logserver.backlog import BusyError, QuotaError
from treehead_logserver.http.errors import MethodError, NotFoundError, headers_of, sentence_of, status_of
from treehead_logserver.journal import REFUSALS, REQUEST, REQUEST_ID, RequestId
from treehead_logserver.metrics import Metrics
from treehead_logserver.quota import Quotas

_LOG = logging.getLogger(__name__)
_REFUSALS = logging.getLogger(REFUSALS)

_TEXT = "text/plain; charset=utf-8"
_DEFECT = "the log made a mistake, and its operator finds it in the journal"
_GONE = 499
"""What is counted when nobody waits for the answer any more."""

Handler = Callable[[Request], Awaitable[Response]]
FormatError = Callable[[int, str], Response]
"""Makes the answer of a status and a sentence; a face may have a form of its own for it."""


def format_text(status: int, sentence: str) -> Response:
    """The sentence as plain text."""
    return Response(f"{sentence}\n", status_code=status, media_type=_TEXT)


class Answering:
    """Wraps the handlers of one log."""

    def __init__(self, *, quotas: Quotas, metrics: Metrics, retry_ms: int) -> None:
        self._quotas = quotas
        self._metrics = metrics
        self._retry_ms = retry_ms

    def by(
        self, handler: Handler, *, face: str, format_error: FormatError = format_text, is_charged: bool = True
    ) -> Handler:
        """The handler, which raises nothing now before its answer begins, and is counted under the name of its face.

        What operators look at is not charged to an address: it is needed most when there is a flood.
        """
        seconds = self._metrics.http_seconds.labels(face)
        requests = self._metrics.http_requests

        async def answer(request: Request) -> Response:
            began = perf_counter()
            REQUEST.set(RequestId(lambda: request.headers.get(REQUEST_ID)))
            response = await self._answer(handler, request, format_error, is_charged=is_charged)
            requests.labels(face, response.status_code).inc()
            seconds.observe(perf_counter() - began)
            return response

        return answer

    async def nowhere(self, request: Request, error: HTTPException) -> Response:
        """The answer to a request that no handler is for: there is no such path, or not with this method."""
        REQUEST.set(RequestId(lambda: request.headers.get(REQUEST_ID)))

        async def refuse(_: Request) -> Response:
            if error.status_code == 404:
                raise NotFoundError("there is nothing at this path")
            raise MethodError("this path has other methods", allow=(error.headers or {}).get("Allow", ""))

        response = await self._answer(refuse, request, format_text, is_charged=True)
        self._metrics.http_requests.labels("none", response.status_code).inc()
        return response

    async def _answer(
        self, handler: Handler, request: Request, format_error: FormatError, *, is_charged: bool
    ) -> Response:
        try:
            if is_charged:
                self._quotas.charge_request(lambda: peer_of(request))
            if (
                b"%" in request.scope["raw_path"]
            ):  # the router takes escapes as well, and by them one thing has many names
                raise NotFoundError("there is nothing at this path, which has escapes")
            return await handler(request)
        except TreeheadError as exc:
            if isinstance(exc, QuotaError):
                await self._quotas.hold()
            status, sentence, headers = status_of(exc), sentence_of(exc), headers_of(exc, retry_ms=self._retry_ms)
            _report(exc, status)
        except ClientDisconnect:
            return Response(status_code=_GONE)
        except Exception:  # noqa: BLE001 -- it is logged, and the caller learns no more than that it happened
            _LOG.exception("a request failed over a defect of Treehead")
            status, sentence, headers = 500, _DEFECT, {"cache-control": "no-store"}
        response = format_error(status, sentence)
        response.headers.update(headers)
        response.headers[REQUEST_ID] = str(REQUEST.get())
        return response


def peer_of(request: Request) -> str:
    """The address that a request comes from; empty where it has none."""
    return request.client.host if request.client else ""


def _report(error: TreeheadError, status: int) -> None:
    if isinstance(error, StorageError):
        _LOG.error("%s", error)
    elif status >= 500 and not isinstance(error, BusyError):
        _LOG.warning("answered %d: %s", status, error)
    elif status != 404:
        _REFUSALS.info("answered %d: %s", status, error)
