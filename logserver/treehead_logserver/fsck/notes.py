"""The signed notes beside the tree: the checkpoint that was published last, and the note that ended the log, if any.

The end is noted in the high-water mark as well, which a copy from before it does not know.

Which checkpoints were published before it cannot be derived from anything, so of the table of their sizes only what
contradicts the tree or the newest of them is found.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead_logserver.freeze import open_freeze, successor_in
from treehead_logserver.fsck.derivation import be
from treehead_logserver.fsck.findings import MARK, Findings
from treehead_logserver.snapshot import READ_ERRORS, Snapshot

PUBLISHED = "published checkpoint"
FREEZE = "freeze note"
PUBLICATIONS = "publications"
"""Where findings about them are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What the notes of a database say: None is what there is no note of, or none with the log's signature."""

    published: Checkpoint | None
    freeze: Checkpoint | None
    was_published: bool
    was_frozen: bool
    """Whether there is a note of the kind, whatever it says."""

    def signed(self) -> Mapping[str, Checkpoint]:
        """The checkpoints in them, by where they are."""
        named = {PUBLISHED: self.published, FREEZE: self.freeze}
        return {where: checkpoint for where, checkpoint in named.items() if checkpoint is not None}


def read_notes(snapshot: Snapshot, *, vkey: VerifierKey, findings: Findings) -> Notes:
    """The notes; one that is not the log's, or none at all, is a finding."""
    try:
        for (name,) in snapshot.connection.execute("select name from notes where name not in ('published', 'freeze')"):
            findings.add(f"note {name!r}", "is none that the log keeps")
    except READ_ERRORS as exc:
        findings.add("notes", f"cannot be read: {exc}")
        return Notes(published=None, freeze=None, was_published=True, was_frozen=True)
    published, was_published = None, True
    try:
        note = snapshot.read_published()
        was_published = note is not None
        if note is not None:
            published = open_checkpoint(note, key=vkey)
    except StorageError as exc:
        findings.add(PUBLISHED, str(exc))
    except (MalformedError, SignatureError) as exc:
        findings.add(PUBLISHED, f"is not by {vkey.name}: {exc}")
    freeze, was_frozen = _read_freeze(snapshot, vkey, findings)
    return Notes(published=published, freeze=freeze, was_published=was_published, was_frozen=was_frozen)


def _read_freeze(snapshot: Snapshot, vkey: VerifierKey, findings: Findings) -> tuple[Checkpoint | None, bool]:
    try:
        note = snapshot.read_freeze()
        if note is None:
            return None, False
        open_freeze(note, vkey=vkey)
        return open_checkpoint(note, key=vkey), True
    except StorageError as exc:
        findings.add(FREEZE, str(exc))
        return None, True


def check_notes(connection: sqlite3.Connection, notes: Notes, *, size: int, findings: Findings) -> None:
    """Hold the notes against a tree of `size`, and the published sizes against both; roots are not compared."""
    if notes.published is not None and notes.published.size > size:
        findings.add(PUBLISHED, f"is of {notes.published.size} entries, and the tree has {size}")
    if notes.freeze is not None and notes.freeze.size != size:
        findings.add(FREEZE, f"is of {notes.freeze.size} entries, and the tree has {size}")
    try:
        _check_publications(connection, notes, size, findings)
    except READ_ERRORS as exc:
        findings.add(PUBLICATIONS, f"cannot be read: {exc}")


def check_end(notes: Notes, marks: Iterable[Checkpoint], *, size: int, may_be_older: bool, findings: Findings) -> None:
    """Hold what the high-water mark says of the log's end against the notes and a tree of `size`.

    A copy that `may_be_older` need not know of an end of that very tree, but must not have grown beyond it.
    """
    for mark in sorted(set(marks), key=lambda mark: mark.size):
        try:
            successor = successor_in(mark)
        except StorageError as exc:
            findings.add(MARK, str(exc))
            continue
        if successor is None or mark.size > size:  # in a copy that is older, which is found elsewhere
            continue
        if mark.size < size:
            findings.add(MARK, f"says that the log was frozen at {mark.size} entries, and the tree has {size}")
        elif notes.freeze is not None and notes.freeze.extensions != mark.extensions:
            findings.add(MARK, "names another successor than the freeze note")
        elif not notes.was_frozen and not may_be_older:
            findings.add(
                FREEZE,
                "is missing, although the high-water mark says that the log was frozen: a copy from before that was "
                "put back, and the log's next start takes the note from the mark",
            )


def _check_publications(connection: sqlite3.Connection, notes: Notes, size: int, findings: Findings) -> None:
    newest = size if notes.published is None else min(notes.published.size, size)
    select = "select count(*), min(size) from publications where size < 0 or size > ?"
    count, first = connection.execute(select, (newest,)).fetchone()
    if count:
        whose = f"a tree of size {size}" if newest == size else f"the published checkpoint, which is of {newest}"
        findings.add(PUBLICATIONS, f"{count} {be(count)} beyond {whose}: {first} is the first", count=count)
    if not notes.was_published and connection.execute("select 1 from publications limit 1").fetchone() is not None:
        findings.add(PUBLISHED, "is missing, although the sizes of some that were published are there")
    if notes.published is not None:
        select = "select 1 from publications where size = ?"
        if connection.execute(select, (notes.published.size,)).fetchone() is None:
            findings.add(PUBLICATIONS, f"{notes.published.size} is missing, the size of the published checkpoint")
