"""How large a log is and where its bytes are, read from its directory: whether it runs or not.

It is in nobody's way, but for a start of a log that stopped meanwhile, which waits until nobody reads.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from treehead.checkpoint import open_checkpoint
from treehead.display import printable, printable_name
from treehead.encoding import format_base64
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey, format_vkey
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import open_freeze
from treehead_logserver.highwater import read_mark
from treehead_logserver.progress import Progress
from treehead_logserver.snapshot import READ_ERRORS, Snapshot, look_at, wal_of
from treehead_logserver.storage.lookups import parse_pairs

TABLES = ("entries", "tiles", "lookups", "recent", "tree", "publications", "notes")

_ENTRIES_AT_ONCE = 65_536
_LOCK_PAGE_BEGIN = 1 << 30
"""SQLite leaves the page at this offset out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The figures; the names of those that count bytes say so.

    Attributes:
        size: entries.
        checkpoint_size: entries that the newest signed checkpoint is of.
        mark_size: entries that the high-water mark is of; None if there is none that can be read.
        published_size: entries that the published checkpoint is of; None if none was published yet.
        successor: the verifier key of the log that follows this one; None if it is not frozen.
        wal_bytes: what was committed and is not in the database file yet, and what the file of it is kept for.
        leaf_bytes: the entries themselves; None if they were not to be counted.
        rows, table_bytes: of each table; the latter is empty where SQLite cannot tell.
        lookups_moved, lookups_unmoved: look-up rows that are in the index proper, and those that are not yet.
        pages, free_pages, page_bytes: what the database file is made of.
    """

    origin: str
    size: int
    root: bytes
    checkpoint_size: int
    mark_size: int | None
    published_size: int | None
    successor: str | None
    database_bytes: int
    wal_bytes: int
    leaf_bytes: int | None
    rows: Mapping[str, int]
    table_bytes: Mapping[str, int]
    lookups_moved: int
    lookups_unmoved: int
    pages: int
    free_pages: int
    page_bytes: int
    schema_version: int
    sqlite_version: str

    @property
    def leaf_bytes_per_entry(self) -> float | None:
        """None for an empty log, or if they were not to be counted."""
        return self.leaf_bytes / self.size if self.size and self.leaf_bytes is not None else None

    @property
    def database_bytes_per_entry(self) -> float | None:
        """None for an empty log."""
        return self.database_bytes / self.size if self.size else None


# --- reading ---------------------------------------------------------------------------------------------------------


def read_stats(directory: DataDirectory, *, vkey: VerifierKey, quick: bool, progress: Progress) -> Stats:
    """The figures of the log in a directory, at one moment; a `quick` look leaves out what reads every entry.

    Raises:
        StorageError: the database cannot be read.
    """
    return look_at(directory.database, lambda snapshot: _read(snapshot, directory, vkey, None if quick else progress))


def _read(snapshot: Snapshot, directory: DataDirectory, vkey: VerifierKey, counting: Progress | None) -> Stats:
    connection = snapshot.connection
    try:
        checkpoint = snapshot.read_checkpoint(vkey=vkey)
        size = snapshot.read_state().size
        rows = _read_rows(connection)
        pages, free_pages, page_bytes = (
            _number(connection, f"pragma {name}") for name in ("page_count", "freelist_count", "page_size")
        )
        wal = wal_of(directory.database)
        return Stats(
            origin=vkey.name,
            size=size,
            root=checkpoint.root,
            checkpoint_size=checkpoint.size,
            mark_size=_read_mark_size(directory, vkey),
            published_size=_read_published_size(snapshot, vkey),
            successor=_read_successor(snapshot, vkey),
            database_bytes=directory.database.stat().st_size,
            wal_bytes=wal.stat().st_size if wal.exists() else 0,
            leaf_bytes=None if counting is None else _read_leaf_bytes(connection, rows["entries"], counting),
            rows=rows,
            table_bytes=_read_table_bytes(connection, (pages - free_pages) * page_bytes, page_bytes),
            lookups_moved=rows["lookups"],
            lookups_unmoved=_count_unmoved(snapshot),
            pages=pages,
            free_pages=free_pages,
            page_bytes=page_bytes,
            schema_version=_number(connection, "pragma user_version"),
            sqlite_version=sqlite3.sqlite_version,
        )
    except READ_ERRORS as exc:
        raise StorageError(f"cannot read the database {snapshot.path}: {exc}") from exc


def _number(connection: sqlite3.Connection, select: str, *values: int) -> int:
    (value,) = connection.execute(select, values).fetchone()
    return value if isinstance(value, int) else 0


def _read_mark_size(directory: DataDirectory, vkey: VerifierKey) -> int | None:
    try:
        return read_mark(directory.mark, vkey=vkey).size
    except StorageError:
        return None


def _read_published_size(snapshot: Snapshot, vkey: VerifierKey) -> int | None:
    note = snapshot.read_published()
    if note is None:
        return None
    try:
        return open_checkpoint(note, key=vkey).size
    except (MalformedError, SignatureError) as exc:
        raise StorageError(f"the database's published checkpoint is not by {vkey.name}: {exc}") from exc


def _read_successor(snapshot: Snapshot, vkey: VerifierKey) -> str | None:
    note = snapshot.read_freeze()
    return None if note is None else format_vkey(open_freeze(note, vkey=vkey).successor)


def _read_rows(connection: sqlite3.Connection) -> dict[str, int]:
    counts = {name: _number(connection, f"select count(*) from {name}") for name in TABLES if name != "entries"}  # noqa: S608
    # Counting entries would read all of them; they are numbered without gaps.
    return {"entries": _number(connection, "select coalesce(max(leaf_index) + 1, 0) from entries"), **counts}


def _read_leaf_bytes(connection: sqlite3.Connection, end: int, progress: Progress) -> int:
    progress.begin("entries", total=end)
    select = "select coalesce(sum(length(leaf)), 0) from entries where leaf_index >= ? and leaf_index < ?"
    total = 0
    for first in range(0, end, _ENTRIES_AT_ONCE):
        total += _number(connection, select, first, first + _ENTRIES_AT_ONCE)
        progress.reach(min(first + _ENTRIES_AT_ONCE, end))
    return total


def _read_table_bytes(connection: sqlite3.Connection, used_bytes: int, page_bytes: int) -> dict[str, int]:
    """The bytes of the pages of each table; those of the entries are what the others leave, for they are very many."""
    select = "select coalesce(sum(pgsize), 0) from dbstat where name = ? and aggregate = 1"
    try:
        others = {name: connection.execute(select, (name,)).fetchone()[0] for name in (*TABLES[1:], "sqlite_schema")}
    except sqlite3.OperationalError as exc:
        if "no such table: dbstat" not in str(exc):
            raise
        return {}  # an SQLite without this table
    lock_page = page_bytes if used_bytes > _LOCK_PAGE_BEGIN else 0
    return {
        "entries": used_bytes - sum(others.values()) - lock_page,
        **{name: size for name, size in others.items() if name in TABLES},
    }


def _count_unmoved(snapshot: Snapshot) -> int:
    connection, unmoved = snapshot.connection, 0
    select = "select 1 from lookups where key = ? and leaf_index = ?"
    for number, data in connection.execute("select number, pairs from recent"):
        try:
            pairs = parse_pairs(number, data)
        except StorageError as exc:
            raise StorageError(f"cannot read the database {snapshot.path}: {exc}") from exc
        for pair in pairs:
            unmoved += connection.execute(select, pair).fetchone() is None
    return unmoved


# --- printing --------------------------------------------------------------------------------------------------------


def format_stats(stats: Stats) -> str:
    """The figures for people."""
    rows = [("log", printable_name(stats.origin)), *_rows(stats)]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in rows)


def _rows(stats: Stats) -> Iterator[tuple[str, str]]:
    yield "entries", f"{stats.size:,}"
    yield "root", format_base64(stats.root)
    yield "checkpoint", f"of {stats.checkpoint_size:,} entries"
    yield "high-water mark", "none" if stats.mark_size is None else f"of {stats.mark_size:,} entries"
    yield "published", "none" if stats.published_size is None else f"of {stats.published_size:,} entries"
    if stats.successor is not None:
        yield "frozen", f"its successor is {printable(stats.successor)}"
    if stats.leaf_bytes is not None:
        yield "entries, bytes", f"{stats.leaf_bytes:,}{_each(stats.leaf_bytes_per_entry)}"
    yield "database, bytes", f"{stats.database_bytes:,}{_each(stats.database_bytes_per_entry)}"
    yield "write-ahead log, bytes", f"{stats.wal_bytes:,}"
    for name in TABLES:
        size = f", {stats.table_bytes[name]:,} bytes" if name in stats.table_bytes else ""
        yield f"table {name}", f"{stats.rows[name]:,} rows{size}"
    yield "look-up rows", f"{stats.lookups_moved:,} moved, {stats.lookups_unmoved:,} not yet"
    yield "pages", f"{stats.pages:,} of {stats.page_bytes:,} bytes, {stats.free_pages:,} free"
    yield "schema version", f"{stats.schema_version}"
    yield "SQLite", stats.sqlite_version


def _each(size_bytes: float | None) -> str:
    return "" if size_bytes is None else f" ({size_bytes:,.1f} an entry)"


def format_stats_json(stats: Stats) -> str:
    """The figures for programs, on one line."""
    return json.dumps(
        {
            **asdict(stats),
            "root": format_base64(stats.root),
            "leaf_bytes_per_entry": stats.leaf_bytes_per_entry,
            "database_bytes_per_entry": stats.database_bytes_per_entry,
        }
    )
