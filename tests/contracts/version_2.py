"""A log's database as version 2 of the schema had it, for what has to read it still."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from treehead.merkle import hash_leaf
from treehead.tile import RightEdge
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Term

STATEMENTS = """
pragma journal_mode = wal;
pragma application_id = 0x54485244;
pragma user_version = 2;
create table entries (leaf_index integer primary key, leaf blob not null);
create table lookups (key integer not null, leaf_index integer not null, primary key (key, leaf_index)) without rowid;
create table recent (number integer primary key, pairs blob not null);
create table tiles (place integer primary key, hashes blob not null);
create table tree (
    one integer primary key check (one = 1),
    size integer not null, compact_range blob not null, checkpoint blob not null
);
"""


def key_of_leaf(leaf_hash: bytes) -> int:
    """By what a leaf was found then; it may be odd."""
    return int.from_bytes(leaf_hash[:8], "big", signed=True)


def key_of_term(term: Term) -> int:
    """By what the entries of a term were found then; it may be even."""
    return int.from_bytes(sha256(term.kind.encode() + b"\0" + term.value).digest()[:8], "big", signed=True)


def create_version_2(path: Path, *, signer: Signer, entries: Sequence[tuple[bytes, Sequence[Term]]]) -> None:
    """Make the file of a log with these leaves, each with the terms that it is found by.

    The look-ups of the first half were moved, those of the second half were not; those between are in both tables.
    """
    edge = RightEdge()
    tiles = edge.append(hash_leaf(leaf) for leaf, _ in entries)
    state = signer.state_of(edge)
    pairs = [
        [(key_of_leaf(hash_leaf(leaf)), index), *((key_of_term(term), index) for term in terms)]
        for index, (leaf, terms) in enumerate(entries)
    ]
    moved, recent = pairs[: len(pairs) // 2 + 1], pairs[len(pairs) // 2 :]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(STATEMENTS)
        connection.execute("begin")
        connection.executemany("insert into entries values (?, ?)", [(n, leaf) for n, (leaf, _) in enumerate(entries)])
        connection.executemany("insert into lookups values (?, ?)", [pair for some in moved for pair in some])
        for number, some in enumerate(recent):
            packed = b"".join(struct.pack(">qq", *pair) for pair in some)
            connection.execute("insert into recent values (?, ?)", (number, packed))
        rows = [(tile.level << 56 | tile.number, b"".join(expanded.rows)) for tile, expanded in tiles.items()]
        connection.executemany("insert into tiles values (?, ?)", rows)
        row = (state.size, b"".join(state.compact_range), state.checkpoint)
        connection.execute("insert into tree values (1, ?, ?, ?)", row)
        connection.execute("commit")
