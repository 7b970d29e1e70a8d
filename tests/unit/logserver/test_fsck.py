"""fsck: a log that is in order is clean in whatever shape it is, and no single bit of it can be another unnoticed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.contracts.version_1 import create_version_1
from tests.unit.library.specimens import (
    FILENAME,
    LOG_KEY,
    ORIGIN,
    OTHER_LOG,
    PUBLISHER,
    STRANGER,
    attestation_leaf,
    hashedrekord_leaf,
)
from tests.unit.logserver.directory import (
    ANYTHING,
    batches,
    contents,
    flip_in_row,
    flipped,
    grow,
    made,
    make,
    mixed_leaves,
    run_sql,
)
from tests.unit.logserver.parts import SIGNER, random_leaves
from treehead.datadir import locked
from treehead.encoding import format_base64
from treehead.errors import StorageError, UsageError
from treehead.lookup import name_term, purl_term, signer_term
from treehead.merkle import hash_leaf
from treehead.tile import EXPANDED_BYTES, TILE_BYTES, RightEdge
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.fsck import check, findings, lookups
from treehead_logserver.fsck.report import Report, format_report, format_report_json
from treehead_logserver.fsck.subject import check_copy, check_directory
from treehead_logserver.highwater import SLOT_BYTES
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.progress import Progress
from treehead_logserver.signer import Signer
from treehead_logserver.storage import lookups as stored_lookups
from treehead_logserver.storage.base import Term
from treehead_logserver.storage.lookups import TABLES, key_of_term
from treehead_logserver.storage.schema import SCHEMA
from treehead_logserver.storage.sqlite import SqliteStorage

DEADLINE_SECONDS = 30

SIZE = 700
Damage = Callable[[DataDirectory], None]


def fsck(directory: DataDirectory) -> Report:
    return check_directory(directory, vkey=LOG_KEY, progress=Progress())


def told(report: Report) -> list[str]:
    return [f"{finding.where}: {finding.what}" for finding in report.findings]


@pytest.fixture(scope="module")
async def template(tmp_path_factory: pytest.TempPathFactory) -> DataDirectory:
    """A log of 700 entries: two full tiles and a part, some look-up rows moved, some halfway, some not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_lookups, "RUN_PAIRS_MAX", 220)
        leaves = mixed_leaves(SIZE, seed=4)
        return await made(tmp_path_factory.mktemp("template") / "log", *batches(leaves, 23))


@pytest.fixture
def directory(template: DataDirectory, tmp_path: Path) -> DataDirectory:
    shutil.copytree(template.path, tmp_path / "log")
    return DataDirectory(path=tmp_path / "log")


def counts(database: Path) -> tuple[int, int]:
    """Of the pairs in `recent`: how many are in `lookups` as well, and how many are not."""
    with closing(sqlite3.connect(database)) as connection:
        moved = set(connection.execute("select key, leaf_index from lookups"))
        recent = [
            pair
            for (pairs,) in connection.execute("select pairs from recent")
            for pair in lookups._PAIR.iter_unpack(pairs)
        ]
    return sum(pair in moved for pair in recent), sum(pair not in moved for pair in recent)


# --- in order --------------------------------------------------------------------------------------------------------


def test_a_log_in_order_is_clean_and_counted(directory: DataDirectory) -> None:
    both, unmoved = counts(directory.database)
    assert both, "none is halfway, so the test shows too little"
    assert unmoved
    report = fsck(directory)
    assert told(report) == []
    assert report.is_clean
    assert (report.size, report.entries, report.tiles, report.mark_size) == (SIZE, SIZE, 2, SIZE)
    assert report.lookups is not None
    assert report.lookups > SIZE
    assert report.origin == ORIGIN


def test_fsck_changes_nothing(directory: DataDirectory) -> None:
    before = contents(directory.path)
    fsck(directory)
    assert contents(directory.path) == {**before, "lock": b""}


async def test_every_shape_of_tree_is_clean(tmp_path: Path) -> None:
    directory = make(tmp_path / "log")
    leaves, edge = random_leaves(65_537, seed=5), RightEdge()
    for size in (0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537):
        added = leaves[edge.size : size]
        await grow(directory, *batches(added, 5_000))
        edge.append(map(hash_leaf, added))
        report = fsck(directory)
        assert told(report) == [], size
        assert (report.entries, report.root) == (size, edge.root())


