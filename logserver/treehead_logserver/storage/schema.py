"""The tables of the SQLite engine, and how a file of an earlier version becomes one of this.

    entries      leaf_index -> leaf
    lookups, recent                   by what entries are found: see `lookups`
    tiles        level << 56 | number -> the full tile with its inner nodes, 16,352 bytes; written once
    tree         one row: size, compact range, signed checkpoint
    publications size of each checkpoint that was published
    notes        name -> signed note: "published", the newest of those, and "freeze", which ends the log

Version 1 had wide rows for digests, an index of leaf hashes of its own, and tiles without their inner nodes. Version 2
published every checkpoint, and found entries by hash and by two kinds of digests only.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import cast

from treehead.errors import StorageError
from treehead.sqlite import Schema, read_version
from treehead.tile import ExpandedTile, format_expanded_tile
from treehead_logserver.kinds import ALL_KINDS
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.storage import lookups
from treehead_logserver.storage.base import Candidate, Term

_PUBLICATIONS = """
create table publications (size integer primary key);
create table notes (name text primary key, note blob not null) without rowid;
"""
_PAIRS_AT_ONCE = 1_048_576


def _from_version_1(connection: sqlite3.Connection) -> None:
    connection.create_function("expanded", 1, _expanded, deterministic=True)
    connection.create_function("key_of_term", 2, _key_of_term, deterministic=True)
    for statement in (
        *filter(str.strip, lookups.TABLES.split(";")),
        "insert into lookups select prefix, leaf_index from leaf_hashes",
        "insert or ignore into lookups select key_of_term(algorithm, digest), leaf_index from digests",
        "update tiles set hashes = expanded(hashes)",
        "drop table leaf_hashes",
        "drop table digests",
    ):
        connection.execute(statement)


def _from_version_2(connection: sqlite3.Connection) -> None:
    for statement in filter(str.strip, _PUBLICATIONS.split(";")):
        connection.execute(statement)
    connection.execute("delete from lookups")
    connection.execute("delete from recent")
    pairs: list[lookups.Pair] = []
    for index, leaf in connection.execute("select leaf_index, leaf from entries order by leaf_index"):
        pairs += [(key, index) for key in lookups.keys_of(_candidate(leaf))]
        if len(pairs) >= _PAIRS_AT_ONCE:
            _insert(connection, pairs)
            pairs.clear()
    _insert(connection, pairs)


def _insert(connection: sqlite3.Connection, pairs: list[lookups.Pair]) -> None:
    lookups.insert_pairs(connection, "insert or ignore into lookups", sorted(pairs))


def _candidate(leaf: bytes) -> Candidate:
    """What an entry that is in the log is found by now; as any bytes, if it would not be taken for an entry today."""
    return admit_leaf(leaf, rules=AdmissionRules(kinds=ALL_KINDS))


def _expanded(hashes: bytes) -> bytes:
    return format_expanded_tile(ExpandedTile.of(hashes))


def _key_of_term(kind: str, value: bytes) -> int:
    return lookups.key_of_term(Term(kind, value))


def read_unmarked_checkpoint(path: Path) -> bytes | None:
    """The checkpoint of a file of version 1, beside which there was no high-water mark; None for a later one.

    Raises:
        StorageError: there is no such file, or it is another program's.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            if read_version(connection, path, SCHEMA) != 1:
                return None
            row = connection.execute("select checkpoint from tree").fetchone()
    except sqlite3.Error as exc:
        raise StorageError(f"cannot open the database {path}: {exc}") from exc
    return None if row is None else cast("bytes", row[0])


SCHEMA = Schema(
    owner="log",
    application_id=0x54485244,  # "THRD"
    version=3,
    statements=f"""
create table entries (leaf_index integer primary key, leaf blob not null);
{lookups.TABLES}
create table tiles (place integer primary key, hashes blob not null);
create table tree (
    one integer primary key check (one = 1),
    size integer not null, compact_range blob not null, checkpoint blob not null
);
{_PUBLICATIONS}
""",
    migrations={1: _from_version_1, 2: _from_version_2},
)
