"""Backups: one moment of a log in one file, whatever the log does meanwhile, or nothing at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.test_sqlite_storage import files_no_larger_than
from tests.unit.library.specimens import LOG, LOG_KEY, OTHER_LOG
from tests.unit.logserver.directory import batches, contents, grow, made, make, mixed_leaves, run_sql
from tests.unit.logserver.parts import parts, random_leaves
from tests.unit.logserver.published import files_of, published, set_note
from treehead.checkpoint import open_checkpoint
from treehead.encoding import format_base64
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType
from treehead_logserver import backup
from treehead_logserver.backup import Backup, back_up, format_backup
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import sign_freeze
from treehead_logserver.fsck.report import Report
from treehead_logserver.fsck.subject import check_copy, check_directory
from treehead_logserver.highwater import HighWaterMark
from treehead_logserver.progress import Progress

LEAVES = mixed_leaves(300, seed=20)


class Watch(Progress):
    """Remembers how far it came, and does something at each step."""

    def __init__(self, at_step: Callable[[], object] = lambda: None) -> None:
        self.total: int | None = None
        self.steps: list[int] = []
        self._at_step = at_step

    def begin(self, what: str, *, total: int | None = None) -> None:
        self.total, self.steps = total, []

    def reach(self, done: int) -> None:
        self.steps.append(done)
        self._at_step()


@pytest.fixture
async def directory(tmp_path: Path) -> DataDirectory:
    return await made(tmp_path / "log", *batches(LEAVES, 13))


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def copied(directory: DataDirectory, to: Path, progress: Progress | None = None) -> Backup:
    return back_up(directory.database, to, vkey=LOG_KEY, progress=progress or Progress())


def checked(directory: DataDirectory, copy: Path) -> Report:
    return check_copy(directory, copy, vkey=LOG_KEY, progress=Progress())


def commit(database: Path) -> None:
    """A commit by somebody else, which does not mean anything."""
    run_sql(database, "create table if not exists more (x)", "insert into more values (zeroblob(9000))")


def test_a_copy_is_one_file_for_the_owners_eyes_and_in_order(directory: DataDirectory, shelf: Path) -> None:
    before = contents(directory.path)
    copy = copied(directory, shelf / "copy")
    assert (copy.path, copy.size) == (shelf / "copy", 300)
    assert [path.name for path in shelf.iterdir()] == ["copy"]
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o600
    report = checked(directory, copy.path)
    assert (report.is_clean, report.size, report.root) == (True, 300, copy.root)
    assert [path.name for path in shelf.iterdir()] == ["copy"]
    assert contents(directory.path) == before, "the copy left traces in the log's directory"
    assert format_backup(copy) == f"{shelf / 'copy'}: 300 entries, root {format_base64(copy.root)}"


async def test_an_empty_log_can_be_copied(tmp_path: Path, shelf: Path) -> None:
    copy = copied(make(tmp_path / "log"), shelf / "copy")
    assert copy.size == 0


async def test_a_copy_in_the_place_of_the_database_is_served_as_before(directory: DataDirectory, shelf: Path) -> None:
    copy = copied(directory, shelf / "copy")
    directory.database.unlink()
    copy.path.rename(directory.database)
    async with parts(directory.database) as log:
        assert log.checkpoint().root == copy.root
        await log.submit(b"more")
        assert contents(directory.path)["log.sqlite-wal"], "the log has lost its write-ahead log"
    report = check_directory(directory, vkey=LOG_KEY, progress=Progress())
    assert (report.is_clean, report.size) == (True, 301)


async def test_commits_meanwhile_are_not_in_the_copy_and_do_not_make_it_begin_anew(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES_AT_ONCE", 3)
    directory = make(tmp_path / "log")
    watch = Watch(lambda: commit(directory.database))
    done: list[Backup] = []
    await grow(
        directory, *batches(LEAVES, 13), leave=lambda: done.append(copied(directory, shelf / "copy", progress=watch))
    )
    assert done[0].size == 300
    assert watch.total is not None
    assert len(watch.steps) == -(-watch.total // 3)
    assert watch.steps == sorted(watch.steps)
    assert watch.steps[-1] == watch.total
    with contextlib.closing(sqlite3.connect(directory.database)) as connection:
        assert connection.execute("select count(*) from more").fetchone() == (len(watch.steps),)
    assert checked(directory, shelf / "copy").is_clean


def test_a_log_that_is_started_meanwhile_is_copied_as_it_is_then(
    directory: DataDirectory, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was at rest is opened as one that cannot change; if it does, that copy does not count."""
    monkeypatch.setattr(backup, "_PAGES_AT_ONCE", 3)
    log: list[sqlite3.Connection] = []

    def start() -> None:
        if not log:
            log.append(sqlite3.connect(directory.database))
            log[0].execute("create table more (x)")

    try:
        copy = copied(directory, shelf / "copy", Watch(start))
        with contextlib.closing(sqlite3.connect(copy.path)) as connection:
            connection.execute("select * from more")
    finally:
        log[0].close()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_there_is_not_overwritten(directory: DataDirectory, shelf: Path, kind: str) -> None:
    path = shelf / "copy"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(shelf / "nowhere")
    with pytest.raises(UsageError, match="exists already; name a new file"):
        copied(directory, path)
    assert [found.name for found in shelf.iterdir()] == ["copy"]
    assert kind != "file" or path.read_text() == "precious"


