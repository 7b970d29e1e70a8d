"""Tiles: the hashes of a log in immutable pieces of 256, as C2SP tlog-tiles lays them out.

The tile (level, number) holds the hashes of the complete subtrees of height `8 * level` from number `256 * number` on.
A full tile never changes. The one tile of each level that is still filling up is the log's *right edge*; it is kept in
memory and can be rebuilt from full tiles and the newest entries, so a store keeps full tiles only.

    tile/<level>/<number>[.p/<width>]         width * 32 bytes
    tile/entries/<number>[.p/<width>]         width times: uint16 big-endian length, entry
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from treehead.encoding import parse_decimal
from treehead.errors import MalformedError, StorageError
from treehead.merkle import HASH_BYTES, CompactRange, NodeId, Plan, hash_children

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * HASH_BYTES
LEVEL_MAX = 63
ENTRY_BYTES_MAX = 65_535
"""An entry's length is a uint16 in an entry bundle."""

_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<number>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?"
)


class TileId(NamedTuple):
    """A hash tile: `level` counts in steps of eight tree levels, `number` from the left."""

    level: int
    number: int


class TilePath(NamedTuple):
    """What a tlog-tiles path names: `level` is None for an entry bundle, `width` is 256 for a full tile."""

    level: int | None
    number: int
    width: int


