"""Stats: figures that are right, of a log that rests, runs or was killed, and without a trace of having looked."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG
from tests.unit.logserver.directory import batches, contents, grow, made, make, mixed_leaves, run_sql
from tests.unit.logserver.parts import random_leaves
from tests.unit.logserver.published import files_of, published, set_note
from treehead.checkpoint import open_checkpoint
from treehead.errors import StorageError
from treehead.keys import NoteKeyType, format_vkey
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import sign_freeze
from treehead_logserver.fsck.subject import check_directory
from treehead_logserver.progress import Progress
from treehead_logserver.stats import Stats, format_stats, format_stats_json, read_stats
from treehead_logserver.storage import lookups
from treehead_logserver.storage.schema import SCHEMA

LEAVES = mixed_leaves(600, seed=30)


def stats_of(directory: DataDirectory, *, quick: bool = False) -> Stats:
    return read_stats(directory, vkey=LOG_KEY, quick=quick, progress=Progress())


@pytest.fixture
async def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDirectory:
    monkeypatch.setattr(lookups, "RUN_PAIRS_MAX", 200)
    return await made(tmp_path / "log", *batches(LEAVES, 23))


def test_the_figures_are_those_of_the_log(directory: DataDirectory) -> None:
    before = contents(directory.path)
    stats = stats_of(directory)
    assert contents(directory.path) == before, "to look left traces"
    report = check_directory(directory, vkey=LOG_KEY, progress=Progress())
    assert (stats.origin, stats.size, stats.root) == (ORIGIN, 600, report.root)
    assert (stats.checkpoint_size, stats.mark_size) == (600, 600)
    assert stats.leaf_bytes == sum(map(len, LEAVES))
    assert stats.leaf_bytes_per_entry == stats.leaf_bytes / 600
    assert stats.database_bytes == directory.database.stat().st_size == stats.pages * stats.page_bytes
    assert stats.database_bytes_per_entry == stats.database_bytes / 600
    assert stats.wal_bytes == 0
    assert (stats.rows["entries"], stats.rows["tiles"], stats.rows["tree"]) == (600, 2, 1)
    assert stats.lookups_moved == stats.rows["lookups"]
    assert stats.lookups_moved + stats.lookups_unmoved == report.lookups
    assert stats.lookups_moved > 0 < stats.lookups_unmoved
    assert (stats.schema_version, stats.sqlite_version) == (SCHEMA.version, sqlite3.sqlite_version)


def test_every_page_is_accounted_for(directory: DataDirectory) -> None:
    run_sql(directory.database, "delete from entries where leaf_index between 100 and 400")
    stats = stats_of(directory)
    assert stats.free_pages > 0
    with contextlib.closing(sqlite3.connect(directory.database)) as connection:
        try:
            measured = dict(connection.execute("select name, sum(pgsize) from dbstat group by name"))
        except sqlite3.OperationalError:
            assert stats.table_bytes == {}
            return
    del measured["sqlite_schema"]
    assert stats.table_bytes == measured


async def test_an_empty_log_has_no_bytes_per_entry(tmp_path: Path) -> None:
    stats = stats_of(make(tmp_path / "log"))
    assert (stats.size, stats.leaf_bytes, stats.mark_size) == (0, 0, 0)
    assert stats.leaf_bytes_per_entry is None
    assert stats.database_bytes_per_entry is None
    assert "entries                 0\n" in format_stats(stats)


async def test_a_log_at_work_is_looked_at_without_being_in_its_way(tmp_path: Path) -> None:
    directory = make(tmp_path / "log")
    seen: list[Stats] = []

    def look() -> None:
        before = contents(directory.path)
        seen.append(stats_of(directory))
        after = contents(directory.path)
        del before["log.sqlite-shm"], after["log.sqlite-shm"]  # where SQLite notes who reads
        assert after == before

    await grow(directory, *batches(random_leaves(50, seed=31), 7), leave=look)
    assert (seen[0].size, seen[0].mark_size) == (50, 50)
    assert seen[0].wal_bytes > 0


def test_a_quick_look_does_not_read_every_entry(directory: DataDirectory) -> None:
    stats = stats_of(directory, quick=True)
    assert (stats.leaf_bytes, stats.leaf_bytes_per_entry) == (None, None)
    assert "entries, bytes" not in format_stats(stats)
    assert json.loads(format_stats_json(stats))["leaf_bytes"] is None
    assert stats.rows == stats_of(directory).rows


def test_a_log_without_a_mark_has_no_size_of_it(directory: DataDirectory) -> None:
    directory.mark.unlink()
    stats = stats_of(directory)
    assert stats.mark_size is None
    assert "high-water mark         none\n" in format_stats(stats)


async def test_what_was_published_is_told(tmp_path: Path) -> None:
    directory = await published(tmp_path / "log", 3, 300)
    await grow(directory, random_leaves(9, seed=32))
    stats = stats_of(directory)
    assert (stats.size, stats.published_size, stats.successor) == (309, 300, None)
    assert (stats.rows["publications"], stats.rows["notes"]) == (2, 1)
    assert "published               of 300 entries\n" in format_stats(stats)
    assert "frozen" not in format_stats(stats)


def test_a_log_that_has_published_nothing_says_so(directory: DataDirectory) -> None:
    stats = stats_of(directory)
    assert (stats.published_size, stats.rows["publications"]) == (None, 0)
    assert "published               none\n" in format_stats(stats)


def test_the_successor_of_a_frozen_log_is_told(directory: DataDirectory) -> None:
    checkpoint = open_checkpoint(files_of(LEAVES)["checkpoint"], key=LOG_KEY)
    successor = OTHER_LOG.verifier_key(name="log.example/2027", key_type=NoteKeyType.ED25519)
    set_note(directory, "freeze", sign_freeze(checkpoint, successor=successor, key=LOG))
    stats = stats_of(directory)
    assert stats.successor == format_vkey(successor)
    assert f"frozen                  its successor is {stats.successor}\n" in format_stats(stats)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("insert into notes values ('published', x'00')", f"published checkpoint is not by {ORIGIN}"),
        ("insert into notes values ('published', 'text')", "is not stored as bytes"),
        ("insert into notes values ('freeze', x'00')", "the note that froze the log is damaged"),
    ],
)
def test_a_note_that_is_damaged_is_said(directory: DataDirectory, statement: str, complaint: str) -> None:
    run_sql(directory.database, statement)
    with pytest.raises(StorageError, match=complaint):
        stats_of(directory)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from tree",
        "update tree set checkpoint = x'00'",
        "drop table recent",
        "update recent set pairs = 'as many characters as bytes'",
        "update recent set pairs = x'00'",
    ],
)
def test_what_cannot_be_read_is_said(directory: DataDirectory, statement: str) -> None:
    run_sql(directory.database, statement)
    with pytest.raises(StorageError) as caught:
        stats_of(directory)
    assert str(caught.value).count(str(directory.database)) == (0 if "tree" in statement else 1)


def test_the_figures_for_programs_have_these_names(directory: DataDirectory) -> None:
    value = json.loads(format_stats_json(stats_of(directory)))
    assert list(value) == [
        "origin",
        "size",
        "root",
        "checkpoint_size",
        "mark_size",
        "published_size",
        "successor",
        "database_bytes",
        "wal_bytes",
        "leaf_bytes",
        "rows",
        "table_bytes",
        "lookups_moved",
        "lookups_unmoved",
        "pages",
        "free_pages",
        "page_bytes",
        "schema_version",
        "sqlite_version",
        "leaf_bytes_per_entry",
        "database_bytes_per_entry",
    ]
    assert set(value["rows"]) == {"entries", "tiles", "lookups", "recent", "tree", "publications", "notes"}
    assert isinstance(value["root"], str)


def test_the_figures_for_people_are_a_table(directory: DataDirectory) -> None:
    lines = format_stats(stats_of(directory)).splitlines()
    assert lines[0] == f"log                     {ORIGIN}"
    assert lines[1] == "entries                 600"
    assert all(line[24:25].strip() and line[22:24] == "  " for line in lines)