@pytest.mark.parametrize("commits", range(1, 30))
async def test_however_far_look_ups_are_moved_the_log_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    monkeypatch.setattr(stored_lookups, "RUN_PAIRS_MAX", 220)
    directory = await made(tmp_path / "log", *batches(random_leaves(7 * commits, seed=6), 7))
    assert told(fsck(directory)) == []


async def test_a_log_that_was_killed_is_clean_and_its_write_ahead_log_stays(tmp_path: Path) -> None:
    directory, copy = make(tmp_path / "log"), tmp_path / "killed"

    def kill() -> None:
        shutil.copytree(directory.path, copy, ignore=shutil.ignore_patterns("*-shm"))

    await grow(directory, *batches(mixed_leaves(300, seed=7), 11), leave=kill)
    before = contents(copy)
    assert before["log.sqlite-wal"], "all is in the file already, so the test shows nothing"
    report = fsck(DataDirectory(path=copy))
    assert (told(report), report.entries) == ([], 300)
    after = contents(copy)
    del after["log.sqlite-shm"]  # which SQLite makes anew from the write-ahead log
    assert after == {**before, "lock": b""}


async def test_a_log_of_version_1_is_clean_once_it_is_brought_up(tmp_path: Path) -> None:
    directory = make(tmp_path / "log")
    directory.database.unlink()
    leaves = mixed_leaves(400, seed=14)
    entries = [(leaf, sorted(admit_leaf(leaf, rules=ANYTHING).terms)) for leaf in leaves]
    create_version_1(directory.database, signer=SIGNER, entries=entries)
    await grow(directory, random_leaves(5, seed=15))
    report = fsck(directory)
    assert (told(report), report.entries) == ([], 405)


# --- one flipped bit -------------------------------------------------------------------------------------------------


def in_row(table: str, column: str, where: str, bit: int) -> Damage:
    return lambda directory: flip_in_row(directory.database, table, column, where, bit)


def by_sql(*statements: str) -> Damage:
    return lambda directory: run_sql(directory.database, *statements)


def in_mark(bit: int) -> Damage:
    def damage(directory: DataDirectory) -> None:
        directory.mark.write_bytes(flipped(directory.mark.read_bytes(), bit))

    return damage


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        pytest.param(in_row("entries", "leaf", "leaf_index = 17", 9), "entry 17: does not hash to", id="leaf"),
        pytest.param(in_row("entries", "leaf", "leaf_index = 511", 0), "entry 511: does not hash", id="last_of_a_tile"),
        pytest.param(in_row("entries", "leaf", "leaf_index = 699", 3), "entries 696 to 699: do not hash", id="newest"),
        pytest.param(
            in_row("entries", "leaf", "leaf_index = 699", 3), "row .* of entry 699: is missing", id="newest_unfound"
        ),
        pytest.param(in_row("tiles", "hashes", "place = 1", 70), "tile 0/1: is not what", id="tile_bottom"),
        pytest.param(in_row("tiles", "hashes", "place = 1", 8 * TILE_BYTES), "tile 0/1: is not what", id="tile_inner"),
        pytest.param(in_row("tiles", "hashes", "place = 0", 8 * EXPANDED_BYTES - 1), "tile 0/0: is", id="tile_top"),
        pytest.param(in_row("recent", "pairs", "number = 30", 127), "row .* of entry 6.*: is missing", id="recent_row"),
        pytest.param(in_row("recent", "pairs", "number = 30", 127), "is of no entry|none that", id="recent_stranger"),
        pytest.param(in_row("tree", "checkpoint", "true", 8 * 30), "checkpoint: is not by", id="checkpoint_text"),
        pytest.param(in_row("tree", "checkpoint", "true", -20), "checkpoint: is not by", id="checkpoint_signature"),
        pytest.param(in_row("tree", "compact_range", "true", 5), "tree state: has other hashes", id="compact_range"),
        pytest.param(by_sql("update tree set size = 701"), "tree state: has the size 701", id="size"),
        pytest.param(by_sql("update tree set size = size + (1 << 40)"), "tree state: has the size", id="size_high_bit"),
        pytest.param(by_sql("update lookups set key = key + 1 where leaf_index = 3"), "entry 3: is missing", id="key"),
        pytest.param(by_sql("update lookups set key = key + 1 where leaf_index = 3"), "3: is none that", id="key_now"),
        pytest.param(
            by_sql("update lookups set leaf_index = 2 where leaf_index = 66"), "66: is missing", id="leaf_index"
        ),
        pytest.param(in_mark(100), "high-water mark: slot 0 is not", id="mark"),
        pytest.param(in_mark(8 * SLOT_BYTES + 100), "high-water mark: slot 1 is not", id="other_slot_of_the_mark"),
        pytest.param(in_mark(8 * SLOT_BYTES - 1), "high-water mark: slot 0 is not", id="where_the_mark_is_empty"),
    ],
)
def test_one_flipped_bit_is_found_and_named(directory: DataDirectory, damage: Damage, finding: str) -> None:
    damage(directory)
    report = fsck(directory)
    assert not report.is_clean
    assert any(re.search(finding, line) for line in told(report)), told(report)


