"""Immutable bytes over HTTP: conditional requests, ranges and gzip (RFC 9110), for tiles and the like.

The content itself is not looked at here. It may be large, so it is read in pieces, and never faster than the caller
takes them.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from werkzeug.http import parse_accept_header, parse_range_header
from werkzeug.sansio.http import is_resource_modified

_GZIP_WBITS = 31
_GZIP_LEVEL = 6
_COMPRESSING = ThreadPoolExecutor(1, thread_name_prefix="gzip")
"""Compression is off the event loop, and has one thread: whoever asks for much of it waits for others who do."""


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


async def answer_with(content: Content, request: Request, *, piece_bytes_max: int) -> Response:
    """Answer GET or HEAD with the content, or the part of it that was asked for."""
    fields = request.headers
    wanted = fields.get("range")
    gzip = content.compressible and wanted is None and _takes_gzip(fields)
    etag = f'"{content.etag}-gzip"' if gzip else f'"{content.etag}"'
    headers = {"etag": etag, "cache-control": content.cache_control, "accept-ranges": "bytes"}
    if content.compressible:
        headers["vary"] = "accept-encoding"
    if not is_resource_modified(http_if_none_match=fields.get("if-none-match"), etag=etag):
        return Response(status_code=304, headers=headers)
    headers["content-type"] = content.media_type
    begin, end, status = 0, content.size, 200
    if wanted is not None and fields.get("if-range", etag) == etag:
        parsed = parse_range_header(wanted)
        # Several ranges, or a unit that is not known, may be answered with all of it (RFC 9110 section 14.2).
        if parsed is not None and parsed.units == "bytes" and len(parsed.ranges) == 1:
            part = parsed.range_for_length(content.size)
            if part is None:
                return _text(416, "the range begins beyond the end\n", {"content-range": f"bytes */{content.size}"})
            begin, end, status = part[0], part[1], 206
            headers["content-range"] = f"bytes {begin}-{end - 1}/{content.size}"
    pieces = content.read(begin, end)
    if gzip:
        headers["content-encoding"] = "gzip"
        pieces = _compressed(pieces)
    else:
        headers["content-length"] = str(end - begin)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if end - begin <= piece_bytes_max:
        body = b"".join([piece async for piece in pieces])
        return Response(body, status_code=status, headers={**headers, "content-length": str(len(body))})
    return StreamingResponse(pieces, status_code=status, headers=headers)


async def bytes_in_one(data: bytes) -> AsyncIterator[bytes]:
    """Bytes that are at hand, as `Content.read` gives them."""
    yield data


def _takes_gzip(fields: Mapping[str, str]) -> bool:
    accepted = parse_accept_header(fields.get("accept-encoding"))
    return any(value == "gzip" and quality > 0 for value, quality in accepted)


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    loop = asyncio.get_running_loop()
    async for piece in pieces:
        if data := await loop.run_in_executor(_COMPRESSING, compressor.compress, piece):
            yield data
    yield compressor.flush()


def _text(status: int, text: str, headers: Mapping[str, str]) -> Response:
    return Response(text, status_code=status, headers=headers, media_type="text/plain; charset=utf-8")
