"""Fetching the resources of a log from a server that nobody has vouched for.

What comes of a request is one of three, and never taken for another:

    the bytes            as they have to be in length; what they say is for others to judge
    a defect             the server has answered, and it is not the resource: missing, too long, too short, a bomb
    `UnavailableError`   there was no answer, or one that says nothing about the resource: an error, a redirect

Each body is bounded by what it has to be, before and after it is decompressed, and each request by a deadline.
Redirects are not followed: where a tree is served is for its operator to say, and not for whoever answers there. As for
witnesses, a transport is used and no client of httpx around it, which would keep cookies and ask proxies.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple, cast

import httpx

from treehead.display import printable, printable_name
from treehead.encoding import parse_decimal
from treehead.errors import MalformedError, UnavailableError, UsageError
from treehead.tls import AUTHORITIES_FLAG, ClientTls
from treehead_logserver.witness.exchange import parse_prefix

_GZIP_WBITS = 31
_MISSING = frozenset({404, 410})
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Worth another attempt."""
_REDIRECTS = range(300, 400)
_GZIP_SLACK_BYTES = 65_536
"""So much longer than the bytes themselves may they be when compressed, if they cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How a server is asked.

    Attributes:
        in_flight: requests at once.
        silence_s: how long it may take to send anything, or to accept a connection.
        request_s: how long it may take for all of an answer.
        attempts: how often a resource is asked for, if there is no answer.
        pause_s: how long is waited after the first attempt; after each further one, twice as long as before.
    """

    in_flight: int = 8
    silence_s: float = 15
    request_s: float = 120
    attempts: int = 4
    pause_s: float = 0.5


class Defect(NamedTuple):
    """What a server has for a resource instead of it: a clause about it."""

    what: str
    is_missing: bool = False


_CUT = "the connection may have ended early: the answer does not say how long it is"


class _RetryError(Exception):
    """There is no answer, and there may be one next time."""


class Server:
    """Answers at a prefix. An asynchronous context manager, and for one event loop.

    Raises:
        UsageError: the URL is none that a log can have, or a file of `tls` cannot be used.
    """

    def __init__(self, url: str, *, tls: ClientTls, bounds: Bounds) -> None:
        self._prefix = _parse_url(url)
        self._bounds = bounds
        limits = httpx.Limits(max_connections=bounds.in_flight, max_keepalive_connections=bounds.in_flight)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which trusts nobody
        if httpx.URL(self._prefix).scheme == "https":
            context = tls.ssl_context()
        elif tls.flags:
            raise UsageError(f"{AUTHORITIES_FLAG} is of use with an https:// URL only, and --url {url} is none")
        self._transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), bounds.silence_s)

    async def __aenter__(self) -> Server:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def get(
        self, path: str, *, bytes_max: int, length: int | None = None, may_be_gzip: bool = False
    ) -> bytes | Defect:
        """The resource of a path: `length` bytes, or at most `bytes_max`.

        Raises:
            UnavailableError: the server does not say what it has there.
        """
        reason: object = None
        for attempt in range(self._bounds.attempts):
            if attempt:
                await asyncio.sleep(self._bounds.pause_s * 2 ** (attempt - 1))
            try:
                async with asyncio.timeout(self._bounds.request_s):
                    return await self._get(path, bytes_max, length, may_be_gzip)
            except TimeoutError:
                reason = f"the server has not answered within {self._bounds.request_s:g} s"
            except httpx.TimeoutException:
                reason = f"the server has sent nothing for {self._bounds.silence_s:g} s"
            except httpx.TransportError as exc:
                reason = f"there is no answer: {printable(str(exc)) or type(exc).__name__}"
            except _RetryError as exc:
                reason = exc
        raise UnavailableError(f"{path} could not be checked: {reason}")

    async def _get(self, path: str, bytes_max: int, length: int | None, may_be_gzip: bool) -> bytes | Defect:
        accepted = "gzip, identity" if may_be_gzip else "identity"
        request = httpx.Request(
            "GET",
            f"{self._prefix}/{path}",
            headers={"Accept-Encoding": accepted, "User-Agent": "treehead-log"},
            extensions={"timeout": self._timeouts},
        )
        response = await self._transport.handle_async_request(request)
        try:
            _check_status(path, response)
            if response.status_code in _MISSING:
                return Defect(f"is missing (HTTP {response.status_code})", is_missing=True)
            return await _read(response, bytes_max=bytes_max, length=length, may_be_gzip=may_be_gzip)
        finally:
            await response.aclose()


