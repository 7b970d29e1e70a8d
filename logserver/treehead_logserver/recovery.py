"""What a log does before it serves: rebuild the right edge, and hold it against what was signed.

The work does not grow with the log: of each level at most 255 hashes, each the root of one full tile below, and for the
high-water mark a handful of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.merkle import assemble, hash_leaf, plan_root
from treehead.tile import TILE_HEIGHT, TILE_WIDTH, ExpandedTile, RightEdge, TileId, TileReader, tile_levels, tiles_of
from treehead_logserver.freeze import Freeze, open_freeze, successor_in
from treehead_logserver.heads import Head
from treehead_logserver.storage.base import TreeState

READ_BYTES_MAX = 1_048_576


class TreeReading(Protocol):
    """What is read of a database here: see `storage.base.Reading`."""

    async def read_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]: ...

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]: ...


class RolledBackError(StorageError):
    """The database is older than what the log has signed: to go on from it would fork the log."""


async def recover_edge(storage: TreeReading, state: TreeState, *, vkey: VerifierKey) -> RightEdge:
    """The right edge of the tree that `state` describes.

    Checked: that the checkpoint is signed by `vkey`, and that size and root of the edge are what it says. Not checked:
    entries and tiles further left, and the look-up tables.

    Raises:
        StorageError: something is missing, or does not fit together; the log must not be served.
    """
    try:
        checkpoint = open_checkpoint(state.checkpoint, key=vkey)
    except (MalformedError, SignatureError) as exc:
        raise StorageError(f"the database's checkpoint is not by {vkey.name}: {exc}") from exc
    if checkpoint.size != state.size:
        raise StorageError(f"the database has {state.size} entries, and its checkpoint {checkpoint.size}")
    edge = await _edge_at(storage, state.size)
    if edge.root() != checkpoint.root or edge.compact_range() != state.compact_range:
        raise StorageError(
            f"the database's newest entries and tiles do not make the tree of size {state.size} that its checkpoint "
            "signs: it is damaged, so restore a copy"
        )
    return edge


async def recover_published(storage: TreeReading, note: bytes, *, edge: RightEdge, vkey: VerifierKey) -> Head:
    """The head of the checkpoint that was published last, which is of the tree that ends in `edge` or a smaller one.

    Raises:
        StorageError: it is not signed by `vkey`, or of another tree, or something is missing.
    """
    try:
        checkpoint = open_checkpoint(note, key=vkey)
    except (MalformedError, SignatureError) as exc:
        raise StorageError(f"the database's published checkpoint is not by {vkey.name}: {exc}") from exc
    if checkpoint.size > edge.size:
        raise StorageError(
            f"the database has {edge.size} entries, and has published a checkpoint of {checkpoint.size}: it is damaged"
        )
    if checkpoint.size < edge.size:
        edge = await _edge_at(storage, checkpoint.size)
    if edge.root() != checkpoint.root:
        raise StorageError(
            f"the database has published another tree of size {checkpoint.size} than it has: it is damaged, "
            "so restore a copy"
        )
    return Head.of(edge, checkpoint=note)


def recover_freeze(note: bytes | None, *, edge: RightEdge, vkey: VerifierKey) -> Freeze | None:
    """What the note in the database says that ended the log with the tree that ends in `edge`; None if there is none.

    Raises:
        StorageError: it is not signed by `vkey`, ends nothing, or is of another tree.
    """
    if note is None:
        return None
    freeze = open_freeze(note, vkey=vkey)
    if freeze.size != edge.size:
        raise _grown(freeze.size, edge.size)
    if freeze.root != edge.root():
        raise StorageError(
            f"the database has another tree of size {edge.size} than the one that the log was frozen with: "
            "it is damaged, so restore a copy"
        )
    return freeze


def is_freeze_lost(freeze: Freeze | None, mark: Checkpoint, *, edge: RightEdge) -> bool:
    """Whether the mark says that the log was frozen with this very tree, and its database says nothing of it.

    Then a copy from before the end was put back. Not checked: that the tree contains the marked one; see `check_mark`.

    Raises:
        StorageError: the mark's note is damaged, or the tree has grown beyond it, or the two name different successors.
    """
    successor = successor_in(mark)
    if successor is None:
        return False
    if mark.size < edge.size:
        raise _grown(mark.size, edge.size)
    if freeze is not None and freeze.successor != successor:
        raise StorageError(
            f"the log was frozen twice: its database names {freeze.successor} as the successor, and its high-water "
            f"mark {successor}"
        )
    return freeze is None and mark.size == edge.size


def _grown(frozen: int, size: int) -> StorageError:
    return StorageError(
        f"the log was frozen at {frozen} entries, and its database has {size}: a log ends with its last tree"
    )


async def _edge_at(storage: TreeReading, size: int) -> RightEdge:
    """The right edge that the tree had at a size; its leaves and tiles are read, and not held against a checkpoint."""
    partial = [await _leaf_hashes(storage, size)]
    for level in range(1, tile_levels(size)):
        partial.append(await _tile_roots(storage, level, size))
    return RightEdge.resume(size=size, partial=partial)


async def check_mark(storage: TreeReading, edge: RightEdge, mark: Checkpoint) -> None:
    """Returns only if the tree that ends in `edge` is the marked one, or one that it has grown into.

    Raises:
        RolledBackError: the tree is smaller.
        StorageError: it is another, or a tile cannot be read.
    """
    if edge.size < mark.size:
        raise RolledBackError(
            f"the database has {edge.size} entries, but this log has signed a tree of {mark.size}: an older copy was "
            "put back, and to go on from it would fork the log"
        )
    root = edge.root()
    if 0 < mark.size < edge.size:
        plan = plan_root(mark.size)
        partial = edge.tiles()
        full = await storage.read_tiles(sorted(tiles_of(plan) - partial.keys()))
        (root,) = assemble(plan, TileReader(partial, full))
    if mark.size and root != mark.root:
        raise StorageError(
            f"the database has another tree of size {mark.size} than the one that this log has signed: "
            "it is another log's, or damaged"
        )


async def _leaf_hashes(storage: TreeReading, size: int) -> list[bytes]:
    begin = size - size % TILE_WIDTH
    hashes: list[bytes] = []
    while begin + len(hashes) < size:
        leaves = await storage.read_leaves(first_index=begin + len(hashes), end_index=size, bytes_max=READ_BYTES_MAX)
        if not leaves:
            raise StorageError(f"the database has lost entry {begin + len(hashes)}")
        hashes.extend(map(hash_leaf, leaves))
    return hashes


async def _tile_roots(storage: TreeReading, level: int, size: int) -> list[bytes]:
    """The hashes of the unfilled tile of a level above 0: the roots of the newest full tiles of the level below."""
    end = size >> (TILE_HEIGHT * level)
    tiles = [TileId(level - 1, number) for number in range(end - end % TILE_WIDTH, end)]
    roots = []
    for tile, stored in (await storage.read_tiles(tiles)).items():
        # Hashed anew: a few dozen ms at most, and the newest tiles are those that a crash could have harmed.
        expanded = ExpandedTile.of(stored.hashes)
        if expanded != stored:
            raise StorageError(f"tile {tile.level}/{tile.number} is damaged: its inner nodes are not its hashes'")
        roots.append(expanded.rows[-1])
    return roots
