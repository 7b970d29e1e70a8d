"""The look-up rows that the entries make, held against those that are stored.

There may be many more of them than fit into memory, and they are stored in the order of their keys, which is no order
of the entries. So both sides are summed up, for each range of keys: a row adds a number that is a hash over it and over
a secret of this one check, and two sums are equal only if the rows are. Only in ranges where they are not, rows are
compared one by one.

What is stored is the union of two tables (see `storage.lookups`): rows may be in `recent` only, in `lookups` only, or,
while they are moved, in both.
"""

from __future__ import annotations

import secrets
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence, Set
from hashlib import sha256
from itertools import groupby

from treehead.lookup import NAME, PURL, SIGNER, Term
from treehead.merkle import hash_leaf
from treehead_logserver.fsck.derivation import Chunk
from treehead_logserver.fsck.findings import Findings
from treehead_logserver.progress import Progress
from treehead_logserver.snapshot import READ_ERRORS
from treehead_logserver.storage.base import Candidate
from treehead_logserver.storage.lookups import Pair, is_key_of_leaf, key_of_leaf, key_of_term, keys_of

RANGES_COMPARED_MAX = 16
ROWS_COMPARED_MAX = 200_000
"""Where the sums differ, so many ranges of keys are compared row by row, if they do not hold more rows than that."""

_REPORTED_EVERY = 65_536
_RANGE_BITS = 12
_RANGES = 1 << _RANGE_BITS
_SHIFT = 64 - _RANGE_BITS
_SECRET_BYTES = 16
_PAIR = struct.Struct(">qq")
_NOUNS = {NAME: "a name", PURL: "a package URL", SIGNER: "its signer"}

_SELECT = "select key, leaf_index from lookups where key >= ? order by key, leaf_index"


class Lookups:
    """The two sides. All entries are told to `expect`, then `read` reads what is stored.

    Of entries that are `ignored`, because they are known to be damaged, nothing is expected and nothing is found. More
    may get into that set as long as the entry was not expected, and `read` not called.

    Attributes:
        expected: how many rows the entries make.
        rows: how many are stored, in one table or both.
    """

    def __init__(self, connection: sqlite3.Connection, findings: Findings, *, ignored: Set[int]) -> None:
        self.expected = 0
        self.rows = 0
        self._connection = connection
        self._findings = findings
        self._ignored = ignored
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._sums = [0] * _RANGES  # of a negative key the range is negative, which Python counts from the end
        self._unread: set[int] = set()
        self._unmoved: set[Pair] = set()
        self._is_whole = True
        self._twins = _Twins(connection, findings)

    def expect(self, chunk: Chunk) -> None:
        """The entries of a chunk have to be found."""
        secret, sums, pack = self._secret, self._sums, _PAIR.pack
        for index, candidate in enumerate(chunk.candidates, chunk.first_index):
            if candidate is not None and index not in self._ignored:
                keys = set(keys_of(candidate))  # two terms may have the same key
                self.expected += len(keys)
                for key in keys:
                    sums[key >> _SHIFT] += int.from_bytes(sha256(secret + pack(key, index)).digest()[:16], "big")

    def read(self, progress: Progress) -> None:
        """Read what is stored."""
        self._unmoved, self._is_whole = _read_recent(self._connection, self._findings)
        previous: Pair = (-(1 << 63), -1)
        for row in self._moved(self._findings):
            if row <= previous:
                self._findings.add(_name(row), "is not in its place in the order of the keys")
            if row[0] == previous[0]:
                self._twins.look(*row, after=previous)
            self._unmoved.discard(row)
            self._subtract(row)
            previous = row
            if not self.rows % _REPORTED_EVERY:
                progress.reach(self.rows)
        for pair in self._unmoved:
            self._subtract(pair)
        for key, pairs in groupby(sorted(self._unmoved), key=lambda pair: pair[0]):
            self._twins.look_up(key, [index for _, index in pairs])
        progress.reach(self.rows)

    def _subtract(self, pair: Pair) -> None:
        self.rows += 1
        if pair[1] in self._ignored:
            return
        digest = sha256(self._secret + _PAIR.pack(*pair)).digest()
        self._sums[pair[0] >> _SHIFT] -= int.from_bytes(digest[:16], "big")

    def _moved(self, findings: Findings) -> Iterator[Pair]:
        """The rows of `lookups`, as they are stored; after a page that cannot be read it goes on with another range."""
        low, failing = -_RANGES // 2, False
        while low < _RANGES // 2:
            try:
                for row in self._connection.execute(_SELECT, (low << _SHIFT,)):
                    try:
                        _PAIR.pack(*row)
                    except struct.error:
                        findings.add("look-up row", f"{row[0]!r}, {row[1]!r} is not made of two numbers")
                        continue
                    low, failing = max(low, row[0] >> _SHIFT), False
                    yield row
                return
            except READ_ERRORS as exc:
                if not failing:  # otherwise it is still the same page
                    findings.add(f"look-up rows from key {_hex(low << _SHIFT)} on", f"cannot be read: {exc}")
                self._unread.add(low)
                low, failing = low + 1, True

    # --- a second look, where the sums differ ------------------------------------------------------------------------

    def comparison(self) -> Comparison | None:
        """The stored rows in ranges of keys where the sums differ, to hold entries against; None if they do not.

        Nor is there anything to compare with if `recent` could not be read: then rows are missing for that reason.
        """
        half = _RANGES // 2
        differing = [number for number in range(-half, half) if self._sums[number] and number not in self._unread]
        if not self._is_whole:
            return None
        self._give_up(len(differing[RANGES_COMPARED_MAX:]))
        ranges = set(differing[:RANGES_COMPARED_MAX])
        if not ranges:
            return None
        stored: dict[int, set[int]] = defaultdict(set)
        count = 0
        for rows in (self._moved(Findings()), self._unmoved):
            for key, index in rows:
                if key >> _SHIFT in ranges and index not in self._ignored:
                    stored[index].add(key)
                    count += 1
                    if count > ROWS_COMPARED_MAX:
                        self._give_up(len(ranges))
                        return None
        return Comparison(stored, ranges, self._findings, ignored=self._ignored)

    def _give_up(self, ranges: int) -> None:
        if ranges:
            share = f"in {ranges} of {_RANGES} ranges of keys"
            self._findings.add("look-up rows", f"are not those that the entries give, {share}", count=ranges)


