"""The monitor's SQLite file: its schema, and how to open it.

    logs        what is known of each log: its verified head and right edge, progress towards the next, our cosignature
    tiles       full tiles; those beyond the verified size belong to the progress and may be dropped with it
    notes       every head that the log signed, the note byte for byte, from whom and when
    parked      heads that are larger than the verified tree and wait to be judged
    evidence    one row for each evidence file; with one, the log has misbehaved, for good
    suspicions  what is odd about a log, and what once was
    peers       how calls to each peer went

The file is in WAL mode. One connection writes, with `synchronous=FULL`: a commit is on the disk when it returns.
`status` opens a second one, read-only, while the monitor runs; it never checkpoints, because versions of SQLite before
3.51.3 can corrupt a WAL that two connections reset at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import aiosqlite

from treehead.errors import StorageError

APPLICATION_ID = 0x5448524D
"""What tells a monitor's file from other SQLite files ("THRM")."""

SCHEMA_VERSION = 1
"""Raised with every change of the schema; a file of another version is refused."""

CACHE_KIBIBYTES = 16_384

_SCHEMA = f"""
pragma journal_mode = wal;
begin immediate;
pragma application_id = {APPLICATION_ID};
pragma user_version = {SCHEMA_VERSION};
create table logs (
    id blob primary key, vkey text not null, address text not null, followed integer not null, contact_ms integer,
    size integer, note blob, edge blob, verified_ms integer,
    progress_size integer, progress_edge blob,
    cosigned_size integer, cosigned_at integer, cosigned blob
) strict;
create table tiles (
    log blob not null, level integer not null, number integer not null, hashes blob not null,
    primary key (log, level, number)
) strict;
create table notes (
    log blob not null, size integer not null, root blob not null, data blob not null, source text not null,
    seen_ms integer not null, primary key (log, size, root)
) strict;
create table parked (
    log blob not null, size integer not null, root blob not null, source text not null, since_ms integer not null,
    primary key (log, size, root)
) strict;
create table evidence (
    id blob primary key, log blob not null, fork text not null, size1 integer not null, size2 integer not null,
    source text not null, kept_ms integer not null
) strict;
create table suspicions (
    log blob not null, doubt text not null, reason text not null, since_ms integer not null, count integer not null,
    standing integer not null, primary key (log, doubt)
) strict;
create table peers (
    address text primary key, configured integer not null, contact_ms integer, failures integer not null,
    failing_since_ms integer, error text not null, faults integer not null
) strict;
commit;
"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class WritingConnection(aiosqlite.Connection):
    """The one connection that writes.

    It runs a whole function on its thread: a transaction is one hop, and cannot be torn by a cancelled task.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(lambda: connect(path, mode="rw"), iter_chunk_size=1)

    async def open(self) -> None:
        """Connect. After a failure the thread has ended; aiosqlite leaves it to answer to a loop that may be gone.

        Raises:
            StorageError: see `connect`.
        """
        try:
            await self
        except BaseException:
            await asyncio.to_thread(self._thread.join)
            raise

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Call `function` with the connection, and return what it returns."""
        execute = cast("Callable[..., Any]", self._execute)
        return cast("_T", await execute(function, self._conn, *args, **kwargs))


def create_database(path: Path) -> None:
    """Make the file of a monitor that follows nothing yet, durably.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("pragma synchronous = full")
            connection.executescript(_SCHEMA)
    except sqlite3.Error as exc:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise StorageError(f"cannot make the database {path}: {exc}") from exc


def connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """A connection to a monitor's file, to write ("rw") or to read only ("ro").

    Raises:
        StorageError: there is no such file, it is no monitor's, or one of another version.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as exc:
        raise StorageError(f"cannot open the database {path}: {exc}") from exc
    try:
        _check_schema(connection, path)
        connection.execute("pragma trusted_schema = off")
        if mode == "rw":
            connection.execute("pragma synchronous = full")
            connection.execute("pragma fullfsync = on")  # where fsync alone does not reach the disk (macOS)
            connection.execute(f"pragma cache_size = -{CACHE_KIBIBYTES}")
        else:
            connection.execute("pragma query_only = on")
            connection.execute("pragma wal_autocheckpoint = 0")
    except sqlite3.Error as exc:
        connection.close()
        raise StorageError(f"cannot read the database {path}: {exc}") from exc
    except StorageError:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
        raise StorageError(f"{path} is not the database of a Treehead monitor")
    version = connection.execute("pragma user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise StorageError(
            f"{path} has schema version {version}, and this program knows version {SCHEMA_VERSION}: "
            "run the version of Treehead that wrote it, or a newer one"
        )
