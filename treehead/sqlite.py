"""SQLite files that one process writes: how the log and the monitor make, open and use theirs.

A file is in WAL mode, and one connection writes it, with `synchronous=FULL`: a commit is on the disk when it returns.
Other connections are opened read-only by the operating system and never checkpoint, because versions of SQLite before
3.51.3 can corrupt a WAL that two connections reset at once. Nothing here may be imported by the pure modules.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast

import aiosqlite

from treehead.errors import StorageError
from treehead.files import rewrite

READERS_WAIT_MS = 5_000
READERS_POLL_MS = 50
"""How long a start that finds a write-ahead log waits for who reads the database, and how often it looks."""

_SHARED_LOCK_FIRST = 0x40000002
_SHARED_LOCK_BYTES = 510
"""Where in the file SQLite's readers lock: SHARED_FIRST and SHARED_SIZE of its file format."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a file holds.

    Attributes:
        owner: whose file it is, for messages, such as "log".
        application_id: what tells it from other SQLite files.
        version: raised with every change of `statements`; a file of a newer version is refused.
        statements: the SQL that makes the tables of a new file.
        migrations: for each earlier version, what makes a file of the next one of it, inside a transaction. A version
            from which these do not lead to the newest is refused.
    """

    owner: str
    application_id: int
    version: int
    statements: str
    migrations: Mapping[int, Callable[[sqlite3.Connection], None]] = field(default_factory=dict)


def create(path: Path, schema: Schema, *, fill: Callable[[sqlite3.Connection], object] = lambda _: None) -> None:
    """Make a file, durably and with what `fill` puts into it, in one transaction.

    Raises:
        StorageError: it exists, or cannot be written; nothing is left behind.
    """
    if path.exists():
        raise StorageError(f"{path} exists already")
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.executescript(
                f"begin immediate; pragma application_id = {schema.application_id};"
                f"pragma user_version = {schema.version}; {schema.statements}"
            )
            fill(connection)
            connection.execute("commit")
    except sqlite3.Error as exc:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise StorageError(f"cannot make the database {path}: {exc}") from exc


def connect(path: Path, schema: Schema, *, is_writer: bool, cache_kibibytes: int = 16_384) -> sqlite3.Connection:
    """A connection to an existing file, which a writer first brings up to the newest version.

    The caller sees to it that there is one writer.

    Raises:
        StorageError: there is no such file, it is another program's, or one of a version that cannot be used.
    """
    mode = "rw" if is_writer else "ro"
    if is_writer:
        _settle_wal(path)
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("pragma trusted_schema = off")
            connection.execute(f"pragma cache_size = -{cache_kibibytes}")
            if is_writer:
                connection.execute("pragma synchronous = full")
                connection.execute("pragma fullfsync = on")  # where fsync alone does not reach the disk (macOS)
                _migrate(connection, path, schema)
            check_schema(connection, path, schema)
            if not is_writer:
                connection.execute("pragma query_only = on")
                connection.execute("pragma wal_autocheckpoint = 0")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise StorageError(f"cannot open the database {path}: {exc}") from exc
    return connection


def _settle_wal(path: Path) -> None:
    """Have on the disk what SQLite is about to recover from the write-ahead log that a crash has left.

    A log that ended in order while another process was reading has left one as well, and cannot be told from these.

    A process that was killed between writing and syncing leaves a commit in the cache of the operating system, and one
    whose sync failed may leave it there alone. SQLite recovers it all the same. If it were shown, and the power failed
    then, it would be gone, with all that was committed after it.

    Raises:
        StorageError: another process has the database open, or the write-ahead log cannot be written anew.
    """
    wal = path.with_name(f"{path.name}-wal")
    if not (path.exists() and wal.exists() and wal.stat().st_size):
        return
    try:
        with path.open("r+b") as file:
            # Whoever has the database open holds the other kind of this lock. Closing the file lets go of all that this
            # process has locked in it, and it has nothing yet.
            _lock_out_readers(file)
            rewrite(wal)
    except BlockingIOError as exc:
        raise StorageError(
            f"{path} still has a write-ahead log, and for {READERS_WAIT_MS} ms another process has been reading it "
            "(a backup, perhaps): wait for that one, or end it, and start again"
        ) from exc
    except OSError as exc:
        raise StorageError(f"cannot open the database {path}: {exc.strerror}") from exc


def _lock_out_readers(file: BinaryIO) -> None:
    """Wait for those who have the database open; raises BlockingIOError if they have it for too long."""
    deadline = time.monotonic() + READERS_WAIT_MS / 1_000
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_LOCK_BYTES, _SHARED_LOCK_FIRST)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(READERS_POLL_MS / 1_000)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Bring a file of an earlier version up to the newest, in one transaction."""
    version = read_version(connection, path, schema)
    if version not in schema.migrations:
        return
    connection.execute("begin immediate")
    try:
        while (migrate := schema.migrations.get(version)) is not None:
            migrate(connection)
            version += 1
        connection.execute(f"pragma user_version = {version}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def read_version(connection: sqlite3.Connection, path: Path, schema: Schema) -> int:
    """The version of a file.

    Raises:
        StorageError: it is another program's.
    """
    if connection.execute("pragma application_id").fetchone()[0] != schema.application_id:
        raise StorageError(f"{path} is not the database of a Treehead {schema.owner}")
    return cast("int", connection.execute("pragma user_version").fetchone()[0])


def check_schema(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Returns only if the file has the newest version.

    Raises:
        StorageError: it is another program's, or of another version; the message says what to do.
    """
    version = read_version(connection, path, schema)
    if version in schema.migrations:
        raise StorageError(
            f"{path} has schema version {version}, and this program reads version {schema.version}: "
            f"start the {schema.owner} once, which brings it up to that"
        )
    if version != schema.version:
        raise StorageError(
            f"{path} has schema version {version}, and this program knows version {schema.version}: "
            "run the version of Treehead that wrote it, or a newer one"
        )


class Connection(aiosqlite.Connection):
    """A connection on a thread of its own, which runs whole functions there.

    A hop to the thread costs more than most statements, so a transaction is one hop; and it cannot be torn by a task
    that is cancelled. This leans on three names that aiosqlite keeps to itself, for which its version is pinned.
    """

    def __init__(self, path: Path, schema: Schema, *, is_writer: bool = True, cache_kibibytes: int = 16_384) -> None:
        super().__init__(
            lambda: connect(path, schema, is_writer=is_writer, cache_kibibytes=cache_kibibytes), iter_chunk_size=1
        )

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
        """Call `function` with the connection, on its thread; returns or raises what it does."""
        execute = cast("Callable[..., Any]", self._execute)
        return cast("_T", await execute(function, self._conn, *args, **kwargs))
