"""A copy of a log's database in one file, made while the log serves or while it does not.

The copy is of one moment: a read transaction is held open meanwhile, so commits of the log neither get into it nor make
it begin anew. The log does not wait for it, but its write-ahead log grows until the copy is made. Nothing of the log's
own is written.

To restore: stop the log, move `log.sqlite`, `log.sqlite-wal` and `log.sqlite-shm` away together, put the copy in the
place of the first, start the log. If it has signed a larger tree since, it refuses to: see `recover`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from treehead.checkpoint import Checkpoint
from treehead.display import printable
from treehead.encoding import format_base64
from treehead.errors import StorageError, UsageError
from treehead.files import sync_data, sync_directory
from treehead.keys import VerifierKey
from treehead.tile import RightEdge
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.highwater import read_mark
from treehead_logserver.progress import Progress
from treehead_logserver.recovery import is_freeze_lost
from treehead_logserver.snapshot import Snapshot, look_at, opened

_PAGES_AT_ONCE = 1_024
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links, such as those of USB disks, answer to one."""
_RANDOM_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A copy: where it is, and of which tree."""

    path: Path
    size: int
    root: bytes


def back_up(database: Path, to: Path, *, vkey: VerifierKey, progress: Progress) -> Backup:
    """Copy a log's database to a new file, durably, and check of the copy what a start of the log checks.

    Of the high-water mark beside it only one thing counts: whether it says that the log is frozen, and the copy does
    not. Such a copy would be good for as long as the mark is there, and no longer.

    Raises:
        UsageError: the file exists, or its folder does not.
        StorageError: something cannot be read or written, or the copy is not in order.

    Whatever is raised, a signal's exception as well, nothing is left behind. A file that was there is never replaced.
    """
    _refuse_existing(to)
    if not to.parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {to.parent}")
    mark = _read_mark(
        database, vkey
    )  # before the copy: the log may be frozen meanwhile, and then its database is first
    with _new_file(to) as temporary:
        look_at(database, lambda source: _copy(source, temporary, to, progress))
        with opened(temporary, at_rest=True) as copy:
            try:
                edge = _check(copy, mark, vkey)
            except StorageError as exc:
                raise StorageError(
                    f"the copy of {database} is not in order, and was removed: {exc}; "
                    "stop the log, and see what treehead-log fsck says"
                ) from exc
    return Backup(path=to, size=edge.size, root=edge.root())


def _read_mark(database: Path, vkey: VerifierKey) -> Checkpoint | None:
    """The high-water mark beside a database, if there is one that can be read."""
    try:
        return read_mark(DataDirectory(path=database.parent).mark, vkey=vkey)
    except StorageError:
        return None


def _check(copy: Snapshot, mark: Checkpoint | None, vkey: VerifierKey) -> RightEdge:
    """Returns the copy's right edge, only if a start of the log would find nothing wrong with it."""
    edge = copy.recover_edge(vkey=vkey)
    if (published := copy.read_published()) is not None:
        copy.recover_published(published, edge=edge, vkey=vkey)
    freeze = copy.recover_freeze(edge=edge, vkey=vkey)
    if mark is not None and is_freeze_lost(freeze, mark, edge=edge):
        raise StorageError(
            "the high-water mark says that the log is frozen, and the database does not, since a copy from before that "
            "was put back: start the log once, which mends it"
        )
    return edge


def format_backup(backup: Backup) -> str:
    """The copy in a line."""
    entries = "1 entry" if backup.size == 1 else f"{backup.size} entries"
    return f"{printable(str(backup.path))}: {entries}, root {format_base64(backup.root)}"


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UsageError(f"--to {path} exists already; name a new file, or remove it first")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file beside `path`, which gets that name, durably, at the end of the context, or else is removed."""
    temporary = path.with_name(f".treehead-{path.name}-{os.urandom(_RANDOM_BYTES).hex()}")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield temporary
            sync_data(descriptor)
        finally:
            os.close(descriptor)
        _give_name(temporary, path)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)


def _give_name(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)  # unlike a rename, never in the place of a file that has come to be meanwhile
    except FileExistsError:
        _refuse_existing(path)
        raise
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        _refuse_existing(path)
        temporary.rename(path)
    try:
        sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _copy(source: Snapshot, temporary: Path, to: Path, progress: Progress) -> None:
    def reached(_status: int, left: int, total: int) -> None:
        # Always there: in it, a signal's exception ends the copying.
        progress.reach(total - left)

    try:
        os.truncate(temporary, 0)
        progress.begin("database pages", total=source.connection.execute("pragma page_count").fetchone()[0])
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            # It is synced as a whole, or else removed.
            copy.execute("pragma journal_mode = off")
            copy.execute("pragma synchronous = off")
            source.connection.backup(copy, pages=_PAGES_AT_ONCE, progress=reached)
    except sqlite3.Error as exc:
        raise StorageError(f"cannot copy {source.path} to {to}: {exc}; nothing was left behind") from exc
