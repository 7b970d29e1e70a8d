"""The tables of the SQLite engine, and how a file of an earlier version becomes one of this.

    entries      leaf_index -> leaf
    lookups, recent                   by what entries are found: see `lookups`
    tiles        level << 56 | number -> the full tile with its inner nodes, 16,352 bytes; written once
    tree         one row: size, compact range, signed checkpoint
    publications size of each checkpoint that was published
    notes        name -> signed note: "published", the newest of those, and "freeze", which ends the log

Version 1 had wide rows for digests, an index of leaf hashes of its own, and tiles without their inner nodes. Version 2
published every checkpoint, found entries by hash and by two kinds of digests only, and did not tell keys of leaves from
keys of terms.

To derive all look-ups anew takes as long as to admit all entries did, some two minutes a million, for nobody else knows
which JSON document was signed and which was logged as any bytes. The journal says how far it has come.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from treehead.errors import MalformedError, StorageError, TreeheadError
from treehead.sqlite import Schema, read_version
from treehead.tile import ExpandedTile, format_expanded_tile
from treehead_logserver.kinds import ALL_KINDS
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.storage import lookups
from treehead_logserver.storage.rows import stored_bytes, tile_at

_PUBLICATIONS = """
create table publications (size integer primary key);
create table notes (name text primary key, note blob not null) without rowid;
"""
_PAIRS_AT_ONCE = 1_048_576
REPORTED_EVERY = 100_000
"""Of so many entries the journal says that they were gone through."""

_ANYTHING = AdmissionRules(kinds=ALL_KINDS)
_LOG = logging.getLogger(__name__)


def _from_version_1(connection: sqlite3.Connection) -> None:
    _execute(connection, lookups.TABLES)
    for (place,) in connection.execute("select place from tiles").fetchall():
        (hashes,) = connection.execute("select hashes from tiles where place = ?", (place,)).fetchone()
        connection.execute("update tiles set hashes = ? where place = ?", (_expanded(place, hashes), place))
    connection.execute("drop table leaf_hashes")
    connection.execute("drop table digests")


def _from_version_2(connection: sqlite3.Connection) -> None:
    _execute(connection, _PUBLICATIONS)
    connection.execute("delete from lookups")
    connection.execute("delete from recent")
    (count,) = connection.execute("select coalesce(max(leaf_index) + 1, 0) from entries").fetchone()
    _LOG.info("bringing the database up to this version: the look-ups of %d entries are derived anew", count)
    pairs: list[lookups.Pair] = []
    rows = connection.execute("select leaf_index, leaf from entries order by leaf_index")
    for done, (index, leaf) in enumerate(rows, 1):
        pairs += [(key, index) for key in _keys_of(index, leaf)]
        if len(pairs) >= _PAIRS_AT_ONCE:
            _insert(connection, pairs)
            pairs.clear()
        if not done % REPORTED_EVERY:
            _LOG.info("bringing the database up to this version: %d of %d entries are done", done, count)
    _insert(connection, pairs)
    _LOG.info("the database is of this version now, once that is committed")


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    """Some statements, within the transaction under way, which `executescript` would commit."""
    for statement in filter(str.strip, statements.split(";")):
        connection.execute(statement)


def _insert(connection: sqlite3.Connection, pairs: list[lookups.Pair]) -> None:
    lookups.insert_pairs(connection, "insert or ignore into lookups", sorted(pairs))


def _keys_of(index: int, leaf: object) -> list[int]:
    """The keys by which an entry is found that is in the log, whatever its rules are.

    Only a JSON document is parsed and its signature verified. If it does not verify, it was logged as any bytes, and is
    found by its hash alone: `fsck` derives the same.
    """
    try:
        return lookups.keys_of(admit_leaf(stored_bytes(leaf, what=f"entry {index}"), rules=_ANYTHING))
    except StorageError as exc:
        raise _unmigrated(exc) from exc
    except TreeheadError as exc:
        raise _unmigrated(StorageError(f"entry {index} is damaged: {exc}")) from exc


def _expanded(place: int, hashes: object) -> bytes:
    tile = tile_at(place)
    what = f"tile {tile.level}/{tile.number}"
    try:
        return format_expanded_tile(ExpandedTile.of(stored_bytes(hashes, what=what)))
    except StorageError as exc:
        raise _unmigrated(exc) from exc
    except MalformedError as exc:
        raise _unmigrated(StorageError(f"{what} is damaged: {exc}")) from exc


def _unmigrated(error: StorageError) -> StorageError:
    return StorageError(
        f"the database is of an earlier version and cannot be brought up to this one, since {error}; it was left as it "
        "was, so restore a copy"
    )


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
    return None if row is None else stored_bytes(row[0], what="the checkpoint of the tree state")


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