def test_what_comes_to_be_there_meanwhile_is_not_overwritten(directory: DataDirectory, shelf: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        copied(directory, shelf / "copy", Watch(lambda: (shelf / "copy").write_text("precious")))
    assert (shelf / "copy").read_text() == "precious"
    assert [path.name for path in shelf.iterdir()] == ["copy"]


def test_what_comes_to_be_there_at_the_last_moment_is_not_overwritten(
    directory: DataDirectory, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Path.hardlink_to

    def hardlink_to(path: Path, target: Path) -> None:
        path.write_text("precious")
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    with pytest.raises(UsageError, match="exists already"):
        copied(directory, shelf / "copy")
    assert (shelf / "copy").read_text() == "precious"
    assert [path.name for path in shelf.iterdir()] == ["copy"]


def test_a_file_system_without_hard_links_will_do(
    directory: DataDirectory, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hardlink_to(path: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path, None, target)

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    assert copied(directory, shelf / "copy").size == 300
    assert [path.name for path in shelf.iterdir()] == ["copy"]
    with pytest.raises(UsageError, match="exists already"):
        copied(directory, shelf / "copy")


def test_a_copy_whose_name_cannot_be_synced_is_none(
    directory: DataDirectory, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(backup, "sync_directory", fail)
    with pytest.raises(StorageError, match=f"cannot write {shelf / 'copy'}: Input/output error"):
        copied(directory, shelf / "copy")
    assert list(shelf.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(directory: DataDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--to .*/none/copy: there is no folder .*/none"):
        copied(directory, tmp_path / "none" / "copy")


@pytest.mark.parametrize("size_bytes", [0, 1, 4_096, 60_000])
def test_a_full_disk_leaves_nothing(directory: DataDirectory, shelf: Path, size_bytes: int) -> None:
    with files_no_larger_than(size_bytes), pytest.raises(StorageError, match=f"{shelf / 'copy'}"):
        copied(directory, shelf / "copy")
    assert list(shelf.iterdir()) == []
    assert copied(directory, shelf / "copy").size == 300


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupt_leaves_nothing(
    directory: DataDirectory, shelf: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(backup, "_PAGES_AT_ONCE", 3)

    def interrupt() -> None:
        if len(watch.steps) == step:
            raise KeyboardInterrupt

    watch = Watch(interrupt)
    with pytest.raises(KeyboardInterrupt):
        copied(directory, shelf / "copy", watch)
    assert list(shelf.iterdir()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set leaf = x'00' where leaf_index = 299",
        "delete from tree",
        "update tree set checkpoint = x'00'",
        "delete from tiles",
        "insert into notes values ('published', x'00')",
        "insert into notes values ('freeze', x'00')",
    ],
)
def test_a_log_that_would_not_start_is_not_copied(directory: DataDirectory, shelf: Path, statement: str) -> None:
    run_sql(directory.database, statement)
    with pytest.raises(StorageError, match=r"is not in order, and was removed: .*fsck"):
        copied(directory, shelf / "copy")
    assert list(shelf.iterdir()) == []


async def test_what_was_published_is_in_the_copy(tmp_path: Path, shelf: Path) -> None:
    directory = await published(tmp_path / "published", 3, 300)
    await grow(directory, random_leaves(9, seed=22))
    assert copied(directory, shelf / "copy").size == 309
    assert checked(directory, shelf / "copy").is_clean


@pytest.mark.parametrize(
    ("size", "seed", "complaint"),
    [(300, 2, "has published another tree of size 300"), (400, 1, "has published a checkpoint of 400")],
)
async def test_a_log_that_has_published_another_tree_is_not_copied(
    tmp_path: Path, shelf: Path, size: int, seed: int, complaint: str
) -> None:
    directory = await published(tmp_path / "published", 309)
    set_note(directory, "published", files_of(random_leaves(size, seed=seed))["checkpoint"])
    with pytest.raises(StorageError, match=f"was removed: .*{complaint}"):
        copied(directory, shelf / "copy")
    assert contents(shelf) == {}


SUCCESSOR = OTHER_LOG.verifier_key(name="log.example/2027", key_type=NoteKeyType.ED25519)


async def test_a_log_is_not_copied_that_is_frozen_and_whose_database_was_put_back(tmp_path: Path, shelf: Path) -> None:
    directory = await published(tmp_path / "published", 3, 300)
    checkpoint = open_checkpoint(files_of(random_leaves(300, seed=1))["checkpoint"], key=LOG_KEY)
    note = sign_freeze(checkpoint, successor=SUCCESSOR, key=LOG)
    with contextlib.closing(HighWaterMark.open(directory.mark, vkey=LOG_KEY)) as mark:
        mark.freeze(300, note)
    with pytest.raises(
        StorageError, match=r"says that the log is frozen, and the database does not.*start the log once"
    ):
        copied(directory, shelf / "copy")
    assert contents(shelf) == {}
    set_note(directory, "freeze", note)
    assert copied(directory, shelf / "copy").size == 300


@pytest.mark.parametrize(
    ("size", "seed", "complaint"),
    [(3, 1, "was frozen at 3 entries, and its database has 300"), (300, 2, "another tree of size 300")],
)
async def test_a_log_that_was_frozen_with_another_tree_is_not_copied(
    tmp_path: Path, shelf: Path, size: int, seed: int, complaint: str
) -> None:
    directory = await published(tmp_path / "published", 300)
    checkpoint = open_checkpoint(files_of(random_leaves(size, seed=seed))["checkpoint"], key=LOG_KEY)
    set_note(directory, "freeze", sign_freeze(checkpoint, successor=SUCCESSOR, key=LOG))
    with pytest.raises(StorageError, match=f"was removed: .*{complaint}"):
        copied(directory, shelf / "copy")
    assert contents(shelf) == {}


def test_what_is_no_database_is_said(directory: DataDirectory, shelf: Path) -> None:
    directory.database.write_bytes(b"no database, but long enough to be one " * 200)
    with pytest.raises(StorageError, match="cannot open the database"):
        copied(directory, shelf / "copy")
    directory.database.unlink()
    with pytest.raises(StorageError, match="cannot open the database"):
        copied(directory, shelf / "copy")
    assert list(shelf.iterdir()) == []


async def test_a_log_that_was_killed_can_be_copied_as_it_lies(tmp_path: Path, shelf: Path) -> None:
    directory, killed = make(tmp_path / "log"), tmp_path / "killed"

    def kill() -> None:
        shutil.copytree(directory.path, killed, ignore=shutil.ignore_patterns("*-shm"))

    await grow(directory, random_leaves(20, seed=21), leave=kill)
    before = contents(killed)
    assert copied(DataDirectory(path=killed), shelf / "copy").size == 20
    after = contents(killed)
    del after["log.sqlite-shm"]
    assert after == before
