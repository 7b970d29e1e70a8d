"""Files that are whole or not there: bounded reads, and writes that survive a crash (POSIX).

With `keyfile` this is the only I/O in the shared library.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from treehead.errors import StorageError, TooLargeError, UsageError


def read_limited(path: Path, *, bytes_max: int, what: str) -> bytes:
    """The contents of a file of at most `bytes_max` bytes; reads no more than that and one.

    Raises:
        UsageError: the file cannot be read; the message names it.
        TooLargeError: it is larger.
    """
    try:
        with path.open("rb") as file:
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
        _sync_directory(path.parent)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file in place of whatever was there, atomically and durably: readers see the old or the new, whole.

    Raises:
        StorageError: it cannot be written; what was there is untouched.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
        _sync_directory(path.parent)
    except OSError as exc:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