@pytest.mark.parametrize(
    ("damage", "findings"),
    [
        pytest.param(in_row("entries", "leaf", "leaf_index = 17", 9), ["entry 17"], id="leaf"),
        pytest.param(in_row("tiles", "hashes", "place = 1", 70), ["tile 0/1"], id="tile"),
        pytest.param(in_row("tree", "checkpoint", "true", 8 * 30), ["checkpoint"], id="checkpoint"),
        pytest.param(in_row("tree", "compact_range", "true", 5), ["tree state"], id="compact_range"),
        pytest.param(by_sql("update tree set size = 701"), ["tree state"], id="size"),
        pytest.param(in_mark(100), ["high-water mark"], id="mark"),
    ],
)
def test_what_follows_from_one_damage_is_not_told_as_others(
    directory: DataDirectory, damage: Damage, findings: list[str]
) -> None:
    damage(directory)
    report = fsck(directory)
    assert [finding.where for finding in report.findings] == findings
    assert (report.entries, report.tiles) == (SIZE, 2)


def test_an_interrupt_at_the_worst_moment_leaves_no_thread_with_the_database(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_raise(thread: threading.Thread) -> None:
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_raise)
    number = LateNumber()
    monkeypatch.setattr(check, "FINDINGS_MAX", number)
    monkeypatch.setattr(check, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: number.known.set()))
    with pytest.raises(KeyboardInterrupt):
        fsck(directory)
    assert number.known.is_set(), "who was interrupted waited for the thread"
    (thread,) = begun
    thread.join(DEADLINE_SECONDS)
    assert (thread.name, thread.is_alive()) == ("integrity", False)
    monkeypatch.undo()
    assert fsck(directory).is_clean


class LateNumber:
    """A number that is known when somebody says so, and stands for what takes long in a thread."""

    def __init__(self) -> None:
        self.known = threading.Event()

    def __str__(self) -> str:
        assert self.known.wait(DEADLINE_SECONDS)
        return "1"


def test_a_check_that_fails_over_a_defect_of_ours_is_not_taken_for_clean(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "FINDINGS_MAX", Unprintable())
    with pytest.raises(ZeroDivisionError):
        fsck(directory)


class Unprintable:
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("index", [17, 699])
def test_the_root_of_a_damaged_tree_is_not_told(directory: DataDirectory, index: int) -> None:
    assert fsck(directory).root is not None
    in_row("entries", "leaf", f"leaf_index = {index}", 3)(directory)
    assert fsck(directory).root is None


