"""A log's database as version 1 of the schema had it, for what has to read it still."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from treehead.merkle import hash_leaf
from treehead.tile import RightEdge
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Term

STATEMENTS = """
pragma journal_mode = wal;
pragma application_id = 0x54485244;
pragma user_version = 1;
create table entries (leaf_index integer primary key, leaf blob not null);
create table leaf_hashes (
    prefix integer not null, leaf_index integer not null, primary key (prefix, leaf_index)
) without rowid;
create table digests (
    algorithm text not null, digest blob not null, leaf_index integer not null,
    primary key (algorithm, digest, leaf_index)
) without rowid;
create table tiles (place integer primary key, hashes blob not null);
create table tree (
    one integer primary key check (one = 1),
    size integer not null, compact_range blob not null, checkpoint blob not null
);
"""


def create_version_1(path: Path, *, signer: Signer, entries: Sequence[tuple[bytes, Sequence[Term]]]) -> None:
    """Make the file of a log with these leaves, each with the terms that it is found by."""
    edge = RightEdge()
    tiles = edge.append(hash_leaf(leaf) for leaf, _ in entries)
    state = signer.state_of(edge)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(STATEMENTS)
        connection.execute("begin")
        for index, (leaf, terms) in enumerate(entries):
            prefix = int.from_bytes(hash_leaf(leaf)[:8], "big", signed=True)
            connection.execute("insert into entries values (?, ?)", (index, leaf))
            connection.execute("insert into leaf_hashes values (?, ?)", (prefix, index))
            connection.executemany("insert into digests values (?, ?, ?)", [(*term, index) for term in terms])
        rows = [(tile.level << 56 | tile.number, expanded.hashes) for tile, expanded in tiles.items()]
        connection.executemany("insert into tiles values (?, ?)", rows)
        row = (state.size, b"".join(state.compact_range), state.checkpoint)
        connection.execute("insert into tree values (1, ?, ?, ?)", row)
        connection.execute("commit")
