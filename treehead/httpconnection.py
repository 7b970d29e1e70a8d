"""One HTTP/1.1 connection of ours, and the bounds that every one of a server's has.

The protocol is uvicorn's, over httptools. What uvicorn leaves open is closed here: how long a request may take to
arrive and its answer to be taken, how large its head may be, how many connections there may be, and from one address.
See docs/adr/0011.
"""

from __future__ import annotations

import asyncio
import enum
import math
import re
from collections import Counter
from dataclasses import dataclass

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from treehead.peer import address_of

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""The characters of `uri-host [":" port]`, and of no host, which is allowed as well: RFC 9112, section 3.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBounds:
    """What one HTTP server lets callers do. Times are looked at once a second, and so are exact to a second.

    Attributes:
        connections_max: connections in all, from the moment that TCP has them: TLS may still be agreed on.
        address_connections_max: connections from one address, as `treehead.peer` counts them.
        head_bytes_max: bytes of a request's target and of the names and values of its header fields, those after a
            chunked body (trailers, which are dropped) included. Also, at twice that, the bytes that may come without
            any part of a request being complete by them, such as a field that does not end.
        head_lines_max: header fields of a request, trailers included.
        head_s: how long TLS may take to be agreed on; then, how long until a first request begins; and how long each
            request may take from its first byte until its head is there.
        body_s: how long from then on until its body is. A request that waits for the one before has this time from
            when it is its turn, and one that was answered early has no more than another.
        write_s: how long the caller may take until there is room for more of an answer, once what is kept for it
            (64 KiB) is full; and for the rest of the last answer.
        answer_s: how long an answer may take in all, from when its request is there and it is its turn.
        idle_s: how long a connection may be without a request after one was answered.
        pipelined_max: requests of one connection that wait for the one before.
    """

    connections_max: int = 1_024
    address_connections_max: int = 256
    head_bytes_max: int = 16_384
    head_lines_max: int = 64
    head_s: float = 10.0
    body_s: float = 20.0
    write_s: float = 20.0
    answer_s: float = 300.0
    idle_s: int = 60
    pipelined_max: int = 8


@dataclass(slots=True)
class HttpCounts:
    """What happened to connections since the start, for metrics.

    Attributes:
        refused: connections that were turned away, because there were too many.
        overdue: connections that were ended, because their caller was too slow.
        malformed: connections that were ended over a request that is no HTTP/1.1, has too large a head, or comes
            when too many wait.
    """

    refused: int = 0
    overdue: int = 0
    malformed: int = 0


class HttpConnections:
    """The connections of one server: who there is, and what they have in common.

    Attributes:
        state: what uvicorn keeps of those that speak HTTP already, and of the requests that are being answered.
        none_left: set while there is no connection.
    """

    def __init__(self, config: Config, bounds: HttpBounds) -> None:
        self.config = config
        self.bounds = bounds
        self.state = ServerState()
        self.counts = HttpCounts()
        self.none_left = asyncio.Event()
        self.none_left.set()
        self._address_of: dict[object, str] = {}
        self._of_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._address_of)

    def enter(self, connection: object, transport: asyncio.Transport) -> bool:
        """Count one more, which is to `leave` in any case; false if it is one too many, and has to go."""
        peer = get_remote_addr(transport)
        address = address_of(peer[0] if peer else "")
        self._address_of[connection] = address
        self._of_address[address] += 1
        self.none_left.clear()
        if (
            len(self) <= self.bounds.connections_max
            and self._of_address[address] <= self.bounds.address_connections_max
        ):
            return True
        self.counts.refused += 1
        return False

    def leave(self, connection: object) -> None:
        """Count one no longer, if it is counted."""
        address = self._address_of.pop(connection, None)
        if address is None:
            return
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
        if not self._address_of:
            self.none_left.set()


def _refusal(status: bytes, message: bytes) -> bytes:
    """The answer to a request that is refused; its connection ends."""
    fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\ncache-control: no-store" % len(message)
    return b"HTTP/1.1 %b\r\n%b\r\nconnection: close\r\n\r\n%b" % (status, fields, message)