def _parse_url(url: str) -> str:
    try:
        return parse_prefix(os.fsencode(url))
    except UsageError as exc:
        raise UsageError(
            f"--url {url} is not the address of a log: http://HOST[:PORT][/PATH] or https://…, and no user, query or "
            "fragment"
        ) from exc


def _check_status(path: str, response: httpx.Response) -> None:
    """Returns only if the answer says something about the resource."""
    status = response.status_code
    if status == 200 or status in _MISSING:
        return
    if status in _BUSY:
        raise _RetryError(f"the server answers HTTP {status}")
    if status in _REDIRECTS:
        to = printable_name(response.headers.get("location", "nowhere"))
        raise UnavailableError(
            f"{path} could not be checked: the server redirects (HTTP {status}) to {to}, and that is not followed: "
            "give the URL under which the log is served"
        )
    raise UnavailableError(f"{path} could not be checked: the server answers HTTP {status}")


async def _read(response: httpx.Response, *, bytes_max: int, length: int | None, may_be_gzip: bool) -> bytes | Defect:
    encoding = response.headers.get("content-encoding", "identity").lower()
    is_delimited = not {"content-length", "transfer-encoding"}.isdisjoint(response.headers)
    pieces = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
    body = bytearray()
    try:
        if encoding == "identity":
            defect = _misfit(_declared(response), bytes_max, length)
        elif encoding == "gzip" and may_be_gzip:
            defect, pieces = None, _decompressed(pieces, bytes_max, is_delimited=is_delimited)
        else:
            defect = Defect(f"is encoded ({printable_name(encoding)}), which was not asked for")
        if defect is not None:
            return defect
        async with aclosing(pieces):
            async for piece in pieces:
                body += piece
                if len(body) > bytes_max:
                    break
    except MalformedError as exc:
        return Defect(str(exc))
    if length is not None and len(body) < length and not is_delimited:
        raise _RetryError(_CUT)
    return _misfit(len(body), bytes_max, length) or bytes(body)


def _declared(response: httpx.Response) -> int | None:
    """How long the body is by its header; None if that does not say."""
    declared = response.headers.get("content-length")
    return None if declared is None else parse_decimal(declared, what="its Content-Length")


def _misfit(size: int | None, bytes_max: int, length: int | None) -> Defect | None:
    """What is wrong with a length, if it is known."""
    if size is None:
        return None
    if size > bytes_max:
        return Defect(f"has more than {bytes_max} bytes")
    return Defect(f"has {size} bytes, and must have {length}") if length not in (None, size) else None


async def _decompressed(
    pieces: AsyncGenerator[bytes, None], bytes_max: int, *, is_delimited: bool
) -> AsyncGenerator[bytes, None]:
    """What is compressed in the pieces, of which the caller takes no more than it wants.

    Raises:
        MalformedError: it is not one whole gzip stream, or is longer than `bytes_max` bytes need.
    """
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    size = 0
    async with aclosing(pieces):
        async for piece in pieces:
            size += len(piece)
            if size > bytes_max + _GZIP_SLACK_BYTES:
                raise MalformedError(f"has more than {bytes_max + _GZIP_SLACK_BYTES} bytes of gzip")
            while piece:
                if decompressor.eof:
                    raise MalformedError("has bytes after its gzip stream")
                try:
                    yield decompressor.decompress(piece, bytes_max + 1)
                except zlib.error as exc:
                    raise MalformedError(f"is not gzip, which it says it is: {exc}") from exc
                piece = decompressor.unconsumed_tail or decompressor.unused_data
    if not decompressor.eof and not is_delimited:
        raise _RetryError(_CUT)
    if not decompressor.eof:
        raise MalformedError("ends in the middle of its gzip stream")
