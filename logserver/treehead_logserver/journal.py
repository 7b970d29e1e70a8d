"""The journal: one JSON object a line on stderr, with the id of the request that a line is about.

    {"time": "2026-11-28T18:57:06.123Z", "level": "INFO", "logger": …, "message": …, "request_id": …}

A request's id is the one that its caller gave (`x-request-id`), or else made when it is first needed; a caller whose
request fails is told it. A defect comes with its `traceback`.

Strangers can cause lines, and a flood of them must not fill the disk: of one logger and level at most `LINES_A_SECOND`
are written a second, and the next one that is says in `left_out` how many before it were not. Refusals have a logger of
their own, so they crowd out nothing else.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

from throttled import RateLimiterType, Throttled, rate_limiter, store

from treehead.display import printable

LINES_A_SECOND = 20
TRACEBACK_CHARS_MAX = 16_384
"""The last of them, for the message is at the end."""
REFUSALS = "treehead_logserver.refusals"
"""The logger of what strangers can cause."""
REQUEST_ID = "x-request-id"

_ID = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_ID_BYTES = 8
_LEFT_OUT = "treehead_left_out"
"""The attribute of a record by which its filter tells its formatter."""


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
        line: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        if (request := REQUEST.get()) is not None:
            line["request_id"] = str(request)
        if (left_out := getattr(record, _LEFT_OUT, 0)) > 0:
            line["left_out"] = left_out
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-TRACEBACK_CHARS_MAX:]
        return json.dumps(line)


class _Bounded(logging.Filter):
    """Lets so many records of a logger and level a second through, and marks the next with how many it did not."""

    def __init__(self, a_second: int) -> None:
        super().__init__()
        self._throttled = Throttled(
            using=RateLimiterType.GCRA.value,
            quota=rate_limiter.per_sec(a_second),
            store=store.MemoryStore(),
        )
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = f"{record.levelname} {record.name}"
        if self._throttled.limit(kind).limited:
            self._left_out[kind] += 1
            return False
        setattr(record, _LEFT_OUT, self._left_out.pop(kind, 0))
        return True


def write_journal() -> None:
    """Have everything that is logged from now on written to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter())
    handler.addFilter(_Bounded(LINES_A_SECOND))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what it warns about is counted instead