_MALFORMED = _refusal(b"400 Bad Request", b"the request is not HTTP/1.1\n")
_HOSTLESS = _refusal(b"400 Bad Request", b"the request needs one Host field, with the name of a host\n")
_NO_UPGRADE = _refusal(b"501 Not Implemented", b"the request asks for another protocol; leave out the Upgrade field\n")
_TOO_LARGE = _refusal(b"431 Request Header Fields Too Large", b"the head of the request is too large\n")
_TOO_MANY = _refusal(b"503 Service Unavailable", b"there are too many connections; try again later\n")


class _RefusedError(Exception):
    """Ends the parsing of a request; the connection knows why."""


class _Place(enum.Enum):
    """What the parser is in. Trailers belong to the body."""

    BETWEEN = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class HttpConnection(HttpToolsProtocol):
    """One connection, which is ended when one of its deadlines has passed.

    There is one for what is to be received (a head, a body, or the next request), one for the answer that is being
    made, and one for the caller to take what was written. A deadline that nothing waits for is infinite.
    """

    def __init__(self, all_connections: HttpConnections, *, instead_of: object | None = None) -> None:
        """`instead_of` is what has been counted so far, and is no longer when this is."""
        super().__init__(config=all_connections.config, server_state=all_connections.state, app_state={})
        self._all = all_connections
        self._bounds = all_connections.bounds
        self._predecessor = instead_of
        self._refusal = _MALFORMED
        self._place = _Place.BETWEEN
        self._is_last = False
        self._head_bytes = self._head_lines = self._silent_bytes = 0
        self._answering: RequestResponseCycle | None = None
        self._receive_by = self._answer_by = self._write_by = math.inf

    # --- connections -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Count it, and turn it away if it is one too many."""
        super().connection_made(transport)
        self._receive_by = self.loop.time() + self._bounds.head_s
        self._all.leave(self._predecessor)
        if not self._all.enter(self, transport):
            self._refuse(_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no longer, and let its request see that nobody waits for the answer."""
        super().connection_lost(exc)
        self._give_up_answer()
        self._all.leave(self)

    def end_if_overdue(self, now: float) -> None:
        """End the connection if what is waited for is overdue."""
        if self.transport.is_closing():  # nothing more is read; who takes nothing of the rest would keep it for ever
            self._receive_by = math.inf
            self._write_by = min(self._write_by, now + self._bounds.write_s)
        if now > min(self._receive_by, self._answer_by, self._write_by):
            self._all.counts.overdue += 1
            self.transport.abort()

    def _refuse(self, refusal: bytes) -> None:
        """End the connection: with an answer if one is due now, and never in the middle or in place of another.

        Requests that came as a whole before the one that is refused are answered first.
        """
        if self._answering is not None and not (self._place is _Place.BODY and self._answering is self.cycle):
            self._is_last = True
            if self._place is _Place.BODY:  # the request is known, and would wait for the rest of its body
                self.pipeline.popleft()
            self._place = _Place.BETWEEN
            (self.pipeline[0][0] if self.pipeline else self._answering).keep_alive = False
            self._wait_for_more()
            return
        is_in_body = self._place is _Place.BODY
        if self._answering is None:
            is_due = not is_in_body  # there, the request was answered early
        else:
            is_due = is_in_body and self._answering is self.cycle and not self._answering.response_started
        self._give_up_answer()
        if is_due:
            self.transport.write(refusal)
        self.transport.close()

    def _give_up_answer(self) -> None:
        """Have whoever is making an answer find that nobody takes it. uvicorn tells the last request, not the first."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.flow.resume_writing()

    # --- requests ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came, and end the connection over what the parser keeps and never reports."""
        # In small pieces, because of a piece by which the parser reports anything, the rest is not counted.
        for begin in range(0, len(data), self._bounds.head_bytes_max):
            if self.transport.is_closing() or self._is_last:
                return
            self._parse(data[begin : begin + self._bounds.head_bytes_max])

    def _parse(self, piece: bytes) -> None:
        # The parser joins the parts of a field, and reports it only when all of it is there. So what it is silent about
        # is counted, wherever in a request it is: it could be a field, a trailer, an extension of a chunk.
        self._silent_bytes += len(piece)
        super().data_received(piece)
        if self._silent_bytes > 2 * self._bounds.head_bytes_max and not self.transport.is_closing():
            self._all.counts.malformed += 1
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins: its head has `head_s` from now on."""
        self._silent_bytes = 0
        super().on_message_begin()
        self._place = _Place.HEAD
        self._head_bytes = self._head_lines = 0
        self._wait_for_more()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field that is complete; a trailer is counted like one, and dropped."""
        self._head_lines += 1
        self._count_head(len(name) + len(value))
        if self._place is _Place.HEAD:  # else it is a trailer, and to be no field of the head: RFC 9110, section 6.5.1
            super().on_header(name, value)

    def _count_head(self, count_bytes: int) -> None:
        self._silent_bytes = 0
        self._head_bytes += count_bytes
        if self._head_bytes > self._bounds.head_bytes_max or self._head_lines > self._bounds.head_lines_max:
            self._refusal = _TOO_LARGE
            raise _RefusedError

    def on_headers_complete(self) -> None:
        """The head is there: it is answered, or waits for the request before, or is refused."""
        self._silent_bytes = 0
        if len(self.pipeline) >= self._bounds.pipelined_max:
            raise _RefusedError
        self._check_host()
        self._check_upgrade()
        super().on_headers_complete()
        self._place = _Place.BODY
        self.cycle.keep_alive &= not self._is_last
        if self._answering is None:
            self._answering = self.cycle
        self._wait_for_more()

    def _check_host(self) -> None:
        """RFC 9112, section 3.2."""
        hosts = [value for name, value in self.headers if name == b"host"]
        is_missing = not hosts and self.parser.get_http_version() != "1.0"
        if is_missing or len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
            self._refusal = _HOSTLESS
            raise _RefusedError

    def _check_upgrade(self) -> None:
        """The parser takes what comes after the head for another protocol, which is not spoken here.

        So the request is the last one that is read, or else its body would be read as requests.
        """
        self._is_last = self.parser.should_upgrade()
        if self._is_last and any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        ):
            self._refusal = _NO_UPGRADE
            raise _RefusedError

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there: now its answer has to come in time."""
        self._silent_bytes = 0
        super().on_message_complete()
        self._place = _Place.BETWEEN
        if self._answering is self.cycle:  # else it waits, or was answered early
            self._answer_by = self.loop.time() + self._bounds.answer_s
        self._wait_for_more()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or one of the methods above, could not take."""
        self._all.counts.malformed += 1
        self._refuse(self._refusal)

    def _wait_for_more(self) -> None:
        """Give what is to be received next its time, from now on."""
        if self.pipeline:  # reading is paused, and what comes late is not the caller's fault
            wait_s = math.inf
        elif self._place is _Place.HEAD:
            wait_s = self._bounds.head_s
        elif self._place is _Place.BODY:
            wait_s = self._bounds.body_s
        else:
            wait_s = self._bounds.idle_s if self._answering is None else math.inf
        self._receive_by = self.loop.time() + wait_s

    # --- answers -----------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """A request is answered: it is the turn of the next, if there is one."""
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        self._answering = following
        self._answer_by = math.inf
        if following is not None and not following.more_body:
            self._answer_by = self.loop.time() + self._bounds.answer_s
        if following is not None or self._place is _Place.BETWEEN:
            self._wait_for_more()

    def pause_writing(self) -> None:
        """The caller takes less than is written; from now on there is a deadline for it."""
        super().pause_writing()
        self._write_by = self.loop.time() + self._bounds.write_s

    def resume_writing(self) -> None:
        """The caller has taken enough."""
        super().resume_writing()
        self._write_by = math.inf
