"""The SQLite engine: the contract of all engines, and what becomes of a full disk and a foreign, newer or bad file."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

import treehead.sqlite
from tests.contracts.storage_suite import (
    EMPTY,
    Extender,
    StorageSuite,
    append,
    candidate,
    candidates,
    sha256_of,
    state_at,
)
from tests.contracts.version_1 import create_version_1
from tests.contracts.version_2 import create_version_2
from tests.unit.library.specimens import LOG_KEY, P256_PUBLISHER, attestation_leaf, hashedrekord_leaf
from tests.unit.logserver.parts import SIGNER
from treehead.entry import parse_entry
from treehead.errors import StorageError
from treehead.lookup import signer_term, terms_of
from treehead.merkle import hash_leaf
from treehead.sqlite import connect
from treehead.tile import TILE_BYTES, ExpandedTile, TileId
from treehead_logserver.kinds import ALL_KINDS
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.recovery import recover_edge
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.storage import lookups, schema, sqlite
from treehead_logserver.storage.base import Candidate, Placed, Storage, TreeState, UnknownOutcomeError
from treehead_logserver.storage.schema import SCHEMA, read_unmarked_checkpoint
from treehead_logserver.storage.sqlite import SqliteStorage, create_database

NAME = "log.sqlite"

Look = Callable[..., object]
Create = Callable[..., None]
"""Makes a file of an earlier version; see `version_1`."""


class TestSqliteStorage(StorageSuite):
    async def create(self, folder: Path, state: TreeState) -> None:
        create_database(folder / NAME, state)

    async def open(self, folder: Path) -> Storage:
        return await SqliteStorage.open(folder / NAME)


class TestSqliteStorageThatMovesLookups(TestSqliteStorage):
    """The same, when look-ups are moved after a few entries, a few at a time."""

    @pytest.fixture(autouse=True)
    def _short_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shorten_runs(monkeypatch)


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStorage]:
    storage = await SqliteStorage.open(path)
    try:
        yield storage
    finally:
        await storage.close()


def shorten_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RUN_PAIRS_MAX", 8), ("_MOVED_WHEN_IDLE", 3), ("_DROPPED_AT_ONCE", 2)):
        monkeypatch.setattr(lookups, name, value)


@pytest.mark.parametrize("first", [True, False])
async def test_what_is_moved_while_a_reader_looks_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    shorten_runs(monkeypatch)
    digest = sha256_of(b"digest")
    async with opened(path) as storage:
        entry = candidate(b"found", digest)
        await append(storage, [entry, *candidates(*(b"%d" % number for number in range(8)))], Extender())
        moved = 0

        def all_is_moved(looked: Look) -> Look:
            """As if the writer's thread did it, just before a look at the table or just after."""

            @functools.wraps(looked)
            def look(connection: sqlite3.Connection, *args: object) -> object:
                found = None if first else looked(connection, *args)
                if connection is storage._reader:
                    move()
                return looked(connection, *args) if first else found

            return look

        def move() -> None:
            nonlocal moved
            with contextlib.closing(connect(path, SCHEMA, is_writer=True)) as writer:
                while storage._lookups.is_behind:
                    moved += 1
                    writer.execute("begin immediate")
                    storage._lookups.move(writer)
                    writer.execute("commit")
                    storage._lookups.moved()

        monkeypatch.setattr(treehead.sqlite, "_settle_wal", lambda path: None)  # that there are two is our doing
        for name in ("find_in_table", "find_older"):
            monkeypatch.setattr(sqlite, name, all_is_moved(getattr(sqlite, name)))
        assert await storage.find_leaf(entry.leaf_hash) == 0
        assert moved > 3
        moved = 0
        await append(storage, [candidate(b"%d" % number, digest) for number in range(100, 108)], Extender())
        assert await storage.find_term(digest, first_index=0, end_index=17, count_max=9) == [0, *range(9, 17)]
        assert moved > 3


