"""The journal: one JSON object a line on stderr, with the id of the request that a line is about.

    {"time": "2026-11-28T18:57:06.123Z", "level": "INFO", "logger": …, "message": …, "request_id": …}

A request's id is the one that its caller gave (`x-request-id`), or else made when it is first needed; a caller whose
request fails is told it. What strangers can cause, such as a refused entry, is written at most `REFUSALS_A_SECOND`
times a second, and then how many were left out: a flood must not fill the disk.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

from throttled import RateLimiterType, Throttled, rate_limiter, store

from treehead.display import printable

REFUSALS_A_SECOND = 20
REFUSALS = "treehead_logserver.refusals"
"""The logger of what strangers can cause."""
REQUEST_ID = "x-request-id"

_ID = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_ID_BYTES = 8


class RequestId:
    """The id of one request, made when it is first needed: most requests end well, and nobody asks for it."""

    __slots__ = ("_given", "_id")

    def __init__(self, given: Callable[[], str | None]) -> None:
        self._given = given
        self._id = ""

    def __str__(self) -> str:
        if not self._id:
            given = self._given()
            self._id = given if given is not None and _ID.fullmatch(given) else secrets.token_hex(_ID_BYTES)
        return self._id


REQUEST: ContextVar[RequestId | None] = ContextVar("request", default=None)
"""The request that the current task answers."""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        if (request := REQUEST.get()) is not None:
            line["request_id"] = str(request)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Bounded(logging.Filter):
    """Lets so many records a second through, and says with the next one how many it did not."""

    def __init__(self, a_second: int) -> None:
        super().__init__()
        self._throttled = Throttled(
            using=RateLimiterType.GCRA.value,
            quota=rate_limiter.per_sec(a_second),
            store=store.MemoryStore(),
        )
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if self._throttled.limit("records").limited:
            self._left_out += 1
            return False
        if self._left_out:
            said = record.getMessage()
            record.msg, record.args = "%s (%d such lines before it were left out)", (said, self._left_out)
            self._left_out = 0
        return True


def write_journal() -> None:
    """Have everything that is logged from now on written to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what it warns about is counted instead
    logging.getLogger(REFUSALS).addFilter(_Bounded(REFUSALS_A_SECOND))
