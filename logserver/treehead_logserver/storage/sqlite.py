"""The log in one SQLite file: the embedded engine. Its tables are in `schema`, how entries are found in `lookups`.

One connection writes, on a thread of its own. Two others read: scans on another thread, and on the event loop's those
look-ups of a row or two that take less time than a hop to a thread does. Nothing else may write the file while the log
runs; what reads it from another process (a backup) makes the write-ahead log grow for as long as it does.

SQLite moves what was committed from the write-ahead log into the file. It does so inside a commit when `WAL_PAGES_MAX`
are waiting. In idle moments, when no submitter waits for it, `tidy` does it before that, and moves look-ups first.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from treehead.errors import StorageError
from treehead.merkle import hash_leaf
from treehead.sqlite import Connection, connect, create
from treehead.tile import ExpandedTile, TileId, format_expanded_tile
from treehead_logserver.storage.base import (
    Candidate,
    Extend,
    Extension,
    Placed,
    Settle,
    Term,
    TreeState,
    UnknownOutcomeError,
)
from treehead_logserver.storage.lookups import (
    Lookups,
    Pair,
    find_in_table,
    insert_pairs,
    key_of_leaf,
    key_of_term,
    keys_of,
)
from treehead_logserver.storage.rows import (
    FREEZE,
    PUBLISHED,
    find_older,
    place_of,
    read_leaf_sizes,
    read_leaves,
    read_note,
    read_state,
    read_tiles,
    stored_bytes,
    was_published,
)
from treehead_logserver.storage.schema import SCHEMA

WRITE_CACHE_KIBIBYTES = 32_768
READ_CACHE_KIBIBYTES = 8_192
READ_WAIT_MS = 100
"""How long the event loop may wait for a lock, which only another program would hold."""
WAL_PAGES_MAX = 4_096
"""Of 4 KiB. To move them takes some 30 ms; a reader that holds on to an old state lets them become more."""
WAL_BYTES_KEPT = 67_108_864
"""What the file of the write-ahead log is cut back to after such a reader."""

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
    """A `Storage` on one SQLite file. The caller has made sure that no other process writes the file.

    For one event loop, on whose thread it has to be opened.
    """

    def __init__(
        self, path: Path, *, writer: Connection, scanner: Connection, reader: sqlite3.Connection, lookups: Lookups
    ) -> None:
        self._path = path
        self._writer = writer
        self._scanner = scanner
        self._reader = reader
        self._lookups = lookups
        self._broken = False

    @classmethod
    async def open(cls, path: Path) -> SqliteStorage:
        """Open the file of a log; one of an earlier version is brought up to this one.

        Raises:
            StorageError: there is none, it is no log, one of a newer version, or damaged.
        """
        writer = Connection(path, SCHEMA, cache_kibibytes=WRITE_CACHE_KIBIBYTES)
        await writer.open()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(writer.close)
            try:
                await writer.run(_prepare_writer)
                lookups = await writer.run(Lookups)
            except sqlite3.Error as exc:
                raise StorageError(f"cannot read the database {path}: {exc}") from exc
            scanner = Connection(path, SCHEMA, is_writer=False, cache_kibibytes=READ_CACHE_KIBIBYTES)
            await scanner.open()
            undo.push_async_callback(scanner.close)
            reader = connect(path, SCHEMA, is_writer=False, cache_kibibytes=READ_CACHE_KIBIBYTES)
            reader.execute(f"pragma busy_timeout = {READ_WAIT_MS}")
            undo.pop_all()
        return cls(path, writer=writer, scanner=scanner, reader=reader, lookups=lookups)

    async def close(self) -> None:
        # The readers first: the last connection to close moves the WAL into the file, which only the writer may.
        self._reader.close()
        await self._scanner.close()
        await self._writer.close()

    async def read_state(self) -> TreeState:
        return await self._run(self._writer, read_state)

    async def append(self, candidates: Sequence[Candidate], extend: Extend, settle: Settle) -> Sequence[Placed]:
        return await self._run(self._writer, self._write, self._append, candidates, extend, settle)

    async def tidy(self) -> bool:
        return await self._run(self._writer, self._write, self._tidy)

    async def publish(self, note: bytes, *, size: int) -> None:
        await self._run(self._writer, self._write, self._publish, note, size)

    async def freeze(self, note: bytes) -> None:
        await self._run(self._writer, self._write, self._freeze, note)

    async def read_published(self) -> bytes | None:
        return self._ask(read_note, PUBLISHED)

    async def read_freeze(self) -> bytes | None:
        return self._ask(read_note, FREEZE)

    async def was_published(self, *, first_size: int, end_size: int) -> bool:
        return self._ask(was_published, first_size, end_size)

    async def read_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]:
        return self._ask(read_tiles, tiles)

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
        return await self._run(self._scanner, read_leaves, first_index, end_index, bytes_max)

    async def read_leaf_sizes(self, *, first_index: int, end_index: int) -> Sequence[int]:
        return await self._run(self._scanner, read_leaf_sizes, first_index, end_index)

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        return self._ask(self._find_leaves, [leaf_hash], [key_of_leaf(leaf_hash)]).get(leaf_hash)

    async def find_term(self, term: Term, *, first_index: int, end_index: int, count_max: int) -> Sequence[int]:
        key = key_of_term(term)
        recent = self._lookups.find_recent(key, first_index=first_index, count_max=count_max)
        older = self._ask(find_older, key, first_index, end_index, count_max)
        return sorted(index for index in {*recent, *older} if index < end_index)[:count_max]

    async def _run(
        self,
        connection: Connection,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Call a function with a connection, on its thread."""
        self._refuse_if_broken()
        try:
            return await connection.run(function, *args, **kwargs)
        except (StorageError, sqlite3.Error) as exc:
            raise self._reported(exc) from exc

    def _ask(
        self, function: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Call a function with the connection of this thread, for what takes less than a hop to another."""
        self._refuse_if_broken()
        try:
            return function(self._reader, *args, **kwargs)
        except (StorageError, sqlite3.Error) as exc:
            raise self._reported(exc) from exc

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise UnknownOutcomeError(
                f"database {self._path} is in an unknown state since a commit failed; start the log anew"
            )

    def _reported(self, error: StorageError | sqlite3.Error) -> StorageError:
        """The error with the file's name in it."""
        kind = type(error) if isinstance(error, StorageError) else StorageError
        return kind(f"{self._path}: {error}")

    # --- what runs on the writer's thread ----------------------------------------------------------------------------

    def _write(
        self,
        connection: sqlite3.Connection,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Call a function; after an unknown outcome nothing else is called, whether or not anybody still waits."""
        self._refuse_if_broken()  # it may have broken since the call was made
        try:
            return function(connection, *args, **kwargs)
        except UnknownOutcomeError:
            self._broken = True
            raise

    def _append(
        self, connection: sqlite3.Connection, candidates: Sequence[Candidate], extend: Extend, settle: Settle
    ) -> Sequence[Placed]:
        with _begun(connection):
            if read_note(connection, FREEZE) is not None:
                raise StorageError("the log is frozen, and takes no more entries")
            placed, fresh, pairs = self._place(connection, candidates)
            if not fresh:
                connection.execute("rollback")
                return placed
            extension = extend(fresh[0][0], [candidate.leaf_hash for _, candidate in fresh])
            self._insert(connection, fresh, pairs, extension)
        _commit(connection)
        self._lookups.committed(pairs)
        try:
            settle(extension.state)
        except StorageError as exc:
            raise UnknownOutcomeError(f"the commit is durable, but what has to follow it failed: {exc}") from exc
        return placed

    def _publish(self, connection: sqlite3.Connection, note: bytes, size: int) -> None:
        with _begun(connection):
            connection.execute("insert or ignore into publications values (?)", (size,))
            connection.execute("insert or replace into notes values (?, ?)", (PUBLISHED, note))
        _commit(connection)

    def _freeze(self, connection: sqlite3.Connection, note: bytes) -> None:
        with _begun(connection):
            if read_note(connection, FREEZE) is not None:
                raise StorageError("the log is frozen already")
            connection.execute("insert into notes values (?, ?)", (FREEZE, note))
        _commit(connection)

    def _tidy(self, connection: sqlite3.Connection) -> bool:
        if not self._lookups.is_behind:
            _move_wal(connection)
            return False
        with _begun(connection):
            self._lookups.move(connection)
        try:
            connection.execute("commit")
        except sqlite3.Error as exc:
            # On a full disk it could not even be written, and a log that adds nothing can go on being read.
            if exc.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise UnknownOutcomeError(f"the commit failed ({exc}), and its outcome is unknown") from exc
            _roll_back(connection)
            raise
        self._lookups.moved()
        return True

    def _place(
        self, connection: sqlite3.Connection, candidates: Sequence[Candidate]
    ) -> tuple[list[Placed], list[tuple[int, Candidate]], list[Pair]]:
        """The place of each candidate, and those that are new with their indices and their look-up pairs."""
        placed, fresh, pairs = [], [], []
        next_index = read_state(connection).size
        keys = list(map(keys_of, candidates))
        there = self._find_leaves(
            connection, [candidate.leaf_hash for candidate in candidates], [leaf_key for leaf_key, *_ in keys]
        )
        for candidate, keys_of_candidate in zip(candidates, keys, strict=True):
            known = there.get(candidate.leaf_hash)
            if known is None:
                fresh.append((next_index, candidate))
                placed.append(Placed(next_index, False))
                for key in keys_of_candidate:
                    pairs.append((key, next_index))
                next_index += 1
            else:
                placed.append(Placed(known, duplicate=True))
        return placed, fresh, pairs

    def _insert(
        self,
        connection: sqlite3.Connection,
        fresh: Sequence[tuple[int, Candidate]],
        pairs: Sequence[Pair],
        extension: Extension,
    ) -> None:
        rows = [(index, candidate.leaf) for index, candidate in fresh]
        insert_pairs(connection, "insert into entries", rows)
        self._lookups.insert(connection, pairs)
        tiles = [(place_of(tile), format_expanded_tile(expanded)) for tile, expanded in extension.tiles.items()]
        connection.executemany("insert into tiles values (?, ?)", tiles)
        connection.execute("update tree set size = ?, compact_range = ?, checkpoint = ?", _state_row(extension.state))

    def _find_leaves(
        self, connection: sqlite3.Connection, leaf_hashes: Sequence[bytes], keys: Sequence[int]
    ) -> dict[bytes, int]:
        """The indices of those of the leaves that are there."""
        recent = self._lookups.find_recent_of(keys)  # before the table, as it says there
        older = find_in_table(connection, keys)
        there: dict[bytes, int] = {}
        if not recent and not older:
            return there
        for leaf_hash, key in zip(leaf_hashes, keys, strict=True):
            for index in (*recent.get(key, ()), *older.get(key, ())):
                row = connection.execute("select leaf from entries where leaf_index = ?", (index,)).fetchone()
                if row is not None and hash_leaf(stored_bytes(row[0], what=f"entry {index}")) == leaf_hash:
                    there[leaf_hash] = index
        return there


def _state_row(state: TreeState) -> tuple[int, bytes, bytes]:
    return state.size, b"".join(state.compact_range), state.checkpoint


def _prepare_writer(connection: sqlite3.Connection) -> None:
    connection.execute(f"pragma wal_autocheckpoint = {WAL_PAGES_MAX}")
    connection.execute(f"pragma journal_size_limit = {WAL_BYTES_KEPT}")


def _move_wal(connection: sqlite3.Connection) -> None:
    connection.execute("pragma wal_checkpoint(passive)").fetchall()


@contextlib.contextmanager
def _begun(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction, which is rolled back if anything is raised, and otherwise is for the caller to commit."""
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        _roll_back(connection)
        raise


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("commit")
    except sqlite3.Error as exc:
        raise UnknownOutcomeError(f"the commit failed ({exc}), and its outcome is unknown") from exc


def _roll_back(connection: sqlite3.Connection) -> None:
    # Some errors, a full disk for one, have rolled the transaction back already.
    if connection.in_transaction:
        try:
            connection.execute("rollback")
        except sqlite3.Error as exc:
            raise UnknownOutcomeError(f"the rollback of a failed transaction failed ({exc})") from exc
