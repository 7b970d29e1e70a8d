"""Immutable bytes over HTTP: conditional requests, ranges and gzip (RFC 9110), for tiles and the like.

The content itself is not looked at here. It may be large, so it is read in pieces, and never faster than the caller
takes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from werkzeug.datastructures import Range
from werkzeug.http import parse_accept_header, parse_range_header
from werkzeug.sansio.http import is_resource_modified

from treehead_logserver.http.compression import Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a path holds.

    Attributes:
        size: in bytes.
        etag: what tells it from any other content of the path, without quotes.
        media_type: with its parameters.
        cache_control: the header field.
        compressible: whether it is worth compressing.
        read: the pieces from a byte to before another, none of them empty.
    """

    size: int
    etag: str
    media_type: str
    cache_control: str
    compressible: bool
    read: Callable[[int, int], AsyncIterator[bytes]]


async def answer_with(
    content: Content, request: Request, *, compression: Compression, piece_bytes_max: int
) -> Response:
    """Answer GET or HEAD with the content, or the part of it that was asked for.

    What is compressed goes out as it is if `compression` has no place for it.
    """
    fields = request.headers
    headers = {"cache-control": content.cache_control, "accept-ranges": "bytes"}
    if content.compressible:
        headers["vary"] = "accept-encoding"
    wanted = fields.get("range") if request.method == "GET" else None  # HEAD has none (RFC 9110 section 14.2)
    takes_gzip = content.compressible and wanted is None and _takes_gzip(request)
    etag, gzip_etag = f'"{content.etag}"', f'"{content.etag}-gzip"'
    for known in (gzip_etag, etag) if takes_gzip else (etag,):
        if not is_resource_modified(http_if_none_match=fields.get("if-none-match"), etag=known):
            return Response(status_code=304, headers={**headers, "etag": known})
    headers["content-type"] = content.media_type
    if takes_gzip and compression.has_place:
        headers |= {"etag": gzip_etag, "content-encoding": "gzip"}
        if request.method == "HEAD":
            return _head(headers)
        return await _compressed(content, headers, compression, piece_bytes_max=piece_bytes_max)
    headers["etag"] = etag
    begin, end, status = 0, content.size, 200
    asked = parse_range_header(wanted) if fields.get("if-range", etag) == etag else None
    # Several ranges, or a unit that is not known, may be answered with all of it (RFC 9110 section 14.2).
    if asked is not None and asked.units == "bytes" and len(asked.ranges) == 1:
        begin, end = _part(asked, content.size)
        if begin >= end:
            return _nothing_of(content)
        headers["content-range"] = f"bytes {begin}-{end - 1}/{content.size}"
        status = 206
    headers["content-length"] = str(end - begin)
    if request.method == "HEAD":
        return _head(headers)
    pieces = content.read(begin, end)
    if end - begin <= piece_bytes_max:
        return Response(b"".join([piece async for piece in pieces]), status_code=status, headers=headers)
    return StreamingResponse(pieces, status_code=status, headers=headers)


async def bytes_in_one(data: bytes) -> AsyncIterator[bytes]:
    """Bytes that are at hand, as `Content.read` gives them."""
    yield data


def _takes_gzip(request: Request) -> bool:
    if request.scope["http_version"] != "1.1":  # which knows no chunks, and how long it becomes is not known before
        return False
    accepted = parse_accept_header(request.headers.get("accept-encoding"))
    return any(value == "gzip" and quality > 0 for value, quality in accepted)


def _part(asked: Range, size: int) -> tuple[int, int]:
    """The bytes that one range asks for, from one to before another; none if the second is not the larger one."""
    begin, end = asked.ranges[0]
    if begin < 0:  # so many at the end; or all, if there are no more than that (RFC 9110 section 14.1.2)
        begin = max(0, size + begin)
    return begin, size if end is None else min(end, size)


def _nothing_of(content: Content) -> Response:
    return Response(
        "the range begins beyond the end\n",
        status_code=416,
        headers={"content-range": f"bytes */{content.size}", "cache-control": "no-store"},
        media_type="text/plain; charset=utf-8",
    )


def _head(headers: Mapping[str, str]) -> Response:
    """The answer to HEAD, which says how long that to GET is, or nothing about it (RFC 9110 section 8.6)."""
    response = Response(headers=headers)
    if "content-length" not in headers:
        del response.headers["content-length"]  # which is that of no body
    return response


async def _compressed(
    content: Content, headers: Mapping[str, str], compression: Compression, *, piece_bytes_max: int
) -> Response:
    compression.enter()
    pieces = compression.compressed(content.read(0, content.size))
    if content.size > piece_bytes_max:
        return _Streamed(pieces, headers=headers, ended=compression.leave)
    try:
        return Response(b"".join([piece async for piece in pieces]), headers=headers)
    finally:
        compression.leave()


class _Streamed(StreamingResponse):
    """A streamed answer that tells when it has ended, however it did."""

    def __init__(self, pieces: AsyncIterator[bytes], *, headers: Mapping[str, str], ended: Callable[[], None]) -> None:
        super().__init__(pieces, headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
