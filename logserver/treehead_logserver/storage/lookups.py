"""The look-up index of the SQLite engine: keys of eight bytes, and the entries that are found by them.

    lookups      key, leaf_index     the index proper, ordered by key
    recent       number -> pairs     what commits have added of late and is not in it yet: 8 bytes each of key and index

A leaf hash is found by its first eight bytes, a term by those of a hash over it. A key narrows the search and decides
nothing: whoever asks compares with the entry itself. Narrow rows are what keeps an index of many millions small.

The lowest bit says which of the two a key is: 0 for a leaf. Otherwise somebody could, with 2^32 tries, make a term with
the key of an entry of theirs, log many entries with that term, and have all of them read whenever that one is looked
up.

Keys are random, so each new row of `lookups` falls on a page of its own, and a page written for each row is what limits
an append. Therefore a commit only adds its pairs as one row of `recent` and to a *run* in memory. A run that is full is
moved into `lookups` in the order of its keys, some with each commit, and the rest when the log is idle: then many rows
fall on one page. A crash in the middle harms nothing, since what is in `recent` is loaded again, and inserted again
without effect.
"""

from __future__ import annotations

import sqlite3
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain, islice

from treehead.errors import StorageError
from treehead_logserver.storage.base import Candidate, Term

TABLES = """
create table lookups (key integer not null, leaf_index integer not null, primary key (key, leaf_index)) without rowid;
create table recent (number integer primary key, pairs blob not null);
"""

RUN_PAIRS_MAX = 327_680
"""How many pairs a run takes until it is moved. There are about as many in memory, of some 110 bytes each, for one run
is dropped as the next one grows; half as many more after a start. With tens of millions of pairs in the table, longer
runs would make fewer pages be written."""

_BUCKET_BITS = 8
_MOVED_BESIDES = 8
"""A commit moves twice as many pairs as it adds, and these: so a run is moved before the next one is full."""
_MOVED_WHEN_IDLE = 1_024
_DROPPED_AT_ONCE = 256
_PAIR_BYTES = 16
_ROWS_A_STATEMENT = (512, 128, 32, 8, 2, 1)
_KEYS_A_STATEMENT = (1, 4, 16, 64, 256)

Pair = tuple[int, int]
"""A key and the index of an entry."""


def key_of_leaf(leaf_hash: bytes) -> int:
    """The key by which a leaf is found; even."""
    return int.from_bytes(leaf_hash[:8], "big", signed=True) & ~1


def key_of_term(term: Term) -> int:
    """The key by which the entries of a term are found; odd."""
    digest = sha256(term.kind.encode() + b"\x00" + term.value).digest()
    return int.from_bytes(digest[:8], "big", signed=True) | 1


def is_key_of_leaf(key: int) -> bool:
    """Whether leaves are found by a key, and not terms."""
    return not key & 1


def keys_of(candidate: Candidate) -> list[int]:
    """All the keys by which an entry is to be found, that of its leaf first."""
    keys = [key_of_leaf(candidate.leaf_hash)]
    for term in candidate.terms:
        keys.append(key_of_term(term))
    return keys


# The interpreter's lock is let go for each statement, and to have it back takes long when the event loop is busy: so
# one statement does many rows. There are few different ones, for each is prepared once and kept.


def find_in_table(connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, list[int]]:
    """For each of the keys that is in the table, the indices of its entries."""
    found: dict[int, list[int]] = {}
    at = 0
    while at < len(keys):
        width = next((width for width in _KEYS_A_STATEMENT if width >= len(keys) - at), _KEYS_A_STATEMENT[-1])
        some = keys[at : at + width]
        at += width
        query = f"select key, leaf_index from lookups where key in ({','.join('?' * width)})"  # noqa: S608 -- marks only
        for key, index in connection.execute(query, [*some, *[some[0]] * (width - len(some))]):
            if not isinstance(index, int):
                raise StorageError("a row of the table lookups is damaged: it is not made of numbers")
            found.setdefault(key, []).append(index)
    return found


def insert_pairs(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[object, object]]) -> None:
    """Insert rows of two columns."""
    at = 0
    for width in _ROWS_A_STATEMENT:
        statement = f"{insert} values {','.join(['(?,?)'] * width)}"
        while len(rows) - at >= width:
            connection.execute(statement, list(chain.from_iterable(rows[at : at + width])))
            at += width