# --- rows that are missing, too many, or elsewhere -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        pytest.param(["delete from entries where leaf_index = 17"], "entry 17: is missing", id="entry"),
        pytest.param(["delete from entries where leaf_index = 699"], "entry 699: is missing", id="newest_entry"),
        pytest.param(
            ["delete from entries where leaf_index between 250 and 259"],
            "entries 250 to 255: are missing",
            id="several",
        ),
        pytest.param(["delete from entries"], "entries 0 to 699: are missing", id="all_entries"),
        pytest.param(["insert into entries values (700, x'00')"], "entry 700: is beyond", id="one_more_entry"),
        pytest.param(["insert into entries values (-1, x'00')"], "entry -1: is beyond", id="entry_before_the_first"),
        pytest.param(
            ["insert into entries values (1 << 62, x'00')"], f"entry {1 << 62}: is beyond", id="entry_far_beyond"
        ),
        pytest.param(["update entries set leaf = 'text' where leaf_index = 9"], "entry 9: is not stored as", id="text"),
        pytest.param(
            ["update entries set leaf = zeroblob(65536) where leaf_index = 9"], "entry 9: is none", id="large"
        ),
        pytest.param(["delete from tiles where place = 0"], "tile 0/0: is missing", id="tile"),
        pytest.param(["update tiles set place = 2 where place = 1"], "tile 0/2: has no place", id="tile_elsewhere"),
        pytest.param(
            ["insert into tiles select 2, hashes from tiles where place = 1"], "tile 0/2: has no", id="tile_2"
        ),
        pytest.param(["insert into tiles values (1 << 56, x'')"], "tile 1/0: has no place", id="tile_of_level_1"),
        pytest.param(["insert into tiles values (-1, x'')"], "tile -1/.*: has no place", id="tile_of_no_level"),
        pytest.param(["update tiles set hashes = zeroblob(16320) where place = 1"], "tile 0/1: is not 16352", id="cut"),
        pytest.param(["update tiles set hashes = zeroblob(16352) where place = 1"], "tile 0/1: is not wh", id="zeros"),
        pytest.param(["delete from lookups where leaf_index = 3"], "of entry 3: is missing: .* its hash", id="lookup"),
        pytest.param(["delete from lookups where leaf_index = 5"], "of entry 5: .* by a sha512 digest", id="term"),
        pytest.param(["delete from lookups"], "look-up row .*: is missing", id="all_lookups"),
        pytest.param(["insert into lookups values (77, 3)"], "row 0{14}4d of entry 3: is none that", id="lookup_more"),
        pytest.param(["insert into lookups values (-1, 900)"], "row f{16} of entry 900: is of no entry", id="of_none"),
        pytest.param(["insert into lookups values (1.5, 3)"], "look-up row: 1.5, 3 is not made of", id="no_number"),
        pytest.param(["delete from recent where number = 30"], "recent row 30: is missing|entry 69.: is", id="recent"),
        pytest.param(["delete from recent where number = 29"], "recent row 29: is missing", id="recent_gap"),
        pytest.param(["insert into recent values (99, x'')"], "recent row 31: is missing", id="recent_gap_at_the_end"),
        pytest.param(["insert into recent values (31, zeroblob(16))"], "0 of entry 0: is none", id="recent_more"),
        pytest.param(["insert into recent values (31, x'00')"], "recent row 31: is not made of", id="recent_torn"),
        pytest.param(
            ["insert into recent select 31, pairs from recent where number = 30"],
            "recent row 31: has pairs",
            id="twice",
        ),
        pytest.param(["delete from tree"], "tree state: .*has lost its tree state", id="tree"),
        pytest.param(["insert into tree select 2, size, compact_range, checkpoint from tree"], "several", id="trees"),
        pytest.param(["update tree set one = 2"], "tree state: .* is damaged", id="another_tree"),
        pytest.param(["update tree set size = 1.5"], "tree state: .* is damaged", id="broken_size"),
        pytest.param(["update tree set size = -1"], "tree state: .* is damaged", id="negative_size"),
        pytest.param(["drop table recent"], "table recent: is missing", id="table"),
        pytest.param(["create table more (x)"], "table more: is not as", id="one_more_table"),
        pytest.param(["create index i on entries (leaf)"], "table i: is not as", id="an_index"),
        pytest.param(["alter table tiles rename to tile"], "table tiles: is missing", id="table_renamed"),
    ],
)
def test_a_row_too_few_or_too_many_is_found(directory: DataDirectory, statements: list[str], finding: str) -> None:
    run_sql(directory.database, *statements)
    report = fsck(directory)
    assert any(re.search(finding, line) for line in told(report)), told(report)


def test_swapped_entries_are_both_found(directory: DataDirectory) -> None:
    run_sql(
        directory.database,
        "update entries set leaf_index = -1 where leaf_index = 40",
        "update entries set leaf_index = 40 where leaf_index = 300",
        "update entries set leaf_index = 300 where leaf_index = -1",
    )
    assert [finding.where for finding in fsck(directory).findings] == ["entry 40", "entry 300"]


