"""A log's database at one moment, for commands that look at it and change nothing, whether the log runs or not.

    the log runs    what it commits meanwhile is not seen; its write-ahead log grows for as long as we look
    it was killed   the write-ahead log is read where it lies, and nothing of it is moved into the file
    it is at rest   there is no write-ahead log: the file is opened as one that cannot change, because SQLite would
                    otherwise leave an empty write-ahead log beside it

The connection is read-only for the operating system, and never checkpoints: see `treehead.sqlite`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.sqlite import check_schema
from treehead.tile import ExpandedTile, RightEdge, TileId
from treehead_logserver.freeze import Freeze
from treehead_logserver.heads import Head
from treehead_logserver.recovery import check_mark, recover_edge, recover_freeze, recover_published
from treehead_logserver.storage import rows
from treehead_logserver.storage.base import TreeState
from treehead_logserver.storage.schema import SCHEMA

CACHE_KIBIBYTES = 65_536
VALUE_BYTES_MAX = 67_108_864
"""A larger value is damage, and not loaded. The largest that there can be is a commit's row of look-ups."""

READ_ERRORS = (sqlite3.Error, MemoryError, UnicodeDecodeError)
"""What reading a damaged file may raise; the last when SQLite quotes a name that is no text any more."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class UnreadableError(StorageError):
    """There is no database, or what is there is none any more."""


class Snapshot:
    """An open database. For one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection

    def read_state(self) -> TreeState:
        """The tree state.

        Raises:
            StorageError: there is not exactly one, or it is no such thing.
        """
        return self._read(rows.read_state)

    def read_checkpoint(self, *, vkey: VerifierKey) -> Checkpoint:
        """What the log has signed last.

        Raises:
            StorageError: it cannot be read, or is not signed by `vkey`.
        """
        try:
            return open_checkpoint(self.read_state().checkpoint, key=vkey)
        except (MalformedError, SignatureError) as exc:
            raise StorageError(f"the database's checkpoint is not by {vkey.name}: {exc}") from exc

    def read_published(self) -> bytes | None:
        """The note that was published last; None for a log that never did.

        Raises:
            StorageError: it cannot be read.
        """
        return self._read(rows.read_note, rows.PUBLISHED)

    def read_freeze(self) -> bytes | None:
        """The note that ended the log; None for one that goes on.

        Raises:
            StorageError: it cannot be read.
        """
        return self._read(rows.read_note, rows.FREEZE)

    def recover_edge(self, *, vkey: VerifierKey) -> RightEdge:
        """What a log does before it serves: see `recovery.recover_edge`."""
        return _returned(recover_edge(self, self.read_state(), vkey=vkey))

    def recover_published(self, note: bytes, *, edge: RightEdge, vkey: VerifierKey) -> Head:
        """What a log does next, if it has published anything: see `recovery.recover_published`."""
        return _returned(recover_published(self, note, edge=edge, vkey=vkey))

    def recover_freeze(self, *, edge: RightEdge, vkey: VerifierKey) -> Freeze | None:
        """And then, whether or not it goes on: see `recovery.recover_freeze`."""
        return recover_freeze(self.read_freeze(), edge=edge, vkey=vkey)

    def check_mark(self, edge: RightEdge, mark: Checkpoint) -> None:
        """What a log does then: see `recovery.check_mark`."""
        _returned(check_mark(self, edge, mark))

    def load_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]:
        """The tiles, which must be full; not checked: that the inner nodes are those of the hashes at the bottom.

        Raises:
            StorageError: one is not there, or no tile.
        """
        return self._read(rows.read_tiles, tiles)

    def load_leaves(self, *, first_index: int, end_index: int) -> Sequence[bytes]:
        """The leaves from `first_index` to before `end_index`, as many of them as there are.

        Raises:
            StorageError: there is one after one that is missing, or one that is not stored as bytes.
        """
        return self._read(rows.read_leaves, first_index, end_index, sys.maxsize)

    async def read_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]:
        """See `storage.base.Reading`."""
        return self.load_tiles(tiles)

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
        """See `storage.base.Reading`."""
        return self._read(rows.read_leaves, first_index, end_index, bytes_max)

    def _read(self, read: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(self.connection, *args, **kwargs)
        except READ_ERRORS as exc:
            raise StorageError(f"cannot read the database {self.path}: {exc}") from exc


def _returned(coroutine: Coroutine[object, object, _T]) -> _T:
    """What a coroutine returns that never waits, since nothing here does: that takes no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as exc:
        return cast("_T", exc.value)
    raise RuntimeError("recovery waited for something")


def look_at(path: Path, look: Callable[[Snapshot], _T]) -> _T:
    """What `look` makes of a database of which nobody knows whether it is at rest; raises as `opened` does.

    `look` is called a second time if a log was started meanwhile: what the first call saw is then not to be trusted.
    """
    before = _trace(path)
    if before[1] is None:
        try:
            with opened(path, at_rest=True) as snapshot:
                seen = look(snapshot)
        except StorageError:
            if _trace(path) == before:
                raise
        else:
            if _trace(path) == before:
                return seen
    with opened(path, at_rest=False) as snapshot:
        return look(snapshot)


def _trace(path: Path) -> list[tuple[int, int, int] | None]:
    """What tells whether a database was written: of its file, and of its write-ahead log."""
    found: list[tuple[int, int, int] | None] = []
    for file in (path, wal_of(path)):
        try:
            status = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def wal_of(path: Path) -> Path:
    """The write-ahead log of a database, which SQLite puts beside it."""
    return path.with_name(f"{path.name}-wal")


@contextlib.contextmanager
def opened(path: Path, *, at_rest: bool) -> Iterator[Snapshot]:
    """Open the database of a log. The caller knows whether it is `at_rest`: no process writes it meanwhile.

    Raises:
        UnreadableError: there is none, or none any more.
        StorageError: it is another program's, or of another version.
    """
    if path.exists() and not path.is_file():
        raise UnreadableError(f"cannot open the database {path}: it is not a regular file")  # of a pipe, SQLite waits
    wal = wal_of(path)
    mode = "mode=ro&immutable=1" if at_rest and not (wal.exists() and wal.stat().st_size) else "mode=ro"
    with contextlib.ExitStack() as stack:
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False
            )
            stack.callback(connection.close)
            _prepare(connection)
            check_schema(connection, path, SCHEMA)
            connection.execute("begin")
            connection.execute("select 1 from sqlite_schema").fetchone()  # from here on it is one moment
        except READ_ERRORS as exc:
            raise UnreadableError(f"cannot open the database {path}: {exc}") from exc
        yield Snapshot(path, connection)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.text_factory = lambda data: data.decode(errors="replace")  # there is no text in any table
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
    for setting in ("trusted_schema = off", "cell_size_check = on", "wal_autocheckpoint = 0"):
        connection.execute(f"pragma {setting}")
    connection.execute(f"pragma cache_size = -{CACHE_KIBIBYTES}")
