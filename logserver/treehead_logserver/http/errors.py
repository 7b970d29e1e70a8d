"""Errors as HTTP statuses: one table for all faces."""

from __future__ import annotations

from collections.abc import Mapping

from treehead.errors import (
    MalformedError,
    RefusedError,
    StorageError,
    TooLargeError,
    TreeheadError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
)
from treehead_logserver.backlog import BusyError, QuotaError
from treehead_logserver.freeze import FrozenError


class NotFoundError(TreeheadError):
    """There is nothing at this path."""


class MethodError(TreeheadError):
    """There is something at this path, but not for this method.

    Attributes:
        allow: the methods that it is for, as the header field has them.
    """

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class MediaTypeError(TreeheadError):
    """The body of the request is in an encoding or of a type that is not read here."""


_STATUS: tuple[tuple[type[TreeheadError], int], ...] = (
    (NotFoundError, 404),
    (MethodError, 405),
    (MediaTypeError, 415),
    (FrozenError, 405),
    (QuotaError, 429),
    (BusyError, 503),
    (TooLargeError, 413),
    (MalformedError, 400),
    (UnsupportedError, 400),
    (UntrustedError, 403),
    (RefusedError, 400),
    (StorageError, 503),
    (UnavailableError, 503),
)


def status_of(error: TreeheadError) -> int:
    """The HTTP status of an error; 500 for what no caller's input should cause."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def headers_of(error: TreeheadError, *, retry_ms: int) -> Mapping[str, str]:
    """The header fields that go with it: that it is not kept, when to come again, and by which methods."""
    # A cache may keep a 404 or 405 that does not say so (RFC 9110 section 15.1), and the tile is there a second later.
    headers = {"cache-control": "no-store"}
    status = status_of(error)
    if status in (429, 503):
        wait_ms = error.retry_ms if isinstance(error, QuotaError) else retry_ms
        headers["retry-after"] = str(max(1, -(-wait_ms // 1_000)))
    if status == 405:
        headers["allow"] = error.allow if isinstance(error, MethodError) else ""  # when frozen: there is none any more
    return headers


def sentence_of(error: TreeheadError) -> str:
    """What the caller is told; nothing of ours is given away."""
    if isinstance(error, StorageError):
        return "the log cannot read its database; try again later"
    return str(error)