async def test_an_entry_that_is_there_twice_is_found_wherever_its_look_ups_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is wrong with such a log: its tree and its rows are those of its entries."""
    for run_pairs_max in (2, 20, 131_072):
        monkeypatch.setattr(stored_lookups, "RUN_PAIRS_MAX", run_pairs_max)
        leaves = random_leaves(60, seed=run_pairs_max)
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStorage, "_find_leaves", lambda *_: {})
            directory = await made(tmp_path / f"{run_pairs_max}", *batches([*leaves, leaves[4], leaves[50]], 3))
        found = sorted(told(fsck(directory)))
        assert found == ["entry 60: is the same as entry 4", "entry 61: is the same as entry 50"]


async def test_entries_that_are_found_by_the_same_digest_are_not_the_same(tmp_path: Path) -> None:
    directory = await made(tmp_path / "log", [attestation_leaf(), attestation_leaf(signer=STRANGER)])
    assert told(fsck(directory)) == []


@pytest.mark.parametrize(
    ("term", "noun"),
    [
        (name_term(FILENAME), "a name"),
        (purl_term("pkg:pypi/acme-tool@1.0"), "a package URL"),
        (purl_term("pkg:pypi/acme-tool"), "a package URL"),
        (signer_term(PUBLISHER.public.spki), "its signer"),
    ],
)
def test_a_look_up_row_of_every_kind_is_missed(directory: DataDirectory, term: Term, noun: str) -> None:
    key = key_of_term(term)
    run_sql(directory.database, f"delete from lookups where key = {key} and leaf_index = 5")  # noqa: S608
    row = f"look-up row {key % (1 << 64):016x} of entry 5"
    assert told(fsck(directory)) == [f"{row}: is missing: the entry is not found by {noun}"]


async def test_entries_that_are_there_twice_are_found_among_many_of_one_signer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = [hashedrekord_leaf(b"%d" % number) for number in range(20)]
    for run_pairs_max in (2, 131_072):
        monkeypatch.setattr(stored_lookups, "RUN_PAIRS_MAX", run_pairs_max)
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStorage, "_find_leaves", lambda *_: {})
            directory = await made(tmp_path / f"{run_pairs_max}", *batches([*leaves, leaves[4], leaves[19]], 3))
        found = sorted(told(fsck(directory)))
        assert found == ["entry 20: is the same as entry 4", "entry 21: is the same as entry 19"]


@pytest.mark.parametrize(("key", "count"), [(77, 0), (78, 500)])
def test_of_many_entries_with_one_term_none_is_read_again(key: int, count: int) -> None:
    """Those that are found as leaves are, of which there is one a key but for damage, are."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(f"create table entries (leaf_index integer primary key, leaf blob);{TABLES}")
        connection.executemany("insert into entries values (?, ?)", [(index, b"%d" % index) for index in range(500)])
        connection.executemany("insert into lookups values (?, ?)", [(key, index) for index in range(300)])
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        twins = lookups._Twins(connection, findings.Findings())
        for index in range(1, 300):
            twins.look(key, index, after=(key, index - 1))
        assert sum("from entries" in statement for statement in statements) == min(count, 300)
        statements.clear()
        twins.look_up(key, range(300, 500))
        assert sum("from entries" in statement for statement in statements) == count
        assert sum("from lookups" in statement for statement in statements) == min(count, 1)


def set_tree(directory: DataDirectory, **columns: bytes) -> None:
    with closing(sqlite3.connect(directory.database, isolation_level=None)) as connection:
        for column, value in columns.items():
            connection.execute(f"update tree set {column} = ?", (value,))  # noqa: S608


def test_another_logs_checkpoint_is_found(directory: DataDirectory) -> None:
    forged = Signer(key=OTHER_LOG, origin=ORIGIN).state_of(RightEdge()).checkpoint
    set_tree(directory, checkpoint=forged)
    assert f"is not by {ORIGIN}" in told(fsck(directory))[0]


