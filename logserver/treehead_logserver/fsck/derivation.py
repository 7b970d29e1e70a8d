"""From stored entries to what they make: leaf hashes, and the look-up rows by which they are found.

An entry is taken through admission again, signature and all, for only an entry whose signature verifies is found by
more than its hash. That takes most of the time of a check, and is done by a few threads: `cryptography` lets go of the
interpreter's lock while it verifies. Which rules the log had is not known here; one that takes any bytes is assumed.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from treehead.errors import TreeheadError
from treehead.tile import TILE_WIDTH
from treehead_logserver.fsck.findings import Findings
from treehead_logserver.kinds import ALL_KINDS
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.snapshot import READ_ERRORS
from treehead_logserver.storage.base import Candidate

THREADS_MAX = 4
"""Parsing holds the lock, so that more of them gain nothing."""

_ANYTHING = AdmissionRules(kinds=ALL_KINDS)

_AHEAD = 2
"""Chunks that wait for each thread. The entries of a chunk have 16 MB at most."""


class Chunk(NamedTuple):
    """The entries of one tile, or those that will be in the next one: all that can be read, None for others."""

    first_index: int
    candidates: Sequence[Candidate | None]


def derive(connection: sqlite3.Connection, size: int, findings: Findings) -> Iterator[Chunk]:
    """What the entries before `size` make, in their order; one that is too large to be one is a finding."""
    threads = min(THREADS_MAX, os.cpu_count() or 1)
    waiting: deque[Future[tuple[Chunk, list[tuple[int, str]]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="derivation") as pool:
        try:
            for first in range(0, size, TILE_WIDTH):
                leaves = _read(connection, first, min(first + TILE_WIDTH, size), findings)
                waiting.append(pool.submit(_derived, first, leaves))
                if len(waiting) > _AHEAD * threads:
                    yield _noted(waiting.popleft(), findings)
            while waiting:
                yield _noted(waiting.popleft(), findings)
        finally:
            pool.shutdown(cancel_futures=True)


def _derived(first: int, leaves: Sequence[bytes | None]) -> tuple[Chunk, list[tuple[int, str]]]:
    candidates: list[Candidate | None] = []
    refused = []
    for index, leaf in enumerate(leaves, first):
        try:
            candidates.append(None if leaf is None else admit_leaf(leaf, rules=_ANYTHING))
        except TreeheadError as exc:
            candidates.append(None)
            refused.append((index, str(exc)))
    return Chunk(first, candidates), refused


def _noted(future: Future[tuple[Chunk, list[tuple[int, str]]]], findings: Findings) -> Chunk:
    chunk, refused = future.result()
    for index, reason in refused:
        findings.add(f"entry {index}", f"is none that the log can have taken: {reason}")
    return chunk


def _read(connection: sqlite3.Connection, first: int, end: int, findings: Findings) -> list[bytes | None]:
    leaves: list[object] = [None] * (end - first)
    missing = set(range(first, end))
    try:
        _fill(connection, first, leaves, missing, begin=first, end=end)
    except READ_ERRORS as exc:
        # Some page is damaged. Most of the entries are on others.
        unread = _fill_singly(connection, first, leaves, missing)
        for begin, stop in _ranges(unread):
            findings.add(entries(begin, stop), f"cannot be read: {exc}", count=stop - begin)
        missing.difference_update(unread)
    for begin, stop in _ranges(sorted(missing)):
        findings.add(entries(begin, stop), f"{be(stop - begin)} missing", count=stop - begin)
    for index, leaf in enumerate(leaves, first):
        if leaf is not None and not isinstance(leaf, bytes):
            findings.add(f"entry {index}", "is not stored as bytes")
    return [leaf if isinstance(leaf, bytes) else None for leaf in leaves]


def _fill(
    connection: sqlite3.Connection, first: int, leaves: list[object], missing: set[int], *, begin: int, end: int
) -> None:
    """Read some entries into `leaves`, whose first place is that of the entry `first`."""
    select = "select leaf_index, leaf from entries where leaf_index >= ? and leaf_index < ? order by leaf_index"
    for index, leaf in connection.execute(select, (begin, end)):
        if begin <= index < end:  # in a damaged tree, anything may stand anywhere
            leaves[index - first] = leaf
            missing.discard(index)


def _fill_singly(connection: sqlite3.Connection, first: int, leaves: list[object], missing: set[int]) -> list[int]:
    """Read what is missing entry by entry; returns those that cannot be read."""
    unread = []
    for index in sorted(missing):
        try:
            _fill(connection, first, leaves, missing, begin=index, end=index + 1)
        except READ_ERRORS:
            unread.append(index)
    return unread


def entries(begin: int, end: int) -> str:
    """Those from one index to before another, in words."""
    return f"entry {begin}" if end - begin == 1 else f"entries {begin} to {end - 1}"


def be(count: int) -> str:
    """The verb for so many."""
    return "is" if count == 1 else "are"


def _ranges(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending indices as ranges without gaps."""
    begin = 0
    for at in range(1, len(indices) + 1):
        if at == len(indices) or indices[at] != indices[at - 1] + 1:
            yield indices[begin], indices[at - 1] + 1
            begin = at
