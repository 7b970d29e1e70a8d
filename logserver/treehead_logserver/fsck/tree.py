"""The tree that the entries make, grown anew and held against the tiles that are stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from treehead.merkle import HASH_BYTES
from treehead.tile import (
    EXPANDED_BYTES,
    LEVEL_MAX,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    ExpandedTile,
    RightEdge,
    TileId,
    format_expanded_tile,
    tile_width,
)
from treehead_logserver.fsck.findings import Findings
from treehead_logserver.snapshot import READ_ERRORS
from treehead_logserver.storage.rows import place_of, tile_at

DAMAGED_MAX = 65_536

_UNKNOWN = bytes(HASH_BYTES)


class Tree:
    """Grows by chunks, each of the entries of one tile; the last may be shorter.

    Where entries and their tile disagree, and the tile is in order in itself, that is a finding about the entries, and
    the tree goes on from what the tile says of them: what else is found is then not a consequence of it.

    Attributes:
        edge: the right edge so far.
        roots: the roots that the tree had at the sizes asked for, as far as it has come.
        is_known: whether there is a hash for every entry; if not, the roots mean nothing.
        damaged: entries that are not there, or not what they were; there is a finding about each. Not more than
            `DAMAGED_MAX` are kept.
    """

    def __init__(self, connection: sqlite3.Connection, findings: Findings, *, sizes: Collection[int]) -> None:
        """`sizes` are those at which the root is wanted."""
        self.edge = RightEdge()
        self.roots: dict[int, bytes] = {}
        self.is_known = True
        self.damaged: set[int] = set()
        self._connection = connection
        self._findings = findings
        self._sizes = sorted(sizes)
        self._note_roots(())

    def append(self, hashes: Sequence[bytes | None]) -> None:
        """Grow by a chunk; None stands for the hash of an entry that is not there."""
        edge = self.edge.copy()
        self.add_damaged(index for index, hash_ in enumerate(hashes, edge.size) if hash_ is None)
        grown = edge.append(hash_ or _UNKNOWN for hash_ in hashes)
        if len(hashes) == TILE_WIDTH:
            tile = TileId(0, self.edge.size // TILE_WIDTH)
            stored = self._read(tile)
            if None in hashes or stored != format_expanded_tile(grown[tile]):
                hashes = self._reconciled(tile, stored, hashes)
                edge = self.edge.copy()
                grown = edge.append(hash_ or _UNKNOWN for hash_ in hashes)
            del grown[tile]
        self.is_known = self.is_known and None not in hashes
        self._note_roots([hash_ or _UNKNOWN for hash_ in hashes])
        self.edge = edge
        for tile, expanded in grown.items():
            stored = self._read(tile)
            if self.is_known and stored is not None and stored != format_expanded_tile(expanded):
                self._findings.add(_name(tile), "is not what the tiles below it give")

    def add_damaged(self, indices: Iterable[int]) -> None:
        """Some entries are damaged."""
        self.damaged.update(islice(indices, DAMAGED_MAX - len(self.damaged)))

    def check_surplus(self, size: int) -> int:
        """Look for tiles that a tree of `size` does not have; returns how many there are in all."""
        count = 0
        try:
            for (place,) in self._connection.execute("select place from tiles order by place"):
                count += 1
                tile = tile_at(place)
                known = 0 <= tile.level <= LEVEL_MAX // TILE_HEIGHT
                if not known or tile_width(tile, size=size) < TILE_WIDTH:
                    self._findings.add(_name(tile), f"has no place in a tree of size {size}")
        except READ_ERRORS as exc:
            self._findings.add("tiles", f"cannot be read: {exc}")
        return count

    def _note_roots(self, hashes: Sequence[bytes]) -> None:
        """Note the roots at the sizes that appending these hashes will pass."""
        begin = self.edge.size
        while self._sizes and self._sizes[0] <= begin + len(hashes):
            size = self._sizes.pop(0)
            edge = self.edge.copy()
            edge.append(hashes[: size - begin])
            self.roots[size] = edge.root()

    def _read(self, tile: TileId) -> bytes | None:
        """The bytes of a stored tile."""
        try:
            row = self._connection.execute("select hashes from tiles where place = ?", (place_of(tile),)).fetchone()
        except READ_ERRORS as exc:
            self._findings.add(_name(tile), f"cannot be read: {exc}")
            return None
        if row is None:
            self._findings.add(_name(tile), "is missing")
            return None
        if not isinstance(row[0], bytes) or len(row[0]) != EXPANDED_BYTES:
            self._findings.add(_name(tile), f"is not {EXPANDED_BYTES} bytes")
            return None
        return row[0]

    def _reconciled(self, tile: TileId, stored: bytes | None, hashes: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """The hashes to go on with, where those of the entries do not make the stored tile."""
        if stored is None:
            return hashes
        claimed = stored[:TILE_BYTES]
        if format_expanded_tile(ExpandedTile.of(claimed)) != stored:
            self._findings.add(_name(tile), "is not what its entries hash to, and its own nodes do not fit together")
            return hashes
        result = [claimed[at : at + HASH_BYTES] for at in range(0, TILE_BYTES, HASH_BYTES)]
        for index, (derived, hash_) in enumerate(zip(hashes, result, strict=True), tile.number * TILE_WIDTH):
            if derived is not None and derived != hash_:
                self._findings.add(f"entry {index}", f"does not hash to what {_name(tile)} has for it")
                self.add_damaged([index])
        return result


def _name(tile: TileId) -> str:
    return f"tile {tile.level}/{tile.number}"