def test_a_signed_checkpoint_of_another_tree_is_found(directory: DataDirectory) -> None:
    edge = RightEdge()
    edge.append(hash_leaf(b"another %d" % index) for index in range(SIZE))
    other = SIGNER.state_of(edge)
    set_tree(directory, checkpoint=other.checkpoint)
    assert told(fsck(directory)) == [f"checkpoint: signs another tree of size {SIZE} than the entries make"]
    set_tree(directory, compact_range=b"".join(other.compact_range))
    assert [finding.where for finding in fsck(directory).findings] == [
        "entries 0 to 511",
        "entries 512 to 639",
        "entries 640 to 671",
        "entries 672 to 687",
        "entries 688 to 695",
        "entries 696 to 699",
    ]


# --- the mark --------------------------------------------------------------------------------------------------------


def test_a_log_without_a_mark_is_not_in_order(directory: DataDirectory) -> None:
    directory.mark.unlink()
    assert told(fsck(directory)) == ["high-water mark: is missing: treehead-log recover says what to do"]


@pytest.mark.parametrize("size_bytes", [0, 10, SLOT_BYTES, 2 * SLOT_BYTES - 1, 2 * SLOT_BYTES + 1])
def test_a_mark_of_another_length_is_found(directory: DataDirectory, size_bytes: int) -> None:
    directory.mark.write_bytes(directory.mark.read_bytes().ljust(size_bytes, b"\0")[:size_bytes])
    assert any(line.startswith("high-water mark: ") for line in told(fsck(directory)))


async def test_a_database_behind_its_mark_is_found(directory: DataDirectory) -> None:
    older = directory.database.read_bytes()
    await grow(directory, random_leaves(9, seed=8))
    directory.database.write_bytes(older)
    report = fsck(directory)
    (line,) = told(report)
    assert "has signed a tree of size 709, and the database has one of 700" in line
    assert (report.size, report.mark_size) == (700, 709)
    assert len(format_report(report).splitlines()) == 2


async def test_a_mark_of_another_tree_is_found(directory: DataDirectory, tmp_path: Path) -> None:
    for size in (3, 256, 650, 700):
        other = await made(tmp_path / f"{size}", random_leaves(size, seed=9))
        shutil.copy(other.mark, directory.mark)
        assert told(fsck(directory)) == [f"high-water mark: is of another tree of size {size} than the entries make"]


async def test_a_mark_behind_the_database_is_as_a_crash_leaves_it(directory: DataDirectory) -> None:
    older = directory.mark.read_bytes()
    await grow(directory, random_leaves(9, seed=8))
    directory.mark.write_bytes(older)
    assert told(fsck(directory)) == []


# --- copies ----------------------------------------------------------------------------------------------------------


