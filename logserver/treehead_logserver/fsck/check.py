"""The check of a whole log: everything that can be derived from its entries is, and is held against what is stored.

    1. the file       what SQLite itself finds; the tables
    2. the tree       every leaf hashed anew, every full tile, the tree state, the signed checkpoint
    3. the look-ups   every row by which an entry is found, and no other
    4. the notes      what was published is of the tree or an earlier one of it, and so is what ended the log
    5. the mark       the tree is the one that the log has signed last, or has grown out of it; and if the log was
                      frozen, the notes say so

It streams: memory does not grow with the log. What cannot be read is a finding, and the check goes on with what can.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from threading import Thread
from types import SimpleNamespace
from typing import NamedTuple

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.merkle import fold_roots
from treehead.tile import RightEdge
from treehead_logserver.fsck.derivation import Chunk, be, derive, entries
from treehead_logserver.fsck.findings import FINDINGS_MAX, MARK, Findings
from treehead_logserver.fsck.lookups import Lookups
from treehead_logserver.fsck.notes import check_end, check_notes, read_notes
from treehead_logserver.fsck.report import Report
from treehead_logserver.fsck.tree import Tree
from treehead_logserver.progress import Progress
from treehead_logserver.snapshot import READ_ERRORS, Snapshot
from treehead_logserver.storage.base import TreeState
from treehead_logserver.storage.schema import SCHEMA

_LOOKED_EVERY_SECONDS = 0.01
"""Whether a thread is done."""
_PAGE = re.compile(r"\b[Pp]age (\d+)")


class Claim(NamedTuple):
    """What the database says of its tree: None is what it does not say, or not with the log's signature."""

    state: TreeState | None
    checkpoint: Checkpoint | None

    @property
    def size(self) -> int | None:
        """The size of the tree; what is signed counts more."""
        if self.checkpoint is not None:
            return self.checkpoint.size
        return None if self.state is None else self.state.size


def check_log(
    snapshot: Snapshot,
    *,
    vkey: VerifierKey,
    marks: Collection[Checkpoint],
    findings: Findings,
    progress: Progress,
    may_be_older: bool = False,
) -> Report:
    """Check all that there is, and change nothing.

    `marks` are checkpoints that the log has signed; the tree has to contain theirs, but if it `may_be_older` than one
    of them, that is none of its faults. `findings` holds what was found already.
    """
    began = time.monotonic()
    connection = snapshot.connection
    progress.begin("database pages")
    _check_pages(connection, findings)
    _check_tables(connection, findings)
    claim = _read_claim(snapshot, vkey, findings)
    end = _stored_end(connection, findings)
    size = end if claim.size is None else claim.size
    notes = read_notes(snapshot, vkey=vkey, findings=findings)
    signed = [(MARK, mark) for mark in marks] + list(notes.signed().items())
    tree = Tree(connection, findings, sizes={checkpoint.size for _, checkpoint in signed if checkpoint.size <= size})
    lookups = Lookups(connection, findings, ignored=tree.damaged)
    count = 0
    for chunk in _derived(connection, min(size, end), findings, progress):
        count += sum(candidate is not None for candidate in chunk.candidates)
        tree.append([None if candidate is None else candidate.leaf_hash for candidate in chunk.candidates])
        lookups.expect(chunk)
    if end < size:
        findings.add(entries(end, size), f"{be(size - end)} missing", count=size - end)
        tree.add_damaged(range(end, size))
    is_known = tree.is_known and tree.edge.size == size
    is_signed = is_known and _is_signed(claim, tree.edge, findings)
    count += _check_surplus(connection, size, findings)
    tiles = tree.check_surplus(size)
    progress.begin("look-up rows", total=lookups.expected)
    lookups.read(progress)
    _compare(connection, min(size, end), lookups, progress)
    check_notes(connection, notes, size=size, findings=findings)
    if not may_be_older:
        _check_age(marks, size, findings)
    check_end(notes, marks, size=size, may_be_older=may_be_older, findings=findings)
    if is_known:
        _check_roots(signed, tree.roots, findings)
    return Report(
        origin=vkey.name,
        size=claim.size,
        root=tree.edge.root() if is_signed and not tree.damaged else None,
        entries=count,
        tiles=tiles,
        lookups=lookups.rows,
        mark_size=max((mark.size for mark in marks), default=None),
        findings=findings.kept,
        findings_more=findings.more,
        seconds=time.monotonic() - began,
    )


def _derived(connection: sqlite3.Connection, size: int, findings: Findings, progress: Progress) -> Iterator[Chunk]:
    progress.begin("entries", total=size)
    for chunk in derive(connection, size, findings):
        yield chunk
        progress.reach(chunk.first_index + len(chunk.candidates))


# --- the file --------------------------------------------------------------------------------------------------------


def _check_pages(connection: sqlite3.Connection, findings: Findings) -> None:
    """Have SQLite check its b-trees. It does not return while it does, so that is left to a thread."""
    lines: list[str] = []
    # An exception that a signal raises here may come anywhere, within the start of the thread as well, and leave locks
    # in any state. So the two speak by flags; and the thread never has the connection after it was given up.
    state = SimpleNamespace(has_begun=False, is_given_up=False, is_done=False, defect=None)

    def check() -> None:
        state.has_begun = True
        try:
            if not state.is_given_up:
                for (text,) in connection.execute(f"pragma integrity_check({FINDINGS_MAX})"):
                    lines.extend(str(text).splitlines())
        except READ_ERRORS as exc:
            lines.append(f"SQLite cannot check it to its end: {exc}")
        except BaseException as exc:  # noqa: BLE001 -- raised again below: what was not checked is not clean
            state.defect = exc
        finally:
            state.is_done = True

    try:
        Thread(target=check, name="integrity").start()
        while not state.is_done:
            time.sleep(_LOOKED_EVERY_SECONDS)
    except BaseException:
        state.is_given_up = True
        while state.has_begun and not state.is_done:
            connection.interrupt()  # again and again: one that comes before SQLite has begun does nothing
            time.sleep(_LOOKED_EVERY_SECONDS)
        raise
    if state.defect is not None:
        raise state.defect
    for line in lines:
        if line != "ok" and not line.startswith("***"):
            page = _PAGE.search(line)
            findings.add("database" if page is None else f"database page {page[1]}", line)


