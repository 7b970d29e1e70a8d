"""The tree that served entries make, held against the tiles that are served, and both against the signed root.

Two things speak of every tile: what is below it, hashed anew, and the tile above it. If both agree with what is served
for it, all is well. If not, the one above decides who is wrong, as long as a chain of tiles above it leads to the root
that the log has signed; where that chain is broken, too, nobody can tell, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from treehead.merkle import HASH_BYTES, hash_leaf
from treehead.tile import (
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    ExpandedTile,
    RightEdge,
    TileId,
    TilePath,
    format_tile_path,
    tile_above,
    tile_levels,
    tile_width,
)
from treehead_logserver.fsck.findings import Findings

_UNKNOWN = bytes(HASH_BYTES)
"""Stands for a hash in a row that has a gap, and is in no result."""


def edge_of(size: int) -> Sequence[TilePath]:
    """The tiles that are not full in a tree of `size`, uppermost first."""
    tiles = [TileId(level, size >> (TILE_HEIGHT * (level + 1))) for level in reversed(range(tile_levels(size)))]
    widths = [tile_width(tile, size=size) for tile in tiles]
    return [TilePath(*tile, width) for tile, width in zip(tiles, widths, strict=True) if width]


def resources_of(size: int) -> Iterator[TilePath]:
    """What there is but the edge, each tile before those below it, and each bundle after its tile."""
    for number in range(size // TILE_WIDTH):
        tile, beginning = TileId(0, number), []
        while not tile.number % TILE_WIDTH and tile_width(tile := tile_above(tile), size=size) == TILE_WIDTH:
            beginning.append(tile)
        yield from [TilePath(*above, TILE_WIDTH) for above in reversed(beginning)]
        yield TilePath(0, number, TILE_WIDTH)
        yield TilePath(None, number, TILE_WIDTH)
    if rest := size % TILE_WIDTH:
        yield TilePath(None, size // TILE_WIDTH, rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A tile as it is served; `is_signed` says that it leads to the signed root."""

    hashes: bytes
    top: bytes
    is_signed: bool


