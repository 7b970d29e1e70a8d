"""The bodies of requests: each within its bound, and the long ones within one bound all together.

How long a body may take to come is up to `HttpBounds`, and so is how many come at once. As each is kept until it is
complete, and then until it has been read, many that are begun and not ended would be what a stranger can fill the
memory with. So long bodies are counted, byte by byte as they come, and one for which there is no room is turned away.
What a request says of its length is not counted: it costs nothing to say.

Short ones are not counted. What all connections together can hold of them is little, and nobody can keep them out by
sending long ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request

from treehead.encoding import parse_decimal
from treehead.errors import MalformedError, TooLargeError
from treehead_logserver.backlog import BusyError
from treehead_logserver.http.answering import peer_of
from treehead_logserver.http.errors import MediaTypeError
from treehead_logserver.quota import Quotas

SHORT_BODY_BYTES_MAX = 65_536
"""Any entry as it is fits; of what Rekor's clients send, only large envelopes do not."""


class Bodies:
    """Reads the bodies of one server's requests. For one event loop."""

    def __init__(self, *, bytes_max: int, quotas: Quotas) -> None:
        self._bytes_max = bytes_max
        self._quotas = quotas
        self._bytes = 0

    @property
    def counted_bytes(self) -> int:
        """What there is of long bodies at the moment, in bytes."""
        return self._bytes

    @contextlib.asynccontextmanager
    async def read(self, request: Request, *, bytes_max: int, what: str) -> AsyncIterator[bytes]:
        """The body of a request; it is counted until the block is left, so nothing of a long one may outlive that.

        Raises:
            TooLargeError: it is larger; no more than that was read.
            MediaTypeError: it is compressed: what it would become cannot be known before it is.
            BusyError: it is long, and there is no room for it beside those of others.
            QuotaError: it is long, and its address has sent too much: it counts as so many requests as it is long.
        """
        counted = _Counted(self, charge=lambda: self._quotas.charge_request(lambda: peer_of(request)))
        try:
            yield await _collect(request, counted, bytes_max=bytes_max, what=what)
        finally:
            counted.take(0)

    def _change(self, by: int) -> None:
        if by > 0 and self._bytes + by > self._bytes_max:
            raise BusyError(f"the log is busy: it reads {self._bytes} bytes of requests; try again a little later")
        self._bytes += by


class _Counted:
    """What is counted of one body."""

    def __init__(self, bodies: Bodies, *, charge: Callable[[], None]) -> None:
        self._bodies = bodies
        self._charge = charge
        self._charged = 1  # the request itself was
        self._bytes = 0

    def take(self, size: int) -> None:
        """Have so many bytes counted, or none of a short body."""
        while size > self._charged * SHORT_BODY_BYTES_MAX:
            self._charge()
            self._charged += 1
        wanted = size if size > SHORT_BODY_BYTES_MAX else 0
        self._bodies._change(wanted - self._bytes)
        self._bytes = wanted


async def _collect(request: Request, counted: _Counted, *, bytes_max: int, what: str) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeError("the body is compressed (Content-Encoding), and is only taken as it is")
    declared = request.headers.get("content-length")
    too_large = TooLargeError(f"{what} is larger than {bytes_max} bytes")
    if declared is not None and _is_larger(declared, bytes_max):
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > bytes_max:
            raise too_large
        counted.take(len(body) + len(piece))
        body += piece
    return bytes(body)


def _is_larger(declared: str, bytes_max: int) -> bool:
    try:  # leading zeros are legal here (RFC 9110 section 8.6), and say nothing
        return parse_decimal(declared.lstrip("0") or "0", what="Content-Length") > bytes_max
    except MalformedError:
        return True  # a number that is larger, or none; with none the parser would have refused it
