"""Files that are whole or not there: bounded reads, and writes that survive a crash (POSIX).

With `keyfile` this is the only I/O in the shared library.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TYPE_CHECKING

from treehead.errors import StorageError, TooLargeError, UsageError

if TYPE_CHECKING:
    # An offline verification reads and writes files, and importing these would be a tenth of its time.
    from io import BufferedReader
    from os import PathLike
    from pathlib import Path
    from typing import BinaryIO

_RANDOM_BYTES = 8
_COPIED_BYTES = 1_048_576


def open_regular(path: str | PathLike[str], *, what: str) -> BufferedReader:
    """A regular file, open for reading. Never waits, as opening a named pipe would.

    Raises:
        UsageError: the file cannot be opened, or is no regular file; the message names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(f"cannot read {what} {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"cannot read {what} {path}: it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_limited(path: str | PathLike[str], *, bytes_max: int, what: str) -> bytes:
    """The contents of a regular file of at most `bytes_max` bytes; reads no more than that and one.

    Raises:
        UsageError: the file cannot be read; the message names it.
        TooLargeError: it is larger.
    """
    try:
        with open_regular(path, what=what) as file:
            data = file.read(bytes_max + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {what} {path}: {exc.strerror}") from exc
    if len(data) > bytes_max:
        raise TooLargeError(f"{what} {path} is larger than {bytes_max} bytes")
    return data


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Create a file, durably and with its final permissions from the start; an existing one is left alone.

    Raises:
        UsageError: the file exists, or cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as exc:
        raise UsageError(f"{path} exists already; remove it first if you mean to replace it") from exc
    except OSError as exc:
        raise UsageError(f"cannot create {path}: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        sync_directory(path.parent)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file in place of whatever was there, atomically and durably: readers see the old or the new, whole.

    Raises:
        StorageError: it cannot be written; what was there is untouched.
    """
    _replace(path, io.BytesIO(data), mode=mode)


def rewrite(path: Path) -> None:
    """Write a file anew with what is in it, atomically and durably. What an interrupted call has left is removed.

    The caller sees to it that nobody else writes or rewrites it.

    It may be in the operating system's cache only, after a process was killed before it synced or a sync failed; and
    after a failed sync, the next one says that all is well, whatever reached the disk.

    Raises:
        StorageError: it cannot be read or written; what was there is untouched.
    """
    try:
        for left in path.parent.glob(f"{_temporary(path)}*"):
            left.unlink()
        with path.open("rb") as file:
            _replace(path, file, mode=stat.S_IMODE(os.fstat(file.fileno()).st_mode))
    except OSError as exc:
        raise StorageError(f"cannot read {path}: {exc.strerror}") from exc


def _temporary(path: Path) -> str:
    """How the names of files begin that are to take the place of one."""
    return f".treehead-{path.name}-"


def _replace(path: Path, source: BinaryIO, *, mode: int) -> None:
    temporary = path.with_name(f"{_temporary(path)}{os.urandom(_RANDOM_BYTES).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)  # whatever the umask is
                while data := source.read(_COPIED_BYTES):
                    file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc


def sync_data(descriptor: int) -> None:
    """Returns when what was written to a file is on the disk; its times need not be.

    Raises:
        OSError: it may not be there. What the operating system has cached of it is not to be trusted.
    """
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync alone does not reach the disk there
    else:
        os.fdatasync(descriptor)


def sync_directory(path: Path) -> None:
    """Returns when the names in a directory are on the disk.

    Raises:
        OSError: they may not be there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
