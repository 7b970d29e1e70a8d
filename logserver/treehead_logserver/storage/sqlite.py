"""The log in one SQLite file: the embedded engine.

    entries      leaf_index -> leaf
    leaf_hashes  the first 8 bytes of a leaf hash, leaf_index          narrow, so that the index stays in memory;
                                                                       a hit counts only when the whole hash agrees
    digests      algorithm, digest, leaf_index                         the artifacts that entries speak of
    tiles        level << 56 | number -> 8,192 bytes                   full ones only, written once
    tree         one row: size, compact range, signed checkpoint

One connection writes, a second one answers all reads (see `treehead.sqlite`). Nothing else may open the file while the
log runs.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from treehead.errors import StorageError
from treehead.merkle import HASH_BYTES, hash_leaf
from treehead.sqlite import Connection, Schema, create
from treehead.tile import TileId
from treehead_logserver.storage.base import Candidate, Digest, Extend, Placed, TreeState, UnknownOutcomeError

WRITE_CACHE_KIBIBYTES = 65_536
READ_CACHE_KIBIBYTES = 16_384

SCHEMA = Schema(
    owner="log",
    application_id=0x54485244,  # "THRD"
    version=1,
    statements="""
create table entries (leaf_index integer primary key, leaf blob not null);
create table leaf_hashes (
    prefix integer not null, leaf_index integer not null, primary key (prefix, leaf_index)
) without rowid;
create table digests (
    algorithm text not null, digest blob not null, leaf_index integer not null,
    primary key (algorithm, digest, leaf_index)
) without rowid;
create table tiles (place integer primary key, hashes blob not null);
create table tree (
    one integer primary key check (one = 1),
    size integer not null, compact_range blob not null, checkpoint blob not null
);
""",
)

_FIND_LEAF = (
    "select leaf_index, leaf from leaf_hashes join entries using (leaf_index) where prefix = ? order by leaf_index"
)

_P = ParamSpec("_P")
_T = TypeVar("_T")


def create_database(path: Path, state: TreeState) -> None:
    """Make the file of an empty log, durably.

    Raises:
        StorageError: it exists, or cannot be written; nothing is left behind.
    """
    create(
        path,
        SCHEMA,
        fill=lambda connection: connection.execute("insert into tree values (1, ?, ?, ?)", _state_row(state)),
    )


class SqliteStorage:
    """A `Storage` on one SQLite file. The caller has made sure that no other process uses the file."""

    def __init__(self, path: Path, *, writer: Connection, reader: Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._broken = False

    @classmethod
    async def open(cls, path: Path) -> SqliteStorage:
        """Open the file of a log.

        Raises:
            StorageError: there is none, it is no log, or one of a newer version.
        """
        writer = Connection(path, SCHEMA, cache_kibibytes=WRITE_CACHE_KIBIBYTES)
        reader = Connection(path, SCHEMA, is_writer=False, cache_kibibytes=READ_CACHE_KIBIBYTES)
        await writer.open()
        try:
            await reader.open()
        except StorageError:
            await writer.close()
            raise
        return cls(path, writer=writer, reader=reader)

    async def close(self) -> None:
        # The reader first: the last connection to close moves the WAL into the file, which only the writer may.
        await self._reader.close()
        await self._writer.close()

    async def read_state(self) -> TreeState:
        return await self._run(self._writer, _read_state)

    async def append(self, candidates: Sequence[Candidate], extend: Extend) -> Sequence[Placed]:
        try:
            return await self._run(self._writer, _append, candidates, extend)
        except UnknownOutcomeError:
            self._broken = True
            raise

    async def read_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, bytes]:
        return await self._run(self._reader, _read_tiles, tiles)

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
        return await self._run(self._reader, _read_leaves, first_index, end_index, bytes_max)

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        return await self._run(self._reader, _find_leaf, leaf_hash)

    async def find_digest(self, digest: Digest, *, first_index: int, end_index: int, count_max: int) -> Sequence[int]:
        return await self._run(self._reader, _find_digest, digest, first_index, end_index, count_max)

    async def _run(
        self,
        connection: Connection,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        if self._broken:
            raise StorageError(
                f"database {self._path} is in an unknown state since a commit failed; start the log anew"
            )
        try:
            return await connection.run(function, *args, **kwargs)
        except StorageError as exc:
            raise type(exc)(f"{self._path}: {exc}") from exc
        except sqlite3.Error as exc:
            raise StorageError(f"{self._path}: {exc}") from exc


def _state_row(state: TreeState) -> tuple[int, bytes, bytes]:
    return state.size, b"".join(state.compact_range), state.checkpoint


def _prefix(leaf_hash: bytes) -> int:
    return int.from_bytes(leaf_hash[:8], "big", signed=True)


def _place(tile: TileId) -> int:
    return tile.level << 56 | tile.number


# --- what runs on the writer's thread --------------------------------------------------------------------------------


def _read_state(connection: sqlite3.Connection) -> TreeState:
    row = connection.execute("select size, compact_range, checkpoint from tree").fetchone()
    if row is None:
        raise StorageError("the database has lost its tree state")
    size, compact_range, checkpoint = row
    hashes = tuple(compact_range[at : at + HASH_BYTES] for at in range(0, len(compact_range), HASH_BYTES))
    return TreeState(size=size, compact_range=hashes, checkpoint=checkpoint)


def _append(connection: sqlite3.Connection, candidates: Sequence[Candidate], extend: Extend) -> Sequence[Placed]:
    connection.execute("begin immediate")
    try:
        placed, fresh = _place_candidates(connection, candidates)
        if not fresh:
            connection.execute("rollback")
            return placed
        size = placed[fresh[0]].leaf_index
        extension = extend(size, [candidates[at].leaf_hash for at in fresh])
        _insert(connection, [(placed[at].leaf_index, candidates[at]) for at in fresh], extension.tiles)
        connection.execute("update tree set size = ?, compact_range = ?, checkpoint = ?", _state_row(extension.state))
    except BaseException:
        _roll_back(connection)
        raise
    try:
        connection.execute("commit")
    except sqlite3.Error as exc:
        raise UnknownOutcomeError(f"the commit failed ({exc}), and its outcome is unknown") from exc
    return placed


def _roll_back(connection: sqlite3.Connection) -> None:
    # Some errors, a full disk for one, have rolled the transaction back already.
    if connection.in_transaction:
        try:
            connection.execute("rollback")
        except sqlite3.Error as exc:
            raise UnknownOutcomeError(f"the rollback of a failed transaction failed ({exc})") from exc


def _place_candidates(
    connection: sqlite3.Connection, candidates: Sequence[Candidate]
) -> tuple[list[Placed], list[int]]:
    """The place of each candidate, and which of them (by position) are new."""
    placed, fresh = [], []
    next_index = _read_state(connection).size
    for position, candidate in enumerate(candidates):
        known = _find_leaf(connection, candidate.leaf_hash)
        if known is not None:
            placed.append(Placed(known, duplicate=True))
        else:
            placed.append(Placed(next_index, duplicate=False))
            fresh.append(position)
            next_index += 1
    return placed, fresh


def _insert(
    connection: sqlite3.Connection, entries: Sequence[tuple[int, Candidate]], tiles: Mapping[TileId, bytes]
) -> None:
    connection.executemany("insert into entries values (?, ?)", [(index, entry.leaf) for index, entry in entries])
    connection.executemany(
        "insert into leaf_hashes values (?, ?)", [(_prefix(entry.leaf_hash), index) for index, entry in entries]
    )
    connection.executemany(
        "insert into digests values (?, ?, ?)",
        [(*digest, index) for index, entry in entries for digest in entry.digests],
    )
    connection.executemany("insert into tiles values (?, ?)", [(_place(tile), data) for tile, data in tiles.items()])


# --- what runs on the reader's thread --------------------------------------------------------------------------------


def _find_leaf(connection: sqlite3.Connection, leaf_hash: bytes) -> int | None:
    for index, leaf in connection.execute(_FIND_LEAF, (_prefix(leaf_hash),)).fetchall():
        if hash_leaf(leaf) == leaf_hash:
            return cast("int", index)
    return None


def _read_tiles(connection: sqlite3.Connection, tiles: Sequence[TileId]) -> Mapping[TileId, bytes]:
    found = {}
    for tile in tiles:
        row = connection.execute("select hashes from tiles where place = ?", (_place(tile),)).fetchone()
        if row is not None:
            found[tile] = row[0]
    return found


def _read_leaves(connection: sqlite3.Connection, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
    leaves: list[bytes] = []
    select = "select leaf_index, leaf from entries where leaf_index >= ? and leaf_index < ? order by leaf_index"
    with contextlib.closing(connection.execute(select, (first_index, end_index))) as rows:
        for index, leaf in rows:
            if index != first_index + len(leaves):
                raise StorageError(f"the database has lost entry {first_index + len(leaves)}")
            bytes_max -= len(leaf)
            if leaves and bytes_max < 0:
                break
            leaves.append(leaf)
    return leaves


def _find_digest(
    connection: sqlite3.Connection, digest: Digest, first_index: int, end_index: int, count_max: int
) -> Sequence[int]:
    rows = connection.execute(
        "select leaf_index from digests where algorithm = ? and digest = ? and leaf_index >= ? and leaf_index < ?"
        " order by leaf_index limit ?",
        (*digest, first_index, end_index, count_max),
    )
    return [index for (index,) in rows]