async def test_a_full_disk_keeps_look_ups_from_being_moved_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_runs(monkeypatch)
    monkeypatch.setattr(lookups, "_MOVED_WHEN_IDLE", 1_000)
    async with opened(path) as storage:
        entries = candidates(*(b"%d" % number for number in range(1_000)))
        await append(storage, entries, Extender())
        await storage._writer.execute("pragma max_page_count = 1")  # no more than there are
        with pytest.raises(StorageError, match="full") as caught:
            await storage.tidy()
        assert not isinstance(caught.value, UnknownOutcomeError)
        assert await storage.find_leaf(entries[5].leaf_hash) == 5
        await storage._writer.execute("pragma max_page_count = 10000")
        while await storage.tidy():
            pass
        assert await append(storage, entries, Extender()) == [Placed(index, True) for index in range(1_000)]


async def test_damage_keeps_look_ups_from_being_moved_and_entries_from_being_read_in_no_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_runs(monkeypatch)
    async with opened(path) as storage:
        await append(storage, candidates(*(b"%d" % number for number in range(9))), Extender())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("select rootpage from sqlite_schema where name = 'lookups'").fetchone()
        (page_bytes,) = connection.execute("pragma page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    async with opened(path) as storage:
        for _ in range(2):
            with pytest.raises(StorageError, match="malformed") as caught:
                await storage.tidy()
            assert not isinstance(caught.value, UnknownOutcomeError)
        assert len(await storage.read_leaves(first_index=0, end_index=9, bytes_max=100)) == 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    create_database(path, EMPTY)
    return path


def damage(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def contents(path: Path) -> bytes:
    return path.read_bytes()


def wal_bytes(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


@contextlib.contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """Let writes beyond a size fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_commit_that_fails_has_an_unknown_outcome_and_ends_the_engine(path: Path) -> None:
    storage = await SqliteStorage.open(path)
    try:
        await append(storage, candidates(b"a"), Extender())
        with files_no_larger_than(wal_bytes(path)), pytest.raises(UnknownOutcomeError, match="commit failed"):
            await append(storage, candidates(b"b"), Extender())
        # There is room again, and yet nothing may be asked of this engine any more.
        with pytest.raises(StorageError, match="unknown state"):
            await append(storage, candidates(b"c"), Extender())
        with pytest.raises(StorageError, match="unknown state"):
            await storage.read_leaves(first_index=0, end_index=1, bytes_max=1)
    finally:
        await storage.close()
    storage = await SqliteStorage.open(path)
    try:
        assert await storage.read_state() in (state_at(1), state_at(2))
        (placed,) = await append(storage, candidates(b"b"), Extender())
        assert placed.leaf_index == 1
    finally:
        await storage.close()


async def test_a_disk_that_fills_up_before_the_commit_leaves_the_log_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WRITE_CACHE_KIBIBYTES", 16)  # so that a transaction is written out while it grows
    storage = await SqliteStorage.open(path)
    batch = candidates(*(b"%d" % number * 1_000 for number in range(200)))
    try:
        await append(storage, candidates(b"a"), Extender())
        with files_no_larger_than(wal_bytes(path)), pytest.raises(StorageError, match=r"log\.sqlite: ") as caught:
            await append(storage, batch, Extender())
        assert not isinstance(caught.value, UnknownOutcomeError)
        assert await storage.read_state() == state_at(1)
        assert await append(storage, batch, Extender()) == [Placed(1 + number, False) for number in range(200)]
    finally:
        await storage.close()


async def test_no_term_makes_the_look_up_of_a_leaf_read_other_entries(path: Path) -> None:
    """With 2^32 tries a term is found whose hash begins as that of a leaf does; here one is given such a leaf hash."""
    term = sha256_of(b"a term of somebody else's choice")
    alike = sha256(term.kind.encode() + b"\0" + term.value).digest()
    async with opened(path) as storage:
        await append(storage, [Candidate(b"leaf", alike), *candidates(b"a")], Extender())
        await append(storage, [candidate(b"%d" % number, term) for number in range(100)], Extender())
        read: list[str] = []
        storage._reader.set_trace_callback(read.append)
        assert await storage.find_leaf(alike) is None, "its hash is not really that"
        assert sum("from entries" in statement for statement in read) == 1
        assert len(await storage.find_term(term, first_index=0, end_index=102, count_max=200)) == 100


async def test_a_missing_file_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open the database"):
        await SqliteStorage.open(tmp_path / NAME)
    assert not (tmp_path / NAME).exists()


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    damage(tmp_path / NAME, "create table tree (size)")
    with pytest.raises(StorageError, match="is not the database of a Treehead log"):
        await SqliteStorage.open(tmp_path / NAME)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database, but long enough to be one " * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        await SqliteStorage.open(tmp_path / NAME)


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    damage(path, f"pragma user_version = {SCHEMA.version + 1}")
    before = contents(path)
    with pytest.raises(StorageError, match=f"schema version {SCHEMA.version + 1}"):
        await SqliteStorage.open(path)
    assert contents(path) == before


async def test_an_entry_that_was_lost_is_missed(path: Path) -> None:
    storage = await SqliteStorage.open(path)
    await append(storage, candidates(b"a", b"b", b"c"), Extender())
    await storage.close()
    damage(path, "delete from entries where leaf_index = 1")
    storage = await SqliteStorage.open(path)
    try:
        with pytest.raises(StorageError, match="has lost entry 1"):
            await storage.read_leaves(first_index=0, end_index=3, bytes_max=100)
    finally:
        await storage.close()


async def test_a_tree_state_that_was_lost_is_missed(path: Path) -> None:
    damage(path, "delete from tree")
    storage = await SqliteStorage.open(path)
    try:
        with pytest.raises(StorageError, match="has lost its tree state"):
            await storage.read_state()
        with pytest.raises(StorageError, match="has lost its tree state"):
            await append(storage, candidates(b"a"), Extender())
    finally:
        await storage.close()


def test_a_database_is_made_once(path: Path) -> None:
    before = contents(path)
    with pytest.raises(StorageError, match="exists already"):
        create_database(path, EMPTY)
    assert contents(path) == before


def test_a_database_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with files_no_larger_than(8_192), pytest.raises(StorageError, match="cannot make the database"):
        create_database(tmp_path / NAME, EMPTY)
    assert list(tmp_path.iterdir()) == []


async def test_a_commit_is_synced_before_it_counts(path: Path) -> None:
    """The setting on which the promise of durability stands; a kill cannot show that it is gone."""
    storage = await SqliteStorage.open(path)
    try:
        async with storage._writer.execute("pragma synchronous") as cursor:
            assert await cursor.fetchone() == (2,)
        async with storage._writer.execute("pragma journal_mode") as cursor:
            assert await cursor.fetchone() == ("wal",)
        async with storage._scanner.execute("pragma wal_autocheckpoint") as cursor:
            assert await cursor.fetchone() == (0,)
        assert storage._reader.execute("pragma wal_autocheckpoint").fetchone() == (0,)
    finally:
        await storage.close()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        pytest.param("update entries set leaf = 'text' where leaf_index = 1", "entry 1 is damaged", id="leaf"),
        pytest.param("update tiles set hashes = 'text'", "tile 0/0 is damaged", id="tile"),
        pytest.param("update tree set checkpoint = 'text'", "the tree state is damaged", id="checkpoint"),
        pytest.param("update tree set compact_range = 7", "the tree state is damaged", id="compact_range"),
        pytest.param("update tree set size = 'text'", "the tree state is damaged", id="size"),
        pytest.param("update recent set pairs = 'text'", "table recent is damaged", id="recent"),
    ],
)
async def test_a_value_of_another_type_is_damage_and_no_defect(path: Path, statement: str, complaint: str) -> None:
    """One flipped bit in the header of a row makes text of bytes."""
    storage = await SqliteStorage.open(path)
    tile = {TileId(0, 0): ExpandedTile.of(bytes(TILE_BYTES))}
    await append(storage, candidates(b"a", b"b"), Extender(tile))
    await storage.close()
    damage(path, statement)

    async def use() -> None:
        storage = await SqliteStorage.open(path)
        try:
            await storage.read_state()
            await storage.read_tiles(list(tile))
            await append(storage, candidates(b"b"), Extender())
            await storage.read_leaves(first_index=0, end_index=2, bytes_max=100)
        finally:
            await storage.close()

    with pytest.raises(StorageError, match=complaint):
        await use()


async def test_copies_that_an_interrupted_start_has_left_are_removed(crashed: Path) -> None:
    left = crashed.with_name(f".treehead-{NAME}-wal-0123456789abcdef")
    left.write_bytes(b"a part of the write-ahead log")
    storage = await SqliteStorage.open(crashed)
    await storage.close()
    assert not left.exists()


# --- after a crash ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def crashed(path: Path, tmp_path: Path) -> Path:
    """A database as a killed process leaves it: with a write-ahead log that is still to be moved."""
    storage = await SqliteStorage.open(path)
    await append(storage, candidates(b"a", b"b"), Extender())
    (tmp_path / "crashed").mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", tmp_path / "crashed")
    await storage.close()
    return tmp_path / "crashed" / NAME


async def test_what_a_crash_left_is_on_the_disk_before_it_is_recovered(crashed: Path) -> None:
    """It may be in the cache only, where a sync that failed leaves it for good: so the file is written anew."""
    wal = crashed.with_name(f"{NAME}-wal")
    left, inode = wal.read_bytes(), wal.stat().st_ino
    storage = await SqliteStorage.open(crashed)
    try:
        assert wal.stat().st_ino != inode
        assert wal.read_bytes() == left
        assert await storage.read_state() == state_at(2)
        assert await append(storage, candidates(b"b", b"c"), Extender()) == [Placed(1, True), Placed(2, False)]
    finally:
        await storage.close()
    assert [file.name for file in crashed.parent.iterdir()] == [NAME], "nothing is left beside a closed database"


async def test_what_a_crash_left_is_not_recovered_under_the_eyes_of_another_process(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('pragma wal_autocheckpoint = 0');"
        "c.execute('select * from tree').fetchall(); print('reads', flush=True); sys.stdin.read()"
    )
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, crashed, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    assert await reader.stdout.readline() == b"reads\n"
    monkeypatch.setattr(treehead.sqlite, "READERS_WAIT_MS", 100)
    with pytest.raises(
        StorageError, match=r"still has a write-ahead log, and for 100 ms another process has been reading it"
    ):
        await SqliteStorage.open(crashed)
    monkeypatch.undo()
    opening = asyncio.create_task(SqliteStorage.open(crashed))  # waits for the reader to end
    reader.kill()
    await reader.wait()
    storage = await opening
    assert await storage.read_state() == state_at(2)
    await storage.close()


# --- versions --------------------------------------------------------------------------------------------------------

OLD_CONTENTS = [b"content %d" % number for number in range(600)]
OLD_LEAVES = [hashedrekord_leaf(content) for content in OLD_CONTENTS]
OLD_ENTRIES = [(leaf, [sha256_of(content)]) for leaf, content in zip(OLD_LEAVES, OLD_CONTENTS, strict=True)]


CREATE = pytest.mark.parametrize("create_old", [create_version_1, create_version_2], ids=["version_1", "version_2"])


@CREATE
async def test_a_file_of_an_earlier_version_becomes_one_of_this_version_with_all_that_was_in_it(
    tmp_path: Path, create_old: Create
) -> None:
    path = tmp_path / NAME
    create_old(path, signer=SIGNER, entries=OLD_ENTRIES)
    has_mark = create_old is not create_version_1
    assert (read_unmarked_checkpoint(path) is None) == has_mark
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (expected,) = connection.execute("select checkpoint from tree").fetchone()
    for _ in range(2):
        storage = await SqliteStorage.open(path)
        state = await storage.read_state()
        assert (state.size, state.checkpoint) == (600, expected)
        edge = await recover_edge(storage, state, vkey=LOG_KEY)
        assert edge.size == 600
        assert await storage.read_leaves(first_index=0, end_index=600, bytes_max=10**7) == OLD_LEAVES
        for index in (0, 255, 256, 599):
            leaf = OLD_LEAVES[index]
            assert await storage.find_leaf(hash_leaf(leaf)) == index
            term = sha256_of(OLD_CONTENTS[index])
            assert await storage.find_term(term, first_index=0, end_index=600, count_max=9) == [index]
        by_signer = signer_term(P256_PUBLISHER.public.spki)
        assert await storage.find_term(by_signer, first_index=0, end_index=600, count_max=3) == [0, 1, 2]
        assert await append(storage, candidates(OLD_LEAVES[7]), Extender()) == [Placed(7, True)]
        await storage.close()
    assert read_unmarked_checkpoint(path) is None, "a file of this version has a mark beside it"


@pytest.mark.parametrize(
    ("create_old", "statement", "damaged"),
    [
        (create_version_1, "update tiles set hashes = zeroblob(8191) where place = 1", "tile 0/1"),
        (create_version_1, "update tiles set hashes = 'text' where place = 0", "tile 0/0"),
        (create_version_1, "update entries set leaf = 'text' where leaf_index = 7", "entry 7"),
        (create_version_2, "update entries set leaf = 'text' where leaf_index = 599", "entry 599"),
        (create_version_2, "update entries set leaf = 7 where leaf_index = 0", "entry 0"),
        (create_version_2, "update entries set leaf = zeroblob(65536) where leaf_index = 300", "entry 300"),
    ],
)
async def test_a_migration_that_meets_damage_names_it_and_leaves_the_file_as_it_was(
    tmp_path: Path, create_old: Create, statement: str, damaged: str
) -> None:
    path = tmp_path / NAME
    create_old(path, signer=SIGNER, entries=OLD_ENTRIES)
    damage(path, statement)
    before = contents(path)
    with pytest.raises(StorageError, match=rf"cannot be brought up to this one, since {damaged} is damaged: .*restore"):
        await SqliteStorage.open(path)
    assert contents(path) == before
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


async def test_a_migration_says_how_far_it_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / NAME
    create_version_2(path, signer=SIGNER, entries=OLD_ENTRIES)
    monkeypatch.setattr(schema, "REPORTED_EVERY", 250)
    caplog.set_level(logging.INFO, logger=schema.__name__)
    async with opened(path):
        pass
    said = [record.getMessage() for record in caplog.records if record.name == schema.__name__]
    assert "the look-ups of 600 entries are derived anew" in said[0]
    assert [line.rpartition(": ")[2] for line in said[1:3]] == [
        "250 of 600 entries are done",
        "500 of 600 entries are done",
    ]
    assert len(said) == 4
    caplog.clear()
    async with opened(path):
        assert not caplog.records, "it is done once"


@pytest.mark.parametrize("pairs_at_once", [1, 7, 1_048_576])
async def test_a_migration_leaves_no_look_up_of_the_earlier_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    monkeypatch.setattr(schema, "_PAIRS_AT_ONCE", pairs_at_once)
    leaves = [*OLD_LEAVES[:40], b"opaque", b'{"no": "entry"}', attestation_leaf()]
    path, new = tmp_path / NAME, tmp_path / "new"
    create_version_2(path, signer=SIGNER, entries=[(leaf, [sha256_of(leaf)]) for leaf in leaves])
    create_database(new, EMPTY)
    async with opened(path), opened(new) as storage:
        await append(storage, [admit_leaf(leaf, rules=AdmissionRules(kinds=ALL_KINDS)) for leaf in leaves], Extender())
    rows = {}
    for file in (path, new):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            moved = connection.execute("select key, leaf_index from lookups").fetchall()
            recent = connection.execute("select number, pairs from recent").fetchall()
        rows[file] = {*moved, *(pair for row in recent for pair in lookups.parse_pairs(*row))}
    assert rows[path] == rows[new]


@CREATE
async def test_who_only_reads_migrates_nothing(tmp_path: Path, create_old: Create) -> None:
    path = tmp_path / NAME
    create_old(path, signer=SIGNER, entries=OLD_ENTRIES)
    before = contents(path)
    with pytest.raises(StorageError, match="start the log once"):
        connect(path, SCHEMA, is_writer=False)
    assert contents(path) == before


@CREATE
async def test_entries_of_an_earlier_version_are_found_by_all_that_they_are_found_by_now(
    tmp_path: Path, create_old: Create
) -> None:
    leaves = [attestation_leaf(), hashedrekord_leaf(), b"opaque", b'{"kind":"of another time"}']
    path = tmp_path / NAME
    create_old(path, signer=SIGNER, entries=[(leaf, []) for leaf in leaves])
    async with opened(path) as storage:
        for index in (0, 1):
            for term in terms_of(parse_entry(leaves[index])):
                assert index in await storage.find_term(term, first_index=0, end_index=4, count_max=9), term
        await append(storage, candidates(b"new"), Extender())
        assert await storage.read_published() is None
