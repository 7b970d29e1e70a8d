"""Rows of the SQLite engine as values: what is asked of a connection, and what must be there or is damage."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence

from treehead.errors import MalformedError, StorageError
from treehead.merkle import HASH_BYTES
from treehead.tile import ExpandedTile, TileId, parse_expanded_tile_unverified
from treehead_logserver.storage.base import TreeState

PUBLISHED = "published"
FREEZE = "freeze"
"""The names of notes."""

_LEVEL_BITS = 56


def place_of(tile: TileId) -> int:
    """Where a tile is stored: see `schema`."""
    return tile.level << _LEVEL_BITS | tile.number


def tile_at(place: int) -> TileId:
    """The tile that is stored there, the exact inverse of `place_of`; in a damaged file its level may be none."""
    return TileId(place >> _LEVEL_BITS, place & (1 << _LEVEL_BITS) - 1)


def stored_bytes(value: object, *, what: str) -> bytes:
    """A value that was stored as bytes. One flipped bit in a damaged file makes another type of it."""
    if not isinstance(value, bytes):
        raise StorageError(f"{what} is damaged: it is not stored as bytes")
    return value


def read_state(connection: sqlite3.Connection) -> TreeState:
    """The tree state.

    Raises:
        StorageError: it is lost or damaged, or there are several of it.
    """
    rows = connection.execute("select one, size, compact_range, checkpoint from tree limit 2").fetchall()
    if not rows:
        raise StorageError("the database has lost its tree state")
    if len(rows) > 1:
        raise StorageError("the tree state is damaged: there are several of it")
    match rows[0]:
        case (1, int(size), bytes(compact_range), bytes(checkpoint)) if size >= 0:
            hashes = tuple(compact_range[at : at + HASH_BYTES] for at in range(0, len(compact_range), HASH_BYTES))
            return TreeState(size=size, compact_range=hashes, checkpoint=checkpoint)
    raise StorageError("the tree state is damaged: it is not made of a size, hashes and a checkpoint")


def read_tiles(connection: sqlite3.Connection, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]:
    """Full tiles; not checked: that their inner nodes are those of the hashes at the bottom.

    Raises:
        StorageError: one is lost or damaged.
    """
    found = {}
    for tile in tiles:
        row = connection.execute("select hashes from tiles where place = ?", (place_of(tile),)).fetchone()
        if row is None:
            raise StorageError(f"the database has lost tile {tile.level}/{tile.number}")
        try:
            found[tile] = parse_expanded_tile_unverified(stored_bytes(row[0], what=f"tile {tile.level}/{tile.number}"))
        except MalformedError as exc:
            raise StorageError(f"tile {tile.level}/{tile.number} is damaged: {exc}") from exc
    return found


def read_leaves(connection: sqlite3.Connection, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
    """See `base.Reading`.

    Raises:
        StorageError: one is lost or damaged.
    """
    leaves: list[bytes] = []
    select = "select leaf_index, leaf from entries where leaf_index >= ? and leaf_index < ? order by leaf_index"
    with contextlib.closing(connection.execute(select, (first_index, end_index))) as rows:
        for index, leaf in rows:
            if index != first_index + len(leaves):
                raise StorageError(f"the database has lost entry {first_index + len(leaves)}")
            bytes_max -= len(stored_bytes(leaf, what=f"entry {index}"))
            if leaves and bytes_max < 0:
                break
            leaves.append(leaf)
    return leaves


def read_leaf_sizes(connection: sqlite3.Connection, first_index: int, end_index: int) -> Sequence[int]:
    """The sizes in bytes of all leaves of a range.

    Raises:
        StorageError: one is lost.
    """
    select = "select length(leaf) from entries where leaf_index >= ? and leaf_index < ? order by leaf_index"
    sizes = [size for (size,) in connection.execute(select, (first_index, end_index))]
    if len(sizes) != end_index - first_index:
        raise StorageError(f"the database has lost entries between {first_index} and {end_index}")
    return sizes


def read_note(connection: sqlite3.Connection, name: str) -> bytes | None:
    """The note of a name; None if there is none.

    Raises:
        StorageError: it is damaged.
    """
    row = connection.execute("select note from notes where name = ?", (name,)).fetchone()
    return None if row is None else stored_bytes(row[0], what=f"the note {name}")


def was_published(connection: sqlite3.Connection, first_size: int, end_size: int) -> bool:
    """Whether a checkpoint of a size in this range was ever published."""
    select = "select 1 from publications where size >= ? and size < ? limit 1"
    return connection.execute(select, (first_size, end_size)).fetchone() is not None


def find_older(
    connection: sqlite3.Connection, key: int, first_index: int, end_index: int, count_max: int
) -> Sequence[int]:
    """The smallest indices of a range that the table has for a key."""
    rows = connection.execute(
        "select leaf_index from lookups where key = ? and leaf_index >= ? and leaf_index < ?"
        " order by leaf_index limit ?",
        (key, first_index, end_index, count_max),
    )
    return [index for (index,) in rows]