class Lookups:
    """The index of one database, as its one writer keeps it.

    `find_recent` and `find_recent_of` may be called from any thread, at any time; everything else from the writer's
    only. Who searches here and in the table has to search here first: what is moved is in the table before it is gone
    from here.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Load what is not in the table yet.

        Raises:
            StorageError: it is damaged.
        """
        self._growing = _Run()
        self._moving: _Run | None = None
        self._moving_end = self._moved_end = 0
        self._left: Iterator[Pair] = iter(())
        self._slice: list[Pair] = []
        self._next_number = self._next_dropped = 0
        for number, pairs in connection.execute("select number, pairs from recent order by number"):
            if self._next_number == 0:
                self._next_dropped = number
            self._growing.add(parse_pairs(number, pairs))
            self._next_number = number + 1
        self._move_if_full()

    @property
    def is_behind(self) -> bool:
        """Whether there is something to move."""
        return self._moving is not None or self._next_dropped < self._moved_end

    def find_recent(self, key: int, *, first_index: int = 0, count_max: int = sys.maxsize) -> list[int]:
        """The smallest indices, from `first_index` on, that are found by a key and may not be in the table yet."""
        found: list[int] = []
        for run in self._runs():
            found += run.find(key, first_index, count_max - len(found))
        return found

    def find_recent_of(self, keys: Sequence[int]) -> dict[int, list[int]]:
        """For each of the keys that has any, the indices that are found by it and may not be in the table yet."""
        found: dict[int, list[int]] = {}
        for run in self._runs():
            for key in run.known(keys):
                found.setdefault(key, []).extend(run.find(key))
        return found

    def _runs(self) -> Sequence[_Run]:
        """The earlier one first."""
        growing, moving = self._growing, self._moving  # in this order: see `_move_if_full`
        return (growing,) if moving is None or moving is growing else (moving, growing)

    def insert(self, connection: sqlite3.Connection, pairs: Sequence[Pair]) -> None:
        """Write the pairs of new entries, and move some older ones, all within the transaction under way.

        After its commit `committed` has to be called with the same pairs, after a rollback nothing.
        """
        connection.execute("insert into recent values (?, ?)", (self._next_number, _format_pairs(pairs)))
        self._move(connection, 2 * len(pairs) + _MOVED_BESIDES)

    def committed(self, pairs: Sequence[Pair]) -> None:
        """Make the pairs that were inserted last findable."""
        self._next_number += 1
        self._growing.add(pairs)
        self.moved()
        self._move_if_full()

    def move(self, connection: sqlite3.Connection) -> None:
        """Move some pairs within the transaction under way; after its commit `moved` has to be called."""
        self._move(connection, _MOVED_WHEN_IDLE)

    def moved(self) -> None:
        """Let go of what was moved last."""
        self._next_dropped = self._dropped_end()
        if self._moving is not None:
            if self._slice:
                self._moving.drop_before(self._slice[-1][0])
            else:
                self._moving = None
                self._moved_end = self._moving_end
            self._slice = []

    def _move(self, connection: sqlite3.Connection, pairs_max: int) -> None:
        if self._moving is not None and not self._slice:
            # A slice is kept until it is committed: taking it from the iterator cannot be rolled back.
            self._slice = list(islice(self._left, pairs_max))
        insert_pairs(connection, "insert or ignore into lookups", self._slice)
        if self._next_dropped < self._dropped_end():
            connection.execute("delete from recent where number < ?", (self._dropped_end(),))

    def _move_if_full(self) -> None:
        if self._moving is None and self._growing.pairs >= RUN_PAIRS_MAX:
            self._moving = self._growing  # first, so that who looks into both at this moment sees it at least once
            self._growing = _Run()
            self._moving_end = self._next_number
            self._left = self._moving.in_order()

    def _dropped_end(self) -> int:
        """Up to where the next commit drops rows of `recent` that are in the table: some at a time."""
        return max(self._next_dropped, min(self._moved_end, self._next_dropped + _DROPPED_AT_ONCE))


class _Run:
    """Pairs in memory, in buckets by the highest bits of the key: at a time one bucket is sorted, moved and dropped."""

    __slots__ = ("_buckets", "_dropped_end", "_more", "pairs")

    def __init__(self) -> None:
        self.pairs = 0
        # A negative key has a negative bucket, which Python counts from the end.
        self._buckets: list[dict[int, int]] = [{} for _ in range(1 << _BUCKET_BITS)]
        self._dropped_end = -len(self._buckets) // 2
        self._more: dict[int, list[int]] = {}
        """Of the few keys with several entries, those beyond the first."""

    def add(self, pairs: Iterable[Pair]) -> None:
        buckets = self._buckets
        for key, index in pairs:
            if buckets[key >> 64 - _BUCKET_BITS].setdefault(key, index) != index:
                self._more.setdefault(key, []).append(index)
            self.pairs += 1

    def known(self, keys: Iterable[int]) -> list[int]:
        """Those of the keys by which an entry is found."""
        buckets = self._buckets
        return [key for key in keys if key in buckets[key >> 64 - _BUCKET_BITS]]

    def find(self, key: int, first_index: int = 0, count_max: int = sys.maxsize) -> list[int]:
        index = self._buckets[key >> 64 - _BUCKET_BITS].get(key)
        if index is None:
            return []
        found = [index] if index >= first_index else []
        more = self._more.get(key)  # if it is gone since, all of them are in the table
        if more is not None:
            at = bisect_left(more, first_index)
            found += more[at : at + count_max]
        return found[:count_max]

    def in_order(self) -> Iterator[Pair]:
        half = len(self._buckets) // 2
        for number in range(-half, half):
            bucket = self._buckets[number]
            for key in sorted(bucket):
                yield key, bucket[key]
                for index in self._more.get(key, ()):
                    yield key, index

    def drop_before(self, key: int) -> None:
        """Let go of the buckets before that of a key. A thread that has one of them in its hands may go on with it."""
        end = key >> 64 - _BUCKET_BITS
        for number in range(self._dropped_end, end):
            for key in self._more.keys() & self._buckets[number].keys():
                del self._more[key]
            self._buckets[number] = {}
        self._dropped_end = max(self._dropped_end, end)


def _format_pairs(pairs: Sequence[Pair]) -> bytes:
    return struct.pack(f">{2 * len(pairs)}q", *chain.from_iterable(pairs))


def parse_pairs(number: int, data: object) -> Iterator[Pair]:
    """The pairs of a row of `recent`.

    Raises:
        StorageError: it is not made of whole pairs.
    """
    if not isinstance(data, bytes) or len(data) % _PAIR_BYTES:
        raise StorageError(f"row {number} of the table recent is damaged: it is not made of whole pairs")
    return struct.iter_unpack(">qq", data)
