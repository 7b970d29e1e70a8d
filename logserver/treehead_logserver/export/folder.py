"""The folder of an export: files that any web server serves, laid out as C2SP tlog-tiles has it.

    TO/checkpoint                                    replaced at once, when all that it implies is durable
    TO/tile/<level>/<number>[.p/<width>]             written once, and then never again
    TO/tile/entries/<number>[.p/<width>]
    TO/.treehead-lock                                held by the one export that writes here

Each file is written under another name in the folder itself, synced, and only then given its own; so whatever has the
name of a tile is whole and durable, after a crash too. What is there already has to be what would be written, byte for
byte, and then stays; anything else is not ours, and is not touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from treehead.errors import MalformedError, StorageError, TreeheadError, UsageError
from treehead.files import read_limited, replace, sync_data, sync_directory
from treehead.note import NOTE_BYTES_MAX
from treehead.tile import TILE_WIDTH, TileId, TilePath, format_tile_path, parse_tile_path, tile_width

THREADS = 8
"""Syncs that the operating system may put together."""

_TEMPORARY = ".treehead-tile-"
_RANDOM_BYTES = 8
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


class Folder:
    """A folder that one export writes. `put` and the others may be called from one thread at a time."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self.path = path
        self._pool = pool
        self._partial: dict[Path, TileId] = {}
        """Where there are tiles that were not full when they were written, and which these are."""
        self._durable: set[Path] = set()
        """Folders whose names are durable; of those that were there already, nobody knows until they were synced."""

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is."""
        return self.path / "checkpoint"

    def read_checkpoint(self) -> bytes | None:
        """The checkpoint that is there; None if there is none.

        Raises:
            UsageError: it is not a file of ours, or cannot be read.
        """
        if not self.checkpoint.exists() and not self.checkpoint.is_symlink():
            return None
        if self.checkpoint.is_symlink() or not self.checkpoint.is_file():
            raise _foreign(self.checkpoint)
        try:
            return read_limited(self.checkpoint, bytes_max=NOTE_BYTES_MAX, what="checkpoint")
        except TreeheadError as exc:
            raise UsageError(f"--to: {exc}") from exc

    def put(self, files: Sequence[tuple[TilePath, bytes]]) -> None:
        """Returns when the files are there, durably.

        Raises:
            UsageError: something else is in the place of one.
            StorageError: one cannot be written; those that are there are whole all the same.
        """
        named = [(self.path / format_tile_path(path), data) for path, data in files]
        folders = {path.parent for path, _ in named}
        try:
            changed = {above for folder in sorted(folders) for above in self._make(folder)}
            for _ in self._pool.map(lambda file: self._put_one(*file), named):
                pass
            above = {parent for folder in folders - self._durable for parent in self._above(folder)}
            for folder in folders | changed | above:
                sync_directory(folder)
            self._durable |= folders
        except OSError as exc:
            raise StorageError(f"cannot write {exc.filename or self.path}: {exc.strerror}") from exc
        for (tile, _), (path, _) in zip(files, named, strict=True):
            if tile.width < TILE_WIDTH:
                self._partial[path.parent] = _tile_of(tile)

    def publish(self, note: bytes) -> None:
        """Have the folder show another checkpoint. All that it implies has been `put`.

        Raises:
            StorageError: it cannot be written; the one before is there still.
        """
        replace(self.checkpoint, note, mode=_FILE_MODE)

    def find_partial(self) -> None:
        """Look for the partial tiles that earlier exports have left."""
        for found, names, _ in os.walk(self.path / "tile"):
            for folder in (Path(found, name) for name in names if name.endswith(".p")):
                with contextlib.suppress(MalformedError):
                    self._partial[folder] = _tile_of(parse_tile_path(f"{folder.relative_to(self.path)}/1"))

    def remove_partial(self, *, size: int) -> None:
        """Remove the partial ones of all tiles that are full in a tree of `size`, which was exported.

        Raises:
            StorageError: one cannot be removed.
        """
        for folder, tile in list(self._partial.items()):
            if tile_width(tile, size=size) == TILE_WIDTH:
                self._remove(folder)
                del self._partial[folder]

    def _remove(self, folder: Path) -> None:
        try:
            for file in list(folder.iterdir()):
                with contextlib.suppress(MalformedError):
                    parse_tile_path(f"{file.relative_to(self.path)}")
                    file.unlink()
            with contextlib.suppress(OSError):  # something is in it that is not ours
                folder.rmdir()
        except FileNotFoundError:
            pass  # somebody else has removed it
        except OSError as exc:
            raise StorageError(f"cannot remove {folder}: {exc.strerror}") from exc

    def _make(self, folder: Path) -> Iterator[Path]:
        """Make a folder below ours, and those above it; yields those in which there is one more."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            try:
                path.mkdir(_FOLDER_MODE)
            except FileExistsError as exc:
                raise _foreign(path) from exc
            path.chmod(_FOLDER_MODE)  # whatever the umask is
            yield path.parent

    def _above(self, folder: Path) -> Iterator[Path]:
        """The folders above one, down from ours."""
        while folder != self.path:
            folder = folder.parent
            yield folder

    def _put_one(self, path: Path, data: bytes) -> None:
        """Have a file hold this, durably but for its name."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            _write(self.path / f"{_TEMPORARY}{os.urandom(_RANDOM_BYTES).hex()}", data, path)
            return
        if not stat.S_ISREG(found.st_mode) or found.st_size != len(data):
            raise _foreign(path)
        with path.open("rb") as file:
            if file.read(len(data)) != data:
                raise _foreign(path)
            sync_data(file.fileno())  # who knows how it got there


def _tile_of(path: TilePath) -> TileId:
    """The hash tile, or that of a bundle's entries."""
    return TileId(path.level or 0, path.number)


def _foreign(path: Path) -> UsageError:
    return UsageError(
        f"--to: {path} is there already, and is not what is to be exported to there: name a new folder, or one with "
        "an export of this log that nobody has changed"
    )


def _write(temporary: Path, data: bytes, path: Path) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, _FILE_MODE)  # whatever the umask is
            while data:
                data = data[file.write(data) :]
            sync_data(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[Folder]:
    """Hold a folder for this export; it is made if it is not there, but not the one above it.

    Raises:
        UsageError: there is something else, or nothing to make it in.
        StorageError: another export holds it, or it cannot be written.
    """
    try:
        if not path.is_dir():
            path.mkdir(_FOLDER_MODE)
            path.chmod(_FOLDER_MODE)
            sync_directory(path.parent)
    except OSError as exc:
        raise UsageError(f"--to {path}: cannot make this folder: {exc.strerror}") from exc
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path / ".treehead-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError(f"{path} is being written by another export: stop that first") from exc
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
        try:
            for left in [*path.glob(f"{_TEMPORARY}*"), *path.glob(".treehead-checkpoint-*")]:
                left.unlink()  # by an export that was killed
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
        yield Folder(path, stack.enter_context(ThreadPoolExecutor(THREADS, thread_name_prefix="export")))
