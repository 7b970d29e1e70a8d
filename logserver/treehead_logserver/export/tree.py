"""The published tree of a log, read from its database top-down: nothing of it leaves that the log has not signed.

    checkpoint ── root ── unfilled tiles ── full tiles ── full tiles of the level below ── … ── entries

The unfilled tiles together make the root that the checkpoint signs. Each hash in a tile says what a tile below has to
hash to, and each hash at the bottom what an entry has to. So the tree can be read in pieces, at different moments, and
each piece is known to be right before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.merkle import EMPTY_ROOT, HASH_BYTES, assemble, hash_leaf, plan_root
from treehead.tile import (
    TILE_HEIGHT,
    TILE_WIDTH,
    ExpandedTile,
    RightEdge,
    TileId,
    TilePath,
    TileReader,
    format_entry_bundle,
    tile_above,
    tile_levels,
    tiles_of,
)
from treehead_logserver.snapshot import Snapshot

PIECE_TILES_MAX = 64
PIECE_BYTES_MAX = 16_777_216
"""A piece ends when its entries have so many bytes, or it is so many tiles wide: it is to be read in some 0.1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A published checkpoint and the part of its tree that is not full: what its root is made of.

    Attributes:
        note: the checkpoint as it is published, with all its signatures.
        checkpoint: what it says; the log has signed it.
        edge: the unfilled tiles.
        newest: the entries that have no full tile yet.
    """

    note: bytes
    checkpoint: Checkpoint
    edge: Mapping[TileId, ExpandedTile]
    newest: Sequence[bytes]


class Piece(NamedTuple):
    """Files of a tree, and the number of the level-0 tile that comes next."""

    files: Sequence[tuple[TilePath, bytes]]
    end: int


def read_publication(snapshot: Snapshot, *, vkey: VerifierKey, known: bytes | None) -> Publication | None:
    """The checkpoint that is published now, and the edge of its tree; None if it is `known`, or there is none yet.

    Raises:
        StorageError: it is not signed by `vkey`, or the database does not have its tree.
    """
    note = snapshot.read_published()
    if note == known:
        return None
    if note is None:
        raise StorageError(
            f"{snapshot.path} has lost the checkpoint that was published: see what treehead-log fsck says"
        )
    try:
        checkpoint = open_checkpoint(note, key=vkey)
    except (MalformedError, SignatureError) as exc:
        raise StorageError(f"the database's published checkpoint is not by {vkey.name}: {exc}") from exc
    size = checkpoint.size
    first = size - size % TILE_WIDTH
    newest = snapshot.load_leaves(first_index=first, end_index=size)
    if len(newest) != size - first:
        raise StorageError(f"the database has lost entry {first + len(newest)}")
    below = [
        snapshot.load_tiles([TileId(level - 1, number) for number in _unfilled(level, size)])
        for level in range(1, tile_levels(size))
    ]
    tops = [[tile.rows[-1] for tile in tiles.values()] for tiles in below]
    edge = RightEdge.resume(size=size, partial=[[*map(hash_leaf, newest)], *tops])
    if edge.root() != checkpoint.root:
        for tiles in below:
            for tile, expanded in tiles.items():
                _check_nodes(tile, expanded)
        raise StorageError(
            f"the newest entries and tiles of the published tree of size {size} do not make the root that is signed: "
            f"entries from {first} on are damaged, or a tile that is new in it"
        )
    return Publication(note=note, checkpoint=checkpoint, edge=edge.tiles(), newest=newest)


def _unfilled(level: int, size: int) -> range:
    """The numbers of the tiles of the level below that the unfilled tile of a level has the hashes of."""
    end = size >> (TILE_HEIGHT * level)
    return range(end - end % TILE_WIDTH, end)


class SignedTree:
    """Reads what a publication signs, and nothing else. Each method raises StorageError if that is not there."""

    def __init__(self, publication: Publication) -> None:
        self._publication = publication
        self._chain: dict[int, tuple[TileId, ExpandedTile]] = {}
        """Of each level the full tile that was read last."""

    @property
    def size(self) -> int:
        """The number of entries."""
        return self._publication.checkpoint.size

    def root_at(self, snapshot: Snapshot, size: int) -> bytes:
        """The root that the tree had when it was of `size`, which is not larger."""
        if not size:
            return EMPTY_ROOT
        plan = plan_root(size)
        return assemble(plan, TileReader({tile: self._tile(snapshot, tile) for tile in tiles_of(plan)}))[0]

    def read_piece(self, snapshot: Snapshot, begin: int) -> Piece:
        """Bundles of entries and their tiles from level-0 tile `begin` on, and the tiles above that end with these."""
        files: list[tuple[TilePath, bytes]] = []
        size_bytes = 0
        number = begin
        while number < min(begin + PIECE_TILES_MAX, self.size // TILE_WIDTH) and size_bytes < PIECE_BYTES_MAX:
            tile = TileId(0, number)
            hashes = self._tile(snapshot, tile).hashes
            first = number * TILE_WIDTH
            leaves = snapshot.load_leaves(first_index=first, end_index=first + TILE_WIDTH)
            _check_leaves(tile, hashes, leaves)
            bundle = format_entry_bundle(leaves)
            files += [(TilePath(None, number, TILE_WIDTH), bundle), (TilePath(0, number, TILE_WIDTH), hashes)]
            for above in _ending_with(number):
                hashes = self._tile(snapshot, above).hashes
                files.append((TilePath(above.level, above.number, TILE_WIDTH), hashes))
            size_bytes += len(bundle)
            number += 1
        return Piece(files, number)

    def partial_files(self) -> Sequence[tuple[TilePath, bytes]]:
        """The tiles that are not full, and the bundle that is not."""
        files = [
            (TilePath(tile.level, tile.number, len(expanded.hashes) // HASH_BYTES), expanded.hashes)
            for tile, expanded in self._publication.edge.items()
        ]
        newest = self._publication.newest
        if newest:
            files.append((TilePath(None, self.size // TILE_WIDTH, len(newest)), format_entry_bundle(newest)))
        return files

    def _tile(self, snapshot: Snapshot, tile: TileId) -> ExpandedTile:
        """The tile, which its parent vouches for, and that one its own, and so on to the edge."""
        lacking = []
        while (known := self._known(tile)) is None:
            lacking.append(tile)
            tile = tile_above(tile)
        for tile in reversed(lacking):
            parent, known = known, snapshot.load_tiles([tile])[tile]
            _check_nodes(tile, known)
            at = tile.number % TILE_WIDTH * HASH_BYTES
            if parent.hashes[at : at + HASH_BYTES] != known.rows[-1]:
                raise StorageError(f"{_name(tile)} is not what {_name(tile_above(tile))} has for it")
            self._chain[tile.level] = tile, known
        return known

    def _known(self, tile: TileId) -> ExpandedTile | None:
        found = self._publication.edge.get(tile)
        if found is None and (last := self._chain.get(tile.level)) is not None and last[0] == tile:
            found = last[1]
        return found


def _ending_with(number: int) -> Iterator[TileId]:
    """The tiles above whose last hash stands for this level-0 tile, or for one that ends with it."""
    tile = TileId(0, number)
    while tile.number % TILE_WIDTH == TILE_WIDTH - 1:
        tile = tile_above(tile)
        yield tile


def _check_nodes(tile: TileId, expanded: ExpandedTile) -> None:
    if ExpandedTile.of(expanded.hashes) != expanded:
        raise StorageError(f"{_name(tile)} is damaged: its inner nodes are not its hashes'")


def _check_leaves(tile: TileId, hashes: bytes, leaves: Sequence[bytes]) -> None:
    first = tile.number * TILE_WIDTH
    if len(leaves) != TILE_WIDTH:
        raise StorageError(f"the database has lost entry {first + len(leaves)}")
    for at, leaf in enumerate(leaves):
        if hash_leaf(leaf) != hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]:
            raise StorageError(f"entry {first + at} does not hash to what {_name(tile)} has for it")


def _name(tile: TileId) -> str:
    return f"tile {tile.level}/{tile.number}"