async def test_a_copy_may_be_older_than_its_log_and_says_so(directory: DataDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(directory.database, copy)
    assert told(check_copy(directory, copy, vkey=LOG_KEY, progress=Progress())) == []
    await grow(directory, random_leaves(9, seed=8))
    with locked(directory):  # as by the log
        before = contents(directory.path), copy.read_bytes()
        report = check_copy(directory, copy, vkey=LOG_KEY, progress=Progress())
    assert (report.is_clean, report.size, report.mark_size) == (True, 700, 709)
    assert format_report(report).splitlines()[0] == "of size 700, where the log has signed a tree of size 709"
    assert (contents(directory.path), copy.read_bytes()) == before
    run_sql(copy, "update entries set leaf = x'00' where leaf_index = 1")
    assert not check_copy(directory, copy, vkey=LOG_KEY, progress=Progress()).is_clean


async def test_a_copy_of_another_tree_is_found(directory: DataDirectory, tmp_path: Path) -> None:
    other = await made(tmp_path / "other", random_leaves(900, seed=9))
    report = check_copy(directory, other.database, vkey=LOG_KEY, progress=Progress())
    assert told(report) == ["high-water mark: is of another tree of size 700 than the entries make"]


def test_the_database_itself_is_no_copy(directory: DataDirectory) -> None:
    with pytest.raises(UsageError, match="is the log's own database: leave --file out"):
        check_copy(directory, directory.database, vkey=LOG_KEY, progress=Progress())


def test_a_log_that_runs_is_not_checked(directory: DataDirectory) -> None:
    with locked(directory), pytest.raises(StorageError, match=r"in use by another process.*backup.*--file"):
        fsck(directory)


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0", b"no database, but long enough to be one " * 200])
def test_what_is_no_database_is_said_in_a_sentence(directory: DataDirectory, content: bytes | None) -> None:
    if content is None:
        directory.database.unlink()
    else:
        directory.database.write_bytes(content)
    with pytest.raises(StorageError, match=r"log\.sqlite") as caught:
        fsck(directory)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_database_and_is_not_waited_for(directory: DataDirectory, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StorageError, match="not a regular file"):
            check_copy(directory, path, vkey=LOG_KEY, progress=Progress())


@pytest.mark.parametrize(
    ("version", "complaint"),
    [(1, "start the log once, which brings it up"), (SCHEMA.version + 1, "run the version of Treehead that wrote it")],
)
def test_a_file_of_another_version_is_refused(directory: DataDirectory, version: int, complaint: str) -> None:
    run_sql(directory.database, f"pragma user_version = {version}")
    with pytest.raises(StorageError, match=complaint):
        fsck(directory)


# --- damage below the rows -------------------------------------------------------------------------------------------


def pages_of(database: Path, table: str, *, kind: str = "leaf") -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select pageno from dbstat where name = ? and pagetype = ?", (table, kind)).fetchall()
    return [page for (page,) in rows]


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("table", ["entries", "tiles", "lookups", "recent", "tree"])
def test_a_page_that_is_lost_is_named_and_the_rest_is_checked(directory: DataDirectory, table: str, fill: int) -> None:
    pages = pages_of(directory.database, table)
    page = pages[len(pages) // 2]
    data = bytearray(directory.database.read_bytes())
    data[(page - 1) * 4_096 : page * 4_096] = bytes([fill]) * 4_096
    directory.database.write_bytes(data)
    # And another damage elsewhere, which must not go unnoticed for it.
    directory.mark.write_bytes(flipped(directory.mark.read_bytes(), 100))
    lines = told(fsck(directory))
    assert any(line.startswith("database") for line in lines), lines
    assert any(line.startswith("high-water mark: slot 0") for line in lines)
    named = {"entries": "entr", "tiles": "tile", "lookups": "look-up", "recent": "recent", "tree": "tree state"}
    assert any(line.startswith(named[table]) for line in lines), lines
    assert any("cannot be read" in line or "cannot read" in line or "missing" in line for line in lines), lines


def dumped(path: Path) -> dict[str, list[tuple[object, ...]]] | None:
    """Every row of every table, with the types of its values, or None if that cannot be read."""
    rows: dict[str, list[tuple[object, ...]]] = {}
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.text_factory = bytes
            rows["schema"] = connection.execute("select type, name, tbl_name, sql from sqlite_schema").fetchall()
            for table, columns in COLUMNS.items():
                typed = ", ".join(f"{column}, typeof({column})" for column in columns)
                rows[table] = connection.execute(f"select {typed} from {table}").fetchall()  # noqa: S608
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    return rows


COLUMNS = {
    "entries": ("leaf_index", "leaf"),
    "tiles": ("place", "hashes"),
    "lookups": ("key", "leaf_index"),
    "recent": ("number", "pairs"),
    "tree": ("one", "size", "compact_range", "checkpoint"),
}
FLIPS = 400


async def test_a_bit_that_is_flipped_anywhere_in_the_file_is_found_or_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_lookups, "RUN_PAIRS_MAX", 220)
    directory = await made(tmp_path / "log", *batches(mixed_leaves(300, seed=10), 13))
    data, content = directory.database.read_bytes(), dumped(directory.database)
    assert content is not None
    rng = random.Random(11)
    harmless = 0
    for _ in range(FLIPS):
        # Half of them where the structure is denser: in the heads of pages and the small tables.
        bit = rng.randrange(8 * len(data))
        if rng.random() < 0.5:
            bit = rng.randrange(len(data) // 4_096) * 4_096 * 8 + rng.randrange(8 * 128)
        directory.database.write_bytes(flipped(data, bit))
        with contextlib.suppress(StorageError):
            if not fsck(directory).is_clean:
                continue
            harmless += 1
            assert dumped(directory.database) == content, f"bit {bit} went unnoticed"
    assert harmless < FLIPS * 2 // 3, "hardly any flip hit what is in use"


async def test_a_bit_that_is_flipped_in_the_write_ahead_log_is_found_or_changes_nothing(tmp_path: Path) -> None:
    directory, copy = make(tmp_path / "log"), tmp_path / "killed"
    leaves = mixed_leaves(120, seed=12)
    await grow(directory, leaves[:60])

    def kill() -> None:
        shutil.copytree(directory.path, copy, ignore=shutil.ignore_patterns("*-shm"))

    await grow(directory, *batches(leaves[60:], 7), leave=kill)
    killed = DataDirectory(path=copy)
    wal, rng = copy / "log.sqlite-wal", random.Random(13)
    data, root = wal.read_bytes(), fsck(killed).root
    found = 0
    for _ in range(100):
        wal.write_bytes(flipped(data, rng.randrange(8 * len(data))))
        report = fsck(killed)
        found += not report.is_clean
        assert not report.is_clean or report.root == root
    assert found > 50


# --- the report ------------------------------------------------------------------------------------------------------


def test_no_more_findings_are_told_than_people_read(directory: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sql(directory.database, "update entries set leaf = cast(leaf || x'00' as blob) where leaf_index < 150")
    report = fsck(directory)
    assert len(report.findings) == findings.FINDINGS_MAX
    assert report.findings_more == 50
    lines = format_report(report).splitlines()
    assert lines[-2] == "and 50 more"
    assert lines[-1].endswith(": 150 findings")
    assert len(lines) == findings.FINDINGS_MAX + 2


def test_look_ups_that_differ_everywhere_are_told_by_ranges_of_keys(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(directory.database, "delete from lookups")
    lines = told(fsck(directory))
    assert any(re.match("look-up rows: are not those .*, in .* of 4096 ranges of keys", line) for line in lines)
    monkeypatch.setattr(lookups, "ROWS_COMPARED_MAX", 1)
    run_sql(directory.database, *["insert into lookups select leaf_index, leaf_index from entries limit 9"])
    assert not any("look-up row " in line for line in told(fsck(directory)))


def test_the_report_for_programs_has_these_members(directory: DataDirectory) -> None:
    report = fsck(directory)
    value = json.loads(format_report_json(report))
    seconds = value.pop("seconds")
    assert 0 < seconds < 100
    assert report.root is not None
    assert value == {
        "origin": ORIGIN,
        "url": None,
        "size": SIZE,
        "root": format_base64(report.root),
        "entries": SIZE,
        "tiles": 2,
        "lookups": report.lookups,
        "mark_size": SIZE,
        "findings": [],
        "findings_more": 0,
        "unchecked": None,
        "clean": True,
    }
    run_sql(directory.database, "update tiles set place = 7 where place = 0", "delete from tree")
    value = json.loads(format_report_json(fsck(directory)))
    assert (value["size"], value["clean"]) == (None, False)
    assert {"where": "tile 0/0", "what": "is missing"} in value["findings"]


def test_the_last_line_for_people_counts(directory: DataDirectory) -> None:
    report = fsck(directory)
    counted = f"{ORIGIN}: 700 entries, 2 tiles, {report.lookups} look-up rows"
    assert format_report(report) == f"{counted}: clean\n"
    flip_in_row(directory.database, "tiles", "hashes", "place = 1", 70)
    assert format_report(fsck(directory)).splitlines()[-1] == f"{counted}: 1 finding"


async def test_a_log_with_one_entry_is_counted_in_the_singular(tmp_path: Path) -> None:
    directory = await made(tmp_path / "log", [b"one"])
    assert format_report(fsck(directory)) == f"{ORIGIN}: 1 entry, 0 tiles, 1 look-up row: clean\n"


def test_progress_reaches_what_there_is_to_do(directory: DataDirectory) -> None:
    class Steps(Progress):
        def __init__(self) -> None:
            self.steps: list[tuple[str, int | None, int]] = []

        def begin(self, what: str, *, total: int | None = None) -> None:
            self.steps.append((what, total, 0))

        def reach(self, done: int) -> None:
            what, total, _ = self.steps.pop()
            self.steps.append((what, total, done))

    steps = Steps()
    report = check_directory(directory, vkey=LOG_KEY, progress=steps)
    assert steps.steps == [
        ("database pages", None, 0),
        ("entries", SIZE, SIZE),
        ("look-up rows", report.lookups, report.lookups),
    ]