class ServedTree:
    """Grows by what `resources_of` its size names, in that order. What is not there is None: it was found already."""

    def __init__(self, size: int, root: bytes, edge: Mapping[TilePath, bytes | None], findings: Findings) -> None:
        """`edge` is what is served for `edge_of(size)`, and `root` what the log has signed."""
        self._size = size
        self._root = root
        self._findings = findings
        self._edge = {TileId(path.level or 0, path.number): hashes for path, hashes in edge.items()}
        self._edge_is_signed = self._root_of(self._edge) == root
        self._next = 0
        self._served: dict[int, tuple[TileId, _Served]] = {}
        """Of each level the full tile that was served last."""
        self._rows = [bytearray() for _ in range(tile_levels(size))]
        """Of each level above 0 the hashes that its tile has so far, as everything below gives them."""
        self._gaps: set[int] = set()
        """The levels of rows in which a hash is not known."""
        self._rest: bytes | None = b""
        """The hashes of the entries that do not fill a tile."""
        self._is_in_doubt = False
        """Whether a row has a hash of which nobody can tell whether it is right, as was found already."""

    def hold(self, tile: TileId, hashes: bytes) -> None:
        """A full tile is served."""
        top, claim = _top(hashes), self._signed_claim(tile)
        if claim is not None and top != claim:
            self._findings.add(self._name(tile), f"does not hash to what {self._name(tile_above(tile))} has for it")
        else:
            self._served[tile.level] = tile, _Served(hashes=hashes, top=top, is_signed=claim is not None)

    def append(self, leaves: Sequence[bytes] | None) -> None:
        """The next entries are served: those of a tile, or at the end those that do not fill one."""
        hashes = None if leaves is None else b"".join(map(hash_leaf, leaves))
        tile = TileId(0, self._next)
        if tile_width(tile, size=self._size) < TILE_WIDTH:
            self._rest = hashes
            return
        self._next += 1
        top = self._settled(tile, hashes)
        for level in range(1, len(self._rows)):
            row = self._rows[level]
            row += top or _UNKNOWN
            if top is None:
                self._gaps.add(level)
            if len(row) < TILE_BYTES:
                break
            tile = tile_above(tile)
            top = self._settled(tile, self._below(level))
            self._gaps.discard(level)
            row.clear()

    def finish(self) -> None:
        """Hold the edge against what is below it, and all of it against the root."""
        derived = {tile: self._below(tile.level) if tile.level else self._rest for tile in self._edge}
        root = self._root_of(derived)
        for tile, served in self._edge.items():
            below = derived[tile]
            if served is None or below is None or served == below:
                continue
            if self._edge_is_signed:
                self._blame_entries(tile, below, served)
            elif root == self._root:
                self._findings.add(self._name(tile), f"is not what {_parts_of(tile)} hash to")
            else:
                self._findings.add(self._name(tile), _undecided(tile))
        if root != self._root and not self._findings:
            self._findings.add("checkpoint", f"signs another tree of size {self._size} than the entries make")

    def _below(self, level: int) -> bytes | None:
        """The hashes of a row, if all of them are known."""
        return None if level in self._gaps else bytes(self._rows[level])

    def _settled(self, tile: TileId, below: bytes | None) -> bytes | None:
        """The hash of a full tile with which the tree goes on; `below` is what the tile has to be, if that is known.

        It is the one that is signed, if that can be told: what else is found is then not a consequence of this.
        """
        served = self._served_as(tile)
        if served is None:
            return self._settled_without(tile, below)
        if below is None or below == served.hashes:
            return served.top
        if served.is_signed:
            self._blame_entries(tile, below, served.hashes)
            return served.top
        self._findings.add(self._name(tile), _undecided(tile))
        self._is_in_doubt = True
        return _top(below)

    def _settled_without(self, tile: TileId, below: bytes | None) -> bytes | None:
        """The same where the tile is not there, or not what it has to be, which was found already."""
        claim = self._signed_claim(tile)
        top = None if below is None else _top(below)
        if claim is None:
            return top
        if top not in (None, claim) and not self._is_in_doubt:
            where = self._name(tile) if tile.level else self._name_of_bundle(tile)
            self._findings.add(
                where, f"{_parts_of(tile)} do not hash to what {self._name(tile_above(tile))} has for them"
            )
        self._is_in_doubt = False
        return claim

    def _blame_entries(self, tile: TileId, hashes: bytes, signed: bytes) -> None:
        pairs = zip(_split(hashes), _split(signed), strict=True)
        differing = [index for index, (one, other) in enumerate(pairs, tile.number * TILE_WIDTH) if one != other]
        which = f"entry {differing[0]} does"
        if len(differing) > 1:
            which = f"entries {differing[0]} and {len(differing) - 1} more of it do"
        self._findings.add(self._name_of_bundle(tile), f"{which} not hash to what {self._name(tile)} has")

    def _served_as(self, tile: TileId) -> _Served | None:
        held = self._served.get(tile.level)
        return None if held is None or held[0] != tile else held[1]

    def _signed_claim(self, tile: TileId) -> bytes | None:
        """What a full tile has to hash to by the tile above it, if that leads to the signed root."""
        parent = tile_above(tile)
        at = tile.number % TILE_WIDTH * HASH_BYTES
        if parent in self._edge:
            hashes = self._edge[parent] if self._edge_is_signed else None
            return None if hashes is None else hashes[at : at + HASH_BYTES]
        served = self._served_as(parent)
        return served.hashes[at : at + HASH_BYTES] if served is not None and served.is_signed else None

    def _root_of(self, edge: Mapping[TileId, bytes | None]) -> bytes | None:
        """The root of the tree whose unfilled tiles are these; None if one of them is not there."""
        partial: list[Sequence[bytes]] = [()] * tile_levels(self._size)
        for tile, hashes in edge.items():
            if hashes is None:
                return None
            partial[tile.level] = _split(hashes)
        return RightEdge.resume(size=self._size, partial=partial).root()

    def _name(self, tile: TileId) -> str:
        return format_tile_path(TilePath(*tile, tile_width(tile, size=self._size)))

    def _name_of_bundle(self, tile: TileId) -> str:
        return format_tile_path(TilePath(None, tile.number, tile_width(tile, size=self._size)))


def _top(hashes: bytes) -> bytes:
    return ExpandedTile.of(hashes).rows[-1]


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def _parts_of(tile: TileId) -> str:
    return "the tiles below it" if tile.level else "its entries"


def _undecided(tile: TileId) -> str:
    return f"is not what {_parts_of(tile)} hash to, and nothing above says which of them is wrong"
