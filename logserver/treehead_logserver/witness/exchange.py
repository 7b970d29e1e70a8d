"""One request to a witness, and its answer, of which nothing is taken on trust: not its length, not its encoding.

A transport is used, and no client of httpx around it: that would keep the cookies of whoever answers, ask a proxy that
the environment names, log each request, and be ready to follow redirects. It is imported where it is needed: a log
without witnesses need not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treehead.display import printable, printable_name
from treehead.errors import UnavailableError, UsageError
from treehead.policy import POLICY_ITEMS_MAX
from treehead.tls import ClientTls
from treehead.witness import COSIGNATURES_BYTES_MAX

if TYPE_CHECKING:
    import httpx

ANSWER_BYTES_MAX = COSIGNATURES_BYTES_MAX
KEPT_OPEN_SECONDS = 4
"""How long a connection waits for the next request: less than it takes common servers to close it, for a request that
meets their closing fails."""

_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "treehead-log"}
_PORT_MAX = 65_535
_SCHEMES = frozenset({"http", "https"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, unjudged: at most `ANSWER_BYTES_MAX` of a body that is as it was sent."""

    status: int
    content_type: str
    body: bytes


def witness_transport(tls: ClientTls) -> httpx.AsyncHTTPTransport:
    """What carries requests to all witnesses of a policy, and keeps their connections open for a while.

    It is an asynchronous context manager, and for one event loop.

    Raises:
        UsageError: a file of `tls` cannot be used.
    """
    import httpx

    limits = httpx.Limits(
        max_connections=POLICY_ITEMS_MAX,
        max_keepalive_connections=POLICY_ITEMS_MAX,
        keepalive_expiry=KEPT_OPEN_SECONDS,
    )
    return httpx.AsyncHTTPTransport(verify=tls.ssl_context(), trust_env=False, limits=limits)


def parse_prefix(url: bytes) -> str:
    """Read a witness's submission prefix, as a policy spells it; returns it without a final slash.

    Raises:
        UsageError: it is not the address of an HTTP service, or has parts that a prefix cannot have.
    """
    import httpx

    shown = printable_name(url.decode("utf-8", "backslashreplace"))
    try:
        text = url.decode("ascii")
        parsed = httpx.URL(text)
        parsed.host.encode("idna")
    except (UnicodeError, httpx.InvalidURL) as exc:
        raise UsageError(f"{shown!r} is no URL: {printable(str(exc))}") from exc
    if parsed.scheme not in _SCHEMES or not parsed.host or not (parsed.port is None or 0 < parsed.port <= _PORT_MAX):
        raise UsageError(f"{shown!r} is not an http:// or https:// URL")
    if any(char in text for char in "?#@"):
        raise UsageError(f"{shown!r} has a user, a query or a fragment, which the URL of a witness cannot have")
    return text.removesuffix("/")


async def post(transport: httpx.AsyncBaseTransport, url: str, body: bytes) -> Answer:
    """Send `body` and read the answer, whatever its status. There is no deadline here: the caller sets one.

    Raises:
        UnavailableError: there is no answer, or it is larger than is read, or encoded although that was not asked for.
    """
    import httpx

    request = httpx.Request("POST", url, content=body, headers=_HEADERS)
    try:
        response = await transport.handle_async_request(request)
        try:
            return Answer(
                status=response.status_code,
                content_type=response.headers.get("content-type", ""),
                body=await _read(response),
            )
        finally:
            await response.aclose()
    except httpx.TransportError as exc:
        raise UnavailableError(f"there is no answer: {printable(str(exc)) or type(exc).__name__}") from exc


async def _read(response: httpx.Response) -> bytes:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnavailableError(f"the answer is encoded ({printable_name(encoding)}), although this was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise UnavailableError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)
