"""Tiles: the hashes of a log in immutable pieces of 256, as C2SP tlog-tiles lays them out.

The tile (level, number) holds the hashes of the complete subtrees of height `8 * level` from number `256 * number` on.
A full tile never changes. The one tile of each level that is still filling up is the log's *right edge*; it is kept in
memory and can be rebuilt from full tiles and the newest entries, so a store keeps full tiles only.

    tile/<level>/<number>[.p/<width>]         width * 32 bytes
    tile/entries/<number>[.p/<width>]         width times: uint16 big-endian length, entry

Appending computes the inner nodes of a tile anyway, and a proof needs little else. So tiles are kept in memory, and may
be stored, *expanded*: row after row, from the 256 hashes of the tile to the one hash at its top.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

from treehead.encoding import parse_decimal
from treehead.errors import MalformedError, StorageError
from treehead.merkle import HASH_BYTES, NodeId, Plan, fold_roots

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * HASH_BYTES
EXPANDED_BYTES = 2 * TILE_BYTES - HASH_BYTES
"""A full tile with its inner nodes: 256 hashes, 128, and so on to the one that stands for it in the level above."""
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


def tile_levels(size: int) -> int:
    """How many levels of tiles, full or not, a tree of `size` has."""
    return -(-size.bit_length() // TILE_HEIGHT)


def tile_above(tile: TileId) -> TileId:
    """The tile that has the top of this one among its hashes, once this one is full."""
    return TileId(tile.level + 1, tile.number // TILE_WIDTH)


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


class MissingTileError(StorageError):
    """A proof needs a tile that is not at hand.

    Attributes:
        tile: which.
    """

    def __init__(self, tile: TileId) -> None:
        super().__init__(f"tile {tile.level}/{tile.number} is not there")
        self.tile = tile


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpandedTile:
    """A tile with its inner nodes, so that reading a node is a look-up.

    `rows[k]` holds the hashes of height k above the tile's own, one after the other: complete nodes only.
    """

    rows: tuple[bytes, ...]

    @classmethod
    def of(cls, hashes: bytes) -> ExpandedTile:
        """The tile with these hashes, full or not; its inner nodes are computed.

        Raises:
            MalformedError: hashes is not 1 to 256 whole hashes.
        """
        if not 0 < len(hashes) <= TILE_BYTES or len(hashes) % HASH_BYTES:
            raise MalformedError(f"a tile has 1 to {TILE_WIDTH} hashes of {HASH_BYTES} bytes, not {len(hashes)} bytes")
        rows = [hashes]
        while len(below := rows[-1]) > HASH_BYTES:
            rows.append(_pairs(below, 0))
        return cls(rows=tuple(rows))

    @property
    def hashes(self) -> bytes:
        """The tile as tlog-tiles serves it."""
        return self.rows[0]


def format_expanded_tile(tile: ExpandedTile) -> bytes:
    """Print a full tile with its inner nodes, row by row."""
    return b"".join(tile.rows)


def parse_expanded_tile_unverified(data: bytes) -> ExpandedTile:
    """Take what `format_expanded_tile` printed apart. Not checked: that the inner nodes are what the tile hashes to.

    Raises:
        MalformedError: data does not have the length of a full tile.
    """
    if len(data) != EXPANDED_BYTES:
        raise MalformedError(f"a full tile with its inner nodes has {EXPANDED_BYTES} bytes, not {len(data)}")
    return ExpandedTile(rows=tuple([data[begin:end] for begin, end in _ROWS]))


_ROWS = [(2 * TILE_BYTES - (2 * TILE_BYTES >> k), 2 * TILE_BYTES - (TILE_BYTES >> k)) for k in range(TILE_HEIGHT + 1)]
"""Where each row begins and ends in the bytes of an expanded tile."""


def _pairs(below: bytes | bytearray, begin: int) -> bytes:
    """The parents of the whole pairs of hashes in a row, from byte `begin` on; a hash without a sibling has none."""
    end = len(below) - HASH_BYTES
    return b"".join([sha256(b"\x01" + below[at : at + 64]).digest() for at in range(begin, end, 64)])


class TileReader:
    """A `merkle.HashReader` over expanded tiles that are already at hand, looked for in one mapping after the other."""

    def __init__(self, *shelves: Mapping[TileId, ExpandedTile]) -> None:
        self._shelves = shelves

    def read_hashes(self, nodes: Sequence[NodeId]) -> Sequence[bytes]:
        """See `merkle.HashReader`.

        Raises:
            MissingTileError: a tile is not at hand.
            StorageError: a tile is not as wide as it would have to be.
        """
        hashes: list[bytes] = []
        held: tuple[int, int] | None = None
        rows: tuple[bytes, ...] = ()
        # A node is a twentieth of a proof, so this is tile_of and the place in the tile's row, spelled out.
        for level, number in nodes:
            height = level & 7
            wanted = (level >> 3, number >> (8 - height))
            if wanted != held:
                rows, held = self._find(wanted), wanted
            at = (number & (255 >> height)) << 5
            hashes.append(rows[height][at : at + 32] if height < len(rows) else b"")
        for node, hash_ in zip(nodes, hashes, strict=True):
            if len(hash_) != HASH_BYTES:
                tile = tile_of(node)
                raise StorageError(f"tile {tile.level}/{tile.number} lacks node {node.level}/{node.number}")
        return hashes

    def _find(self, wanted: tuple[int, int]) -> tuple[bytes, ...]:
        for shelf in self._shelves:
            tile = shelf.get(wanted)  # type: ignore[call-overload] # a TileId is the tuple of the same numbers
            if tile is not None:
                return tile.rows  # type: ignore[no-any-return]
        raise MissingTileError(TileId(*wanted))


def tile_of(node: NodeId) -> TileId:
    """The tile from which a node's hash can be read."""
    return TileId(node.level // TILE_HEIGHT, node.number >> (TILE_HEIGHT - node.level % TILE_HEIGHT))


def tiles_of(plan: Plan) -> frozenset[TileId]:
    """The tiles that a proof reads."""
    return frozenset(tile_of(node) for part in plan for node in part)


class RightEdge:
    """The growing end of a tiled tree: of each level the one unfilled tile, expanded.

    Nothing else is needed to append, and for the root: the maximal complete subtrees are the nodes without a sibling in
    these tiles.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._levels: list[list[bytearray]] = []
        """For each level of tiles the rows of the unfilled one, without the row of its top."""

    @classmethod
    def resume(cls, *, size: int, partial: Sequence[Sequence[bytes]]) -> RightEdge:
        """The edge of a tree of `size`, from the hashes of the unfilled tile of each level, lowest first.

        `partial[level]` holds `tile_width` hashes of the tile, and may be empty.

        Raises:
            ValueError: the number of hashes does not fit the size.
        """
        widths = [(size >> (TILE_HEIGHT * level)) % TILE_WIDTH for level in range(len(partial))]
        if widths != [len(hashes) for hashes in partial] or size >> (TILE_HEIGHT * len(partial)):
            raise ValueError(f"partial tiles do not fit a tree of size {size}")
        edge = cls()
        edge._size = size
        for hashes in partial:
            rows = _empty_rows()
            rows[0] += b"".join(hashes)
            _complete(rows)
            edge._levels.append(rows)
        return edge

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    def root(self) -> bytes:
        """The root of the tree."""
        return fold_roots(self.compact_range())

    def compact_range(self) -> tuple[bytes, ...]:
        """The roots of the maximal complete subtrees, largest first."""
        return tuple(
            bytes(row[-HASH_BYTES:])
            for rows in reversed(self._levels)
            for row in reversed(rows)
            if len(row) // HASH_BYTES % 2
        )

    def append(self, leaf_hashes: Iterable[bytes]) -> dict[TileId, ExpandedTile]:
        """Add leaves; returns the tiles that became full."""
        full: dict[TileId, ExpandedTile] = {}
        hashes = b"".join(leaf_hashes)
        number = self._size >> TILE_HEIGHT
        self._size += len(hashes) // HASH_BYTES
        level = 0
        while hashes:
            if level == len(self._levels):
                self._levels.append(_empty_rows())
            tops: list[bytes] = []
            for tile in self._fill(level, hashes):
                full[TileId(level, number + len(tops))] = tile
                tops.append(tile.rows[-1])
            hashes = b"".join(tops)
            number >>= TILE_HEIGHT
            level += 1
        return full

    def _fill(self, level: int, hashes: bytes) -> list[ExpandedTile]:
        """Add hashes to the unfilled tile of a level, and go on with a new one as often as it becomes full."""
        full = []
        at = 0
        while at < len(hashes):
            rows = self._levels[level]
            begin, at = at, at + TILE_BYTES - len(rows[0])
            rows[0] += hashes[begin:at]
            _complete(rows)
            if len(rows[0]) == TILE_BYTES:
                full.append(ExpandedTile(rows=(*map(bytes, rows), _pairs(rows[-1], 0))))
                self._levels[level] = _empty_rows()
        return full

    def tiles(self) -> dict[TileId, ExpandedTile]:
        """The unfilled tiles that are not empty."""
        return {
            TileId(level, self._size >> (TILE_HEIGHT * (level + 1))): ExpandedTile(
                rows=tuple(bytes(row) for row in rows if row)
            )
            for level, rows in enumerate(self._levels)
            if rows[0]
        }

    def copy(self) -> RightEdge:
        """An independent copy, to be dropped if what it was made for does not become durable."""
        edge = RightEdge()
        edge._size = self._size
        edge._levels = [[row.copy() for row in rows] for rows in self._levels]
        return edge


def _empty_rows() -> list[bytearray]:
    return [bytearray() for _ in range(TILE_HEIGHT)]


def _complete(rows: list[bytearray]) -> None:
    """Add the inner nodes that the hashes at the bottom have made complete."""
    for below, above in pairwise(rows):
        above += _pairs(below, 2 * len(above))
