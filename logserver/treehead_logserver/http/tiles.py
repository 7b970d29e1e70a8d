"""The log as static resources (C2SP tlog-tiles): `/checkpoint`, `/tile/<L>/<N>[.p/<W>]`, `/tile/entries/<N>[.p/<W>]`.

What is shown is the tree of the published checkpoint, and no more: a full tile exists once that covers it, and a
partial one if some published checkpoint, the newest or an earlier one, ended in it. A partial tile that is full by now
is still served, for who read an earlier checkpoint a moment ago.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

from treehead.errors import MalformedError, StorageError
from treehead.merkle import HASH_BYTES
from treehead.tile import TILE_HEIGHT, TILE_WIDTH, TileId, TilePath, parse_tile_path, tile_width
from treehead_logserver.heads import Head, Heads
from treehead_logserver.http.compression import Compression
from treehead_logserver.http.content import Content, answer_with, bytes_in_one
from treehead_logserver.http.errors import NotFoundError
from treehead_logserver.storage.base import Storage

_CHECKPOINT_CACHING = "public, max-age=1"
_FULL_CACHING = "public, max-age=31536000, immutable"
_PARTIAL_CACHING = "public, max-age=3600"
"""A partial tile never changes either, but few will ask for it again, and the log may stop serving it."""
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"
_ETAG_HEX = 32
_LENGTH_BYTES = 2
_COMPRESSED_ANSWERS_MAX = 4


class TilesFace:
    """Answers from the published head and the store. For one event loop."""

    def __init__(self, *, storage: Storage, published: Heads, piece_bytes_max: int) -> None:
        self._storage = storage
        self._published = published
        self._piece_bytes_max = piece_bytes_max
        self._compression = Compression(answers_max=_COMPRESSED_ANSWERS_MAX)

    async def checkpoint(self, request: Request) -> Response:
        """GET /checkpoint."""
        note = self._published.newest.checkpoint
        content = Content(
            size=len(note),
            etag=_etag_of(note),
            media_type=_TEXT,
            cache_control=_CHECKPOINT_CACHING,
            compressible=False,
            read=lambda begin, end: bytes_in_one(note[begin:end]),
        )
        return await self._answer(content, request)

    async def tile(self, request: Request, *, prefix: str) -> Response:
        """GET <prefix>tile/…, of hashes or entries."""
        head = self._published.newest
        try:
            path = parse_tile_path(request.scope["path"].removeprefix(prefix))
        except MalformedError as exc:
            raise NotFoundError("this is not the path of a tile") from exc
        if request.scope["query_string"]:  # by which a cache would keep it under many names
            raise NotFoundError("this is the path of a tile, and there is nothing to ask of it (leave out the query)")
        tile = TileId(path.level or 0, path.number)
        if not await self._exists(tile, path.width, head):
            raise NotFoundError("the published checkpoint has no such tile")
        hashes = (await self._hashes(tile, head))[: path.width * HASH_BYTES]
        if path.level is None:
            content = await self._bundle(path, hashes)
        else:
            content = Content(
                size=len(hashes),
                etag=_etag_of(hashes),
                media_type=_BYTES,
                cache_control=_caching(path),
                compressible=False,
                read=lambda begin, end: bytes_in_one(hashes[begin:end]),
            )
        return await self._answer(content, request)

    async def _answer(self, content: Content, request: Request) -> Response:
        return await answer_with(content, request, compression=self._compression, piece_bytes_max=self._piece_bytes_max)

    async def _exists(self, tile: TileId, width: int, head: Head) -> bool:
        there = tile_width(tile, size=head.size)
        if width >= there:
            return width == there
        if width == TILE_WIDTH:
            return False
        shift = TILE_HEIGHT * tile.level
        first = (tile.number * TILE_WIDTH + width) << shift
        return await self._storage.was_published(first_size=first, end_size=first + (1 << shift))

    async def _hashes(self, tile: TileId, head: Head) -> bytes:
        expanded = head.edge.get(tile)
        if expanded is None:
            expanded = (await self._storage.read_tiles([tile]))[tile]
        return expanded.hashes

    async def _bundle(self, path: TilePath, hashes: bytes) -> Content:
        """The entries whose hashes these are. They are told apart by their hashes, so those make the ETag."""
        first = path.number * TILE_WIDTH
        sizes = await self._storage.read_leaf_sizes(first_index=first, end_index=first + path.width)

        async def read(begin: int, end: int) -> AsyncIterator[bytes]:
            at = index = 0
            while index < len(sizes) and at + _LENGTH_BYTES + sizes[index] <= begin:
                at += _LENGTH_BYTES + sizes[index]
                index += 1
            while at < end:
                leaves = await self._storage.read_leaves(
                    first_index=first + index, end_index=first + path.width, bytes_max=self._piece_bytes_max
                )
                if not leaves:
                    raise StorageError(f"the database has lost entry {first + index}")
                piece = b"".join([len(leaf).to_bytes(_LENGTH_BYTES, "big") + leaf for leaf in leaves])
                cut = piece[max(begin - at, 0) : end - at]
                if cut:
                    yield cut
                at += len(piece)
                index += len(leaves)

        return Content(
            size=sum(sizes) + _LENGTH_BYTES * len(sizes),
            etag=_etag_of(b"entries" + hashes),
            media_type=_BYTES,
            cache_control=_caching(path),
            compressible=True,
            read=read,
        )


def _caching(path: TilePath) -> str:
    return _FULL_CACHING if path.width == TILE_WIDTH else _PARTIAL_CACHING


def _etag_of(data: bytes) -> str:
    return sha256(data).hexdigest()[:_ETAG_HEX]