def format_tile_path(path: TilePath) -> str:
    """Print the path of a tile or entry bundle, relative to the log's prefix (C2SP tlog-tiles)."""
    digits = str(path.number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    spelled = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    level = "entries" if path.level is None else str(path.level)
    return f"tile/{level}/{spelled}" + ("" if path.width == TILE_WIDTH else f".p/{path.width}")


def parse_tile_path(text: str) -> TilePath:
    """Parse such a path.

    Raises:
        MalformedError: text is anything but what `format_tile_path` prints for a level up to 63 and a width of 1 to
        256.
    """
    match = _PATH.fullmatch(text) if len(text) <= 64 and text.isascii() else None
    if match is None:
        raise MalformedError("not the path of a tile")
    level = None if match["level"] == "entries" else parse_decimal(match["level"], what="tile level", maximum=LEVEL_MAX)
    number = parse_decimal(match["number"].replace("x", "").replace("/", "").lstrip("0") or "0", what="tile number")
    width = TILE_WIDTH
    if match["width"] is not None:
        width = parse_decimal(match["width"], what="tile width", maximum=TILE_WIDTH - 1)
    path = TilePath(level, number, width)
    if width == 0 or format_tile_path(path) != text:
        raise MalformedError("not the path of a tile")
    return path


def tile_width(tile: TileId, *, size: int) -> int:
    """How many hashes the tile has in a tree of `size` leaves, from 0 (not there) to 256 (full)."""
    hashes = size >> (TILE_HEIGHT * tile.level)
    return min(max(hashes - tile.number * TILE_WIDTH, 0), TILE_WIDTH)


def split_hashes(data: bytes) -> tuple[bytes, ...]:
    """The hashes of a tile's bytes.

    Raises:
        MalformedError: data is not 1 to 256 whole hashes.
    """
    if not 0 < len(data) <= TILE_BYTES or len(data) % HASH_BYTES:
        raise MalformedError(f"a tile has 1 to {TILE_WIDTH} hashes of {HASH_BYTES} bytes, not {len(data)} bytes")
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def format_entry_bundle(entries: Sequence[bytes]) -> bytes:
    """Print 1 to 256 entries as an entry bundle, the exact inverse of `parse_entry_bundle`."""
    if not 0 < len(entries) <= TILE_WIDTH or any(len(entry) > ENTRY_BYTES_MAX for entry in entries):
        raise ValueError(f"a bundle has 1 to {TILE_WIDTH} entries of at most {ENTRY_BYTES_MAX} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def parse_entry_bundle(data: bytes) -> tuple[bytes, ...]:
    """Parse an entry bundle of 1 to 256 entries.

    Raises:
        MalformedError: a length points beyond the end, or there are no entries, or too many.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        begin = at + 2
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > len(data) or at > len(data) or len(entries) == TILE_WIDTH:
            raise MalformedError("entry bundle is truncated or has more than 256 entries")
        entries.append(data[begin:at])
    if not entries:
        raise MalformedError("entry bundle is empty")
    return tuple(entries)


class ExpandedTile:
    """A tile with its inner nodes hashed once, so that reading a node is a lookup."""

    __slots__ = ("levels",)

    def __init__(self, hashes: Sequence[bytes]) -> None:
        levels = [tuple(hashes)]
        while len(below := levels[-1]) > 1:
            levels.append(tuple(map(hash_children, below[0:-1:2], below[1::2])))
        self.levels = tuple(levels)


class TileReader:
    """A `merkle.HashReader` over expanded tiles that are already at hand."""

    def __init__(self, tiles: Mapping[TileId, ExpandedTile]) -> None:
        self._tiles = tiles

    def read_hashes(self, nodes: Sequence[NodeId]) -> Sequence[bytes]:
        """See `merkle.HashReader`."""
        return [self._read(node) for node in nodes]

    def _read(self, node: NodeId) -> bytes:
        tile, level = tile_of(node), node.level % TILE_HEIGHT
        try:
            return self._tiles[tile].levels[level][node.number - (tile.number << (TILE_HEIGHT - level))]
        except (KeyError, IndexError) as exc:
            raise StorageError(f"tile {tile.level}/{tile.number} lacks node {node.level}/{node.number}") from exc


def tile_of(node: NodeId) -> TileId:
    """The tile from which a node's hash can be read or computed."""
    return TileId(node.level // TILE_HEIGHT, node.number >> (TILE_HEIGHT - node.level % TILE_HEIGHT))


def tiles_of(plan: Plan) -> frozenset[TileId]:
    """The tiles that a proof reads."""
    return frozenset(tile_of(node) for part in plan for node in part)


class RightEdge:
    """The growing end of a tiled tree: its compact range, and the hashes of the one unfilled tile of each level."""

    __slots__ = ("_partial", "_range")

    def __init__(self) -> None:
        self._range = CompactRange()
        self._partial: list[list[bytes]] = []

    @classmethod
    def resume(cls, *, size: int, partial: Sequence[Sequence[bytes]]) -> RightEdge:
        """The edge of a tree of `size`, from the hashes of the unfilled tile of each level, lowest first.

        `partial[level]` holds `tile_width` hashes of the tile, and may be empty.

        Raises:
            ValueError: the number of hashes does not fit the size.
        """
        edge = cls()
        edge._partial = [list(hashes) for hashes in partial]
        widths = [(size >> (TILE_HEIGHT * level)) % TILE_WIDTH for level in range(len(partial))]
        if widths != [len(hashes) for hashes in partial] or size >> (TILE_HEIGHT * len(partial)):
            raise ValueError(f"partial tiles do not fit a tree of size {size}")
        hashes: list[bytes] = []
        for row in reversed(edge._partial):
            at = 0
            for bit in reversed(range(TILE_HEIGHT)):
                if len(row) >> bit & 1:
                    hashes.append(ExpandedTile(row[at : at + (1 << bit)]).levels[bit][0])
                    at += 1 << bit
        edge._range = CompactRange(size=size, hashes=hashes)
        return edge

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._range.size

    def root(self) -> bytes:
        """The root of the tree."""
        return self._range.root()

    def compact_range(self) -> tuple[bytes, ...]:
        """The roots of the maximal complete subtrees, largest first."""
        return self._range.hashes

    def append(self, leaf_hashes: Iterable[bytes]) -> dict[TileId, bytes]:
        """Add leaves; returns the bytes of the tiles that became full."""
        full: dict[TileId, bytes] = {}
        for leaf_hash in leaf_hashes:
            for level, hash_ in enumerate(self._range.append(leaf_hash)[::TILE_HEIGHT]):
                if level == len(self._partial):
                    self._partial.append([])
                row = self._partial[level]
                row.append(hash_)
                if len(row) == TILE_WIDTH:
                    number = (self._range.size >> (TILE_HEIGHT * (level + 1))) - 1
                    full[TileId(level, number)] = b"".join(row)
                    row.clear()
        return full

    def tiles(self) -> dict[TileId, tuple[bytes, ...]]:
        """The unfilled tiles that are not empty."""
        return {
            TileId(level, self.size >> (TILE_HEIGHT * (level + 1))): tuple(row)
            for level, row in enumerate(self._partial)
            if row
        }

    def copy(self) -> RightEdge:
        """An independent copy, to be dropped if what it was made for does not become durable."""
        edge = RightEdge()
        edge._range = self._range.copy()
        edge._partial = [row.copy() for row in self._partial]
        return edge