def _check_tables(connection: sqlite3.Connection, findings: Findings) -> None:
    wanted = sqlite3.connect(":memory:")
    try:
        wanted.executescript(SCHEMA.statements)
        tables = _tables(wanted)
    finally:
        wanted.close()
    try:
        found = _tables(connection)
    except READ_ERRORS as exc:
        findings.add("database", f"its tables cannot be read: {exc}")
        return
    for name in sorted({*found, *tables}, key=str):
        if found.get(name) != tables.get(name):
            what = "is missing" if name not in found else "is not as Treehead makes it"
            findings.add(f"table {name}", what)


def _tables(connection: sqlite3.Connection) -> dict[object, tuple[object, ...]]:
    return {
        name: (kind, table, sql)
        for kind, name, table, sql in connection.execute("select type, name, tbl_name, sql from sqlite_schema")
    }


# --- the tree --------------------------------------------------------------------------------------------------------


def _read_claim(snapshot: Snapshot, vkey: VerifierKey, findings: Findings) -> Claim:
    try:
        state = snapshot.read_state()
    except StorageError as exc:
        findings.add("tree state", str(exc))
        return Claim(None, None)
    try:
        checkpoint = open_checkpoint(state.checkpoint, key=vkey)
    except (MalformedError, SignatureError) as exc:
        findings.add("checkpoint", f"is not by {vkey.name}: {exc}")
        return Claim(state, None)
    if checkpoint.size != state.size:
        findings.add("tree state", f"has the size {state.size}, and its checkpoint {checkpoint.size}")
    return Claim(state, checkpoint)


def _is_signed(claim: Claim, edge: RightEdge, findings: Findings) -> bool:
    """Whether the tree that the entries make is the one that the log has signed."""
    state, checkpoint = claim.state, claim.checkpoint
    hashes = () if state is None else state.compact_range
    if checkpoint is not None and edge.root() != checkpoint.root:
        if len(hashes) == len(edge.compact_range()) and fold_roots(hashes) == checkpoint.root:
            # The tree state is what was signed, so it is the entries that are not.
            for begin, end in _differing(edge, hashes):
                findings.add(entries(begin, end), "do not hash to what the tree state has for them")
            return False
        findings.add("checkpoint", f"signs another tree of size {checkpoint.size} than the entries make")
    if state is not None and hashes != edge.compact_range():
        findings.add("tree state", "has other hashes than the entries make")
    return checkpoint is not None and edge.root() == checkpoint.root


def _differing(edge: RightEdge, hashes: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """The maximal complete subtrees whose roots are not those given."""
    begin = 0
    for derived, claimed in zip(edge.compact_range(), hashes, strict=True):
        end = begin + (1 << (edge.size - begin).bit_length() - 1)
        if derived != claimed:
            yield begin, end
        begin = end


def _stored_end(connection: sqlite3.Connection, findings: Findings) -> int:
    """One more than the largest index of an entry."""
    try:
        (largest,) = connection.execute("select max(leaf_index) from entries").fetchone()
    except READ_ERRORS as exc:
        findings.add("entries", f"cannot be read: {exc}")
        return 0
    return 0 if largest is None or largest < 0 else largest + 1


def _check_surplus(connection: sqlite3.Connection, size: int, findings: Findings) -> int:
    """Look for entries that a tree of `size` does not have; returns how many there are."""
    surplus = 0
    for condition, value in (("leaf_index >= ?", size), ("leaf_index < ?", 0)):
        select = f"select count(*), min(leaf_index), max(leaf_index) from entries where {condition}"  # noqa: S608
        try:
            count, first, last = connection.execute(select, (value,)).fetchone()
        except READ_ERRORS as exc:
            findings.add("entries", f"cannot be read: {exc}")
            continue
        if count:
            findings.add(entries(first, last + 1), f"{be(count)} beyond a tree of size {size}", count=count)
            surplus += count
    return surplus


# --- the look-ups, the notes and the mark ----------------------------------------------------------------------------


def _compare(connection: sqlite3.Connection, size: int, lookups: Lookups, progress: Progress) -> None:
    """Where look-up rows are not those that the entries make, go through the entries again to say which."""
    comparison = lookups.comparison()
    if comparison is not None:
        for chunk in _derived(connection, size, Findings(), progress):
            comparison.compare(chunk)
        comparison.finish()


def _check_age(marks: Collection[Checkpoint], size: int, findings: Findings) -> None:
    newest = max((mark.size for mark in marks), default=0)
    if newest > size:
        findings.add(
            MARK,
            f"the log has signed a tree of size {newest}, and the database has one of {size}: an older copy was put "
            "back, and treehead-log recover says what to do",
        )


def _check_roots(signed: Sequence[tuple[str, Checkpoint]], roots: Mapping[int, bytes], findings: Findings) -> None:
    for where, checkpoint in signed:
        if roots.get(checkpoint.size, checkpoint.root) != checkpoint.root:
            findings.add(where, f"is of another tree of size {checkpoint.size} than the entries make")
