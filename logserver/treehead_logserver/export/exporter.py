"""Keeps a folder like the published tree of a log, for any web server to serve in its place (C2SP tlog-tiles).

The database is read in pieces, each in a transaction of its own that is over in a moment: whoever held one for as long
as an export takes would have the write-ahead log grow all the while. Full tiles never change, so the pieces fit.

    a piece is read and proven ── bundles and tiles durable ── … ── unfilled ones durable ── checkpoint replaced

What is in the folder beyond its checkpoint is what an export that was ended has left, and is found again by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.display import printable
from treehead.encoding import format_base64
from treehead.errors import MalformedError, SignatureError, StorageError, UsageError
from treehead.keys import VerifierKey
from treehead.tile import TILE_WIDTH, TilePath
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.export.folder import Folder, opened_folder
from treehead_logserver.export.tree import SignedTree, read_publication
from treehead_logserver.progress import Progress
from treehead_logserver.snapshot import look_at

POLL_SECONDS = 1


class StoppedError(Exception):
    """The export was told to end before a checkpoint was exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A folder, and the tree that it shows."""

    path: Path
    size: int
    root: bytes


def format_export(export: Export) -> str:
    """The export in a line."""
    entries = "1 entry" if export.size == 1 else f"{export.size} entries"
    return f"{printable(str(export.path))}: {entries}, root {format_base64(export.root)}"


class Exporter:
    """Exports one log to one folder.

    Raises:
        UsageError: the folder shows a checkpoint that is not by this log.
    """

    def __init__(self, database: Path, folder: Folder, *, vkey: VerifierKey) -> None:
        self._database = database
        self._folder = folder
        self._vkey = vkey
        self._note: bytes | None = None
        """What was published when it was looked at last."""
        self._shown = self._read_shown()
        folder.find_partial()

    def _read_shown(self) -> Checkpoint | None:
        note = self._folder.read_checkpoint()
        try:
            return None if note is None else open_checkpoint(note, key=self._vkey)
        except (MalformedError, SignatureError) as exc:
            raise UsageError(
                f"--to: {self._folder.checkpoint} is not a checkpoint by {self._vkey.name} ({exc}): name a new folder, "
                "or one with an export of this log"
            ) from exc

    def catch_up(self, progress: Progress, *, is_stopped: Callable[[], bool]) -> Export | None:
        """Have the folder show what is published now; returns None if it does already, or nothing was published yet.

        Raises:
            StoppedError: `is_stopped` has become true meanwhile.
            UsageError: the folder holds another tree, a larger one, or files that are not of this.
            StorageError: the database cannot be read or is damaged, or the folder cannot be written; the folder shows
                what it has shown before.
        """
        publication = look_at(
            self._database, lambda snapshot: read_publication(snapshot, vkey=self._vkey, known=self._note)
        )
        if publication is None:
            return None
        tree, checkpoint = SignedTree(publication), publication.checkpoint
        before = 0
        if self._shown is not None:
            before = self._shown.size
            self._check_shown(tree, self._shown)
        self._write(tree, before, progress, is_stopped)
        self._folder.publish(publication.note)
        self._folder.remove_partial(size=before)
        self._note, self._shown = publication.note, checkpoint
        return Export(path=self._folder.path, size=checkpoint.size, root=checkpoint.root)

    def _check_shown(self, tree: SignedTree, shown: Checkpoint) -> None:
        """Returns only if what the folder shows is a prefix of the tree."""
        if shown.size > tree.size:
            raise UsageError(
                f"--to {self._folder.path} shows a tree of size {shown.size}, and the log has published one of "
                f"{tree.size}: an older copy of the database was put back, so see what treehead-log recover says"
            )
        if look_at(self._database, lambda snapshot: tree.root_at(snapshot, shown.size)) != shown.root:
            raise UsageError(
                f"--to {self._folder.path} shows another tree of size {shown.size} than the log has: keep both, and "
                f"find out how {self._vkey.name} came to sign them"
            )

    def _write(self, tree: SignedTree, before: int, progress: Progress, is_stopped: Callable[[], bool]) -> None:
        """Have all files of the tree in the folder, durably. One piece is written while the next one is read."""
        progress.begin("entries", total=tree.size)
        with ThreadPoolExecutor(1, thread_name_prefix="writing") as writing:
            written: Future[None] | None = None
            number = before // TILE_WIDTH
            while number < tree.size // TILE_WIDTH:
                begin = number
                files, number = look_at(self._database, lambda snapshot: tree.read_piece(snapshot, begin))  # noqa: B023
                if is_stopped():
                    raise StoppedError
                written = self._after(written, writing, files)
                progress.reach(number * TILE_WIDTH)
            self._after(written, writing, tree.partial_files()).result()
        progress.reach(tree.size)

    def _after(
        self, written: Future[None] | None, writing: ThreadPoolExecutor, files: Sequence[tuple[TilePath, bytes]]
    ) -> Future[None]:
        if written is not None:
            written.result()
        return writing.submit(self._folder.put, files)


async def run_export(
    directory: DataDirectory,
    to: Path,
    *,
    vkey: VerifierKey,
    is_once: bool,
    show_progress: Callable[[], AbstractContextManager[Progress]],
    announce: Callable[[Export], None],
) -> None:
    """Export what is published, and if not `is_once` go on with what will be, until told to stop.

    `announce` is called with the first export.

    Raises:
        StoppedError: it was to be done once, and was asked to stop before it was done.
        UsageError: the folder cannot be exported to; see `opened_folder` and `Exporter`.
        StorageError: the log has published nothing yet, which is only waited for if not `is_once`; or see `Exporter`.
    """
    stop = _stop_requested()
    _refuse_exposure(to, directory)
    with opened_folder(to) as folder:
        exporter = Exporter(directory.database, folder, vkey=vkey)
        try:
            with show_progress() as progress:
                export = await asyncio.to_thread(exporter.catch_up, progress, is_stopped=stop.is_set)
            if export is None and is_once:
                raise StorageError(f"{vkey.name} has not published a checkpoint yet: start it once, which does")
            if export is not None:
                announce(export)
            while not is_once and not await _is_asked(stop, within_s=POLL_SECONDS):
                newer = await asyncio.to_thread(exporter.catch_up, Progress(), is_stopped=stop.is_set)
                if export is None and newer is not None:
                    announce(newer)
                export = newer or export
        except StoppedError:
            if is_once:
                raise


def _stop_requested() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _is_asked(stop: asyncio.Event, *, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await stop.wait()
    return stop.is_set()


def _refuse_exposure(to: Path, directory: DataDirectory) -> None:
    """A web server that serves the folder must not serve the log's key with it."""
    if directory.path.resolve().is_relative_to(to.resolve()):
        raise UsageError(
            f"--to {to} holds the log's own directory {directory.path}, and its key must not be served: name a folder "
            "for the export alone"
        )