class Comparison:
    """Rows that are stored in some ranges of keys, which are taken away as entries are found to give them."""

    def __init__(
        self,
        stored: dict[int, set[int]],
        ranges: Collection[int],
        findings: Findings,
        *,
        ignored: Set[int],
    ) -> None:
        self._stored = stored
        self._ranges = ranges
        self._findings = findings
        self._ignored = ignored

    def compare(self, chunk: Chunk) -> None:
        """Take away what the entries of a chunk give; a row that is missing or that they do not give is a finding."""
        for index, candidate in enumerate(chunk.candidates, chunk.first_index):
            stored = self._stored.pop(index, set())
            if candidate is None or index in self._ignored:
                continue
            expected = {key for key in keys_of(candidate) if key >> _SHIFT in self._ranges}
            for key in sorted(expected - stored):
                what = f"is missing: the entry is not found by {_reason(candidate, key)}"
                self._findings.add(_name((key, index)), what)
            for key in sorted(stored - expected):
                self._findings.add(_name((key, index)), "is none that the entry gives")

    def finish(self) -> None:
        """What is left is of no entry."""
        for index, keys in self._stored.items():
            for key in keys:
                self._findings.add(_name((key, index)), "is of no entry")


class _Twins:
    """Looks for two entries that are the same, among those that are found by the same key of a leaf.

    Entries are read again for it, so keys of terms are left out: by one signer all entries of a log may be found.
    """

    def __init__(self, connection: sqlite3.Connection, findings: Findings) -> None:
        self._connection = connection
        self._findings = findings
        self._key: int | None = None
        self._index_of: dict[bytes, int] = {}

    def look(self, key: int, index: int, *, after: Pair) -> None:
        """An entry is found by a key, as is that of the row before, `after`."""
        if is_key_of_leaf(key):
            if key != self._key:
                self._begin(key)
                self._look(after[1])
            self._look(index)

    def look_up(self, key: int, indices: Sequence[int]) -> None:
        """Some entries are found by a key, in order, and besides them those that `lookups` has for it."""
        if is_key_of_leaf(key):
            self._begin(key)
            found = {*indices, *self._stored(key)}
            if len(found) > 1:
                for index in sorted(found):
                    self._look(index)

    def _begin(self, key: int) -> None:
        self._key, self._index_of = key, {}

    def _stored(self, key: int) -> Sequence[int]:
        """The entries that `lookups` has for a key."""
        try:
            rows = self._connection.execute("select leaf_index from lookups where key = ?", (key,)).fetchall()
        except READ_ERRORS:
            return ()  # which is found elsewhere
        return [index for (index,) in rows if isinstance(index, int)]

    def _look(self, index: int) -> None:
        try:
            row = self._connection.execute("select leaf from entries where leaf_index = ?", (index,)).fetchone()
        except READ_ERRORS:
            return
        if row is None or not isinstance(row[0], bytes):
            return
        if (first := self._index_of.setdefault(hash_leaf(row[0]), index)) != index:
            self._findings.add(f"entry {index}", f"is the same as entry {first}")


def _read_recent(connection: sqlite3.Connection, findings: Findings) -> tuple[set[Pair], bool]:
    """The pairs of `recent`, whose rows have to be numbered without gaps, and whether these are all."""
    found: set[Pair] = set()
    expected: int | None = None
    try:
        if connection.execute("select 1 from lookups limit 1").fetchone() is None:
            expected = 0  # nothing was moved yet, so nothing was dropped either
    except READ_ERRORS:
        pass  # which is found elsewhere
    try:
        for number, data in connection.execute("select number, pairs from recent order by number"):
            if expected is not None and number != expected:
                findings.add(f"recent row {expected}", "is missing")
            expected = number + 1
            if not isinstance(data, bytes) or len(data) % _PAIR.size:
                findings.add(f"recent row {number}", "is not made of whole pairs")
                continue
            pairs = set(_PAIR.iter_unpack(data))
            if not found.isdisjoint(pairs):
                findings.add(f"recent row {number}", "has pairs that an earlier row has")
            found |= pairs
    except READ_ERRORS as exc:
        findings.add("recent rows", f"cannot be read: {exc}")
        return found, False
    return found, True


def _reason(candidate: Candidate, key: int) -> str:
    if key == key_of_leaf(candidate.leaf_hash):
        return "its hash"
    return next(_describe(term) for term in sorted(candidate.terms) if key_of_term(term) == key)


def _name(pair: Pair) -> str:
    return f"look-up row {_hex(pair[0])} of entry {pair[1]}"


def _hex(key: int) -> str:
    return f"{key % (1 << 64):016x}"


def _describe(term: Term) -> str:
    """What an entry is found by, in words; a digest by its algorithm."""
    return _NOUNS.get(term.kind, f"a {term.kind} digest")
