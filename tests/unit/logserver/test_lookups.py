"""The look-up index: pairs are found from their commit on, wherever they have been moved to, and after a crash too."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from hashlib import sha256

import pytest

from tests.unit.library.specimens import PUBLISHER
from treehead.errors import StorageError
from treehead.lookup import digest_term, name_term, purl_term, signer_term
from treehead_logserver.storage import lookups
from treehead_logserver.storage.base import Candidate, Term
from treehead_logserver.storage.lookups import TABLES, Lookups, Pair, is_key_of_leaf, key_of_leaf, key_of_term, keys_of

RUN_PAIRS_MAX = 60


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "RUN_PAIRS_MAX", RUN_PAIRS_MAX)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(TABLES)
        yield connection


def commit(database: sqlite3.Connection, index: Lookups, pairs: list[Pair]) -> None:
    database.execute("begin")
    index.insert(database, pairs)
    database.execute("commit")
    index.committed(pairs)


def fail(database: sqlite3.Connection, index: Lookups, pairs: list[Pair]) -> None:
    database.execute("begin")
    index.insert(database, pairs)
    database.execute("rollback")


def move(database: sqlite3.Connection, index: Lookups, *, times: int = 10**6) -> None:
    """Move what there is to move, as in idle moments."""
    while index.is_behind and times:
        times -= 1
        database.execute("begin")
        index.move(database)
        database.execute("commit")
        index.moved()


def held(index: Lookups) -> int:
    """How many pairs there are in memory."""
    runs = [run for run in (index._growing, index._moving) if run is not None]
    firsts = sum(len(bucket) for run in runs for bucket in run._buckets)
    return firsts + sum(len(indices) for run in runs for indices in run._more.values())


def found(database: sqlite3.Connection, index: Lookups, key: int) -> list[int]:
    """What a reader finds, which looks at what is recent first."""
    recent = index.find_recent(key)
    moved = database.execute("select leaf_index from lookups where key = ?", (key,))
    return sorted({*recent, *(leaf_index for (leaf_index,) in moved)})


def random_key(rng: random.Random) -> int:
    """Few enough that many repeat, of both signs, and the largest and smallest among them."""
    return rng.choice([-(2**63), 2**63 - 1, 0, -1, rng.randrange(-8, 8) << 60, rng.randrange(-(2**63), 2**63)])


def check_all(database: sqlite3.Connection, index: Lookups, expected: dict[int, set[int]]) -> None:
    assert {key: found(database, index, key) for key in expected} == {
        key: sorted(indices) for key, indices in expected.items()
    }
    rows = database.execute("select key, leaf_index from lookups").fetchall()
    assert all(leaf_index in expected[key] for key, leaf_index in rows), "nothing is in the table that was not added"


@pytest.mark.parametrize("seed", range(8))
def test_what_was_committed_is_found_and_nothing_else_through_failures_and_crashes(
    database: sqlite3.Connection, seed: int
) -> None:
    rng = random.Random(seed)
    index, expected, size = Lookups(database), dict[int, set[int]](), 0
    moved = 0
    for _ in range(250):
        entries = rng.randrange(1, 12)
        pairs = [(random_key(rng), size + number) for number in range(entries) for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.15:
            fail(database, index, pairs)
        else:
            commit(database, index, pairs)
            size += entries
            for key, leaf_index in pairs:
                expected.setdefault(key, set()).add(leaf_index)
        if rng.random() < 0.05:
            index = Lookups(database)  # as after a crash: memory is gone
        if rng.random() < 0.05:
            move(database, index, times=rng.randrange(1, 4))
        if rng.random() < 0.2:
            check_all(database, index, expected)
        moved = max(moved, database.execute("select count(*) from lookups").fetchone()[0])
    check_all(database, index, expected)
    assert moved > RUN_PAIRS_MAX


def test_a_run_moves_in_the_order_of_its_keys_and_its_rows_are_dropped(database: sqlite3.Connection) -> None:
    rng = random.Random(1)
    index = Lookups(database)
    keys = [rng.randrange(-(2**63), 2**63) for _ in range(RUN_PAIRS_MAX)]
    for leaf_index, key in enumerate(keys):
        commit(database, index, [(key, leaf_index)])
    assert database.execute("select count(*) from lookups").fetchone() == (0,)
    in_table: set[int] = set()
    for leaf_index in range(RUN_PAIRS_MAX, 2 * RUN_PAIRS_MAX):
        commit(database, index, [(rng.randrange(-(2**63), 2**63), leaf_index)])
        in_table = {key for (key,) in database.execute("select key from lookups")}
        assert in_table == set(sorted(keys)[: len(in_table)])
    assert in_table == set(keys)
    assert database.execute("select min(number), count(*) from recent").fetchone() == (RUN_PAIRS_MAX, RUN_PAIRS_MAX)


def test_memory_holds_little_more_than_a_run_however_many_there_were(database: sqlite3.Connection) -> None:
    index, rng = Lookups(database), random.Random(2)
    for leaf_index in range(20 * RUN_PAIRS_MAX):
        commit(database, index, [(random_key(rng), leaf_index)])
        assert held(index) <= 1.2 * RUN_PAIRS_MAX
        (rows,) = database.execute("select count(*) from recent").fetchone()
        assert rows <= 2 * RUN_PAIRS_MAX + 1


def test_what_is_full_is_moved_in_idle_moments_and_its_rows_are_dropped(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_MOVED_WHEN_IDLE", 7)
    monkeypatch.setattr(lookups, "_DROPPED_AT_ONCE", 3)
    rng, index = random.Random(3), Lookups(database)
    pairs = [(rng.randrange(-(2**63), 2**63), leaf_index) for leaf_index in range(RUN_PAIRS_MAX)]
    for pair in pairs:
        assert not index.is_behind
        commit(database, index, [pair])
    move(database, index)
    assert database.execute("select key, leaf_index from lookups").fetchall() == sorted(pairs)
    assert database.execute("select count(*) from recent").fetchone() == (0,)
    assert held(index) == 0
    check_all(database, index, {key: {leaf_index} for key, leaf_index in pairs})


def test_a_log_that_is_started_often_falls_no_further_behind(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_MOVED_BESIDES", 0)
    rng = random.Random(4)
    for start in range(40):
        index = Lookups(database)
        assert held(index) <= 1.5 * RUN_PAIRS_MAX
        for number in range(RUN_PAIRS_MAX // 4):
            commit(database, index, [(rng.randrange(-(2**63), 2**63), start * RUN_PAIRS_MAX + number)])
        move(database, index)


@pytest.mark.parametrize("data", [b"", b"x" * 15, b"x" * 17, "text", 7])
def test_a_damaged_row_of_what_is_recent_is_no_index(database: sqlite3.Connection, data: object) -> None:
    database.execute("insert into recent values (3, ?)", (data,))
    if data == b"":
        assert Lookups(database).find_recent(0) == []
    else:
        with pytest.raises(StorageError, match="row 3 of the table recent is damaged"):
            Lookups(database)


def test_an_entry_is_found_by_its_hash_and_by_each_of_its_terms() -> None:
    digest = sha256(b"content").digest()
    terms = [Term("sha256", digest), Term("sha512", digest)]
    candidate = Candidate(b"leaf", sha256(b"hash").digest(), frozenset(terms))
    first, *others = keys_of(candidate)
    assert first == key_of_leaf(candidate.leaf_hash)
    assert set(others) == set(map(key_of_term, terms))
    assert len({key_of_term(term) for term in terms}) == 2, "the kind is a part of the key"


def test_no_key_is_that_of_a_leaf_and_of_a_term() -> None:
    for number in range(200):
        digest = sha256(b"%d" % number).digest()
        leaf, term = key_of_leaf(digest), key_of_term(Term("sha256", digest))
        assert is_key_of_leaf(leaf)
        assert not is_key_of_leaf(term)
        assert -(2**63) <= min(leaf, term) <= max(leaf, term) < 2**63


def test_of_a_key_with_many_entries_as_many_are_found_as_are_asked_for(database: sqlite3.Connection) -> None:
    index = Lookups(database)
    for leaf_index in range(0, 3 * RUN_PAIRS_MAX, 3):
        commit(database, index, [(7, leaf_index), (8, leaf_index)])
    recent = index.find_recent(7)
    assert recent == sorted(recent)
    for first_index in (0, recent[0], recent[0] + 1, recent[5], recent[-1], recent[-1] + 1):
        for count_max in (0, 1, 5, 1_000):
            expected = [found for found in recent if found >= first_index][:count_max]
            assert index.find_recent(7, first_index=first_index, count_max=count_max) == expected


def test_keys_are_what_databases_of_other_versions_take_them_for() -> None:
    assert key_of_leaf(bytes.fromhex("80000000000000ff") + bytes(24)) == -(2**63) + 254
    assert key_of_leaf(bytes.fromhex("fffffffffffffffe") + bytes(24)) == -2
    for term, content in (
        (digest_term("sha256", bytes(32)), b"sha256\0" + bytes(32)),
        (name_term("ü"), b"name:\0\xc3\xbc"),
        (purl_term("pkg:npm/x"), b"purl:\0pkg:npm/x"),
        (signer_term(PUBLISHER.public.spki), b"signer:\0" + sha256(PUBLISHER.public.spki).digest()),
    ):
        assert key_of_term(term) == int.from_bytes(sha256(content).digest()[:8], "big", signed=True) | 1
