"""fsck of the notes beside the tree: what was published, and what ended the log, is of this tree and by this log."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG
from tests.unit.logserver.directory import flip_in_row, grow, make, run_sql
from tests.unit.logserver.parts import random_leaves
from tests.unit.logserver.published import files_of, published, set_note
from treehead.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from treehead.keys import NoteKeyType, VerifierKey
from treehead.merkle import EMPTY_ROOT
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import sign_freeze
from treehead_logserver.fsck.subject import check_copy, check_directory
from treehead_logserver.highwater import HighWaterMark
from treehead_logserver.progress import Progress

SIZE = 700
PUBLISHED_AT = (0, 256, 300, 600)
SUCCESSOR = OTHER_LOG.verifier_key(name="log.example/2027", key_type=NoteKeyType.ED25519)
ANOTHER = OTHER_LOG.verifier_key(name="log.example/2028", key_type=NoteKeyType.ED25519)


@pytest.fixture(scope="module")
async def template(tmp_path_factory: pytest.TempPathFactory) -> DataDirectory:
    """A log of 700 entries that has published its tree of 600, and smaller ones before."""
    directory = await published(tmp_path_factory.mktemp("template") / "log", *PUBLISHED_AT)
    await grow(directory, random_leaves(SIZE, seed=1)[600:])
    return directory


@pytest.fixture
def directory(template: DataDirectory, tmp_path: Path) -> DataDirectory:
    shutil.copytree(template.path, tmp_path / "log")
    return DataDirectory(path=tmp_path / "log")


def told(directory: DataDirectory) -> list[str]:
    report = check_directory(directory, vkey=LOG_KEY, progress=Progress())
    return [f"{finding.where}: {finding.what}" for finding in report.findings]


def checkpoint_at(size: int, *, seed: int = 1) -> Checkpoint:
    return open_checkpoint(files_of(random_leaves(size, seed=seed))["checkpoint"], key=LOG_KEY)


def frozen_at(size: int, *, seed: int = 1, successor: VerifierKey = SUCCESSOR) -> bytes:
    return sign_freeze(checkpoint_at(size, seed=seed), successor=successor, key=LOG)


def mark(directory: DataDirectory, *notes: bytes) -> None:
    with contextlib.closing(HighWaterMark.open(directory.mark, vkey=LOG_KEY)) as opened:
        for note in notes:
            opened.freeze(SIZE, note)


def test_a_log_that_has_published_is_clean(directory: DataDirectory) -> None:
    assert told(directory) == []


def test_a_log_that_is_frozen_is_clean(directory: DataDirectory) -> None:
    set_note(directory, "freeze", frozen_at(SIZE))
    assert told(directory) == []


def test_a_log_that_has_published_nothing_is_clean(tmp_path: Path) -> None:
    assert told(make(tmp_path / "log")) == []


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        pytest.param(
            "insert into publications values (701)",
            "publications: 1 is beyond the published checkpoint, which is of 600: 701 is the first",
            id="beyond_the_tree",
        ),
        pytest.param(
            "insert into publications values (601), (699)",
            "publications: 2 are beyond the published checkpoint, which is of 600: 601 is the first",
            id="beyond_the_published",
        ),
        pytest.param(
            "insert into publications values (-1)",
            "publications: 1 is beyond the published checkpoint, which is of 600: -1 is the first",
            id="negative",
        ),
        pytest.param(
            "delete from publications where size = 600",
            "publications: 600 is missing, the size of the published checkpoint",
            id="missing",
        ),
        pytest.param(
            "delete from notes",
            "published checkpoint: is missing, although the sizes of some that were published are there",
            id="no_note",
        ),
        pytest.param(
            "insert into notes values ('more', x'00')", "note 'more': is none that the log keeps", id="another_note"
        ),
        pytest.param(
            "update notes set name = 'Published'", "note 'Published': is none that the log keeps", id="another_name"
        ),
        pytest.param(
            "update notes set note = 'text'",
            "published checkpoint: the note published is damaged: it is not stored as bytes",
            id="text",
        ),
        pytest.param("drop table publications", "publications: cannot be read: no such table", id="no_publications"),
        pytest.param("drop table notes", "notes: cannot be read: no such table", id="no_notes"),
    ],
)
def test_what_contradicts_is_found(directory: DataDirectory, statement: str, finding: str) -> None:
    run_sql(directory.database, statement)
    found = told(directory)
    assert any(line.startswith(finding) for line in found), found


@pytest.mark.parametrize("bit", [8 * 3, 240, -20])
def test_a_flipped_bit_of_the_published_checkpoint_is_found(directory: DataDirectory, bit: int) -> None:
    flip_in_row(directory.database, "notes", "note", "name = 'published'", bit)
    (line,) = told(directory)
    assert line.startswith(f"published checkpoint: is not by {ORIGIN}: ")


def test_another_logs_checkpoint_is_found(directory: DataDirectory) -> None:
    set_note(directory, "published", sign_checkpoint(checkpoint_at(600), key=OTHER_LOG))
    assert told(directory)[0].startswith(f"published checkpoint: is not by {ORIGIN}: ")


@pytest.mark.parametrize("size", [300, 600])
def test_a_published_checkpoint_of_another_tree_is_found(directory: DataDirectory, size: int) -> None:
    set_note(directory, "published", sign_checkpoint(checkpoint_at(size, seed=2), key=LOG))
    assert f"published checkpoint: is of another tree of size {size} than the entries make" in told(directory)


def test_a_published_checkpoint_beyond_the_tree_is_found(directory: DataDirectory) -> None:
    set_note(directory, "published", sign_checkpoint(checkpoint_at(800), key=LOG))
    assert "published checkpoint: is of 800 entries, and the tree has 700" in told(directory)


@pytest.mark.parametrize("size", [0, 600, 800])
def test_a_log_that_is_frozen_at_another_size_is_found(directory: DataDirectory, size: int) -> None:
    set_note(directory, "freeze", frozen_at(size))
    assert told(directory) == [f"freeze note: is of {size} entries, and the tree has 700"]


def test_a_log_that_is_frozen_with_another_tree_is_found(directory: DataDirectory) -> None:
    set_note(directory, "freeze", frozen_at(SIZE, seed=2))
    assert told(directory) == ["freeze note: is of another tree of size 700 than the entries make"]


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(
            sign_checkpoint(Checkpoint(origin=ORIGIN, size=SIZE, root=EMPTY_ROOT), key=LOG), id="no_successor"
        ),
        pytest.param(sign_freeze(checkpoint_at(SIZE), successor=SUCCESSOR, key=OTHER_LOG), id="another_key"),
        pytest.param(frozen_at(SIZE, successor=LOG_KEY), id="itself"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_note_that_does_not_freeze_the_log_is_found(directory: DataDirectory, note: bytes) -> None:
    set_note(directory, "freeze", note)
    (line,) = told(directory)
    assert line.startswith("freeze note: the note that froze the log is damaged: ")


def test_what_follows_from_a_damaged_entry_is_not_told_of_the_notes(directory: DataDirectory) -> None:
    set_note(directory, "freeze", frozen_at(SIZE))
    flip_in_row(directory.database, "entries", "leaf", "leaf_index = 17", 9)
    assert told(directory) == ["entry 17: does not hash to what tile 0/0 has for it"]


@pytest.mark.parametrize("times", [1, 2])
def test_an_end_that_only_the_mark_knows_is_missed(directory: DataDirectory, times: int) -> None:
    mark(directory, *[frozen_at(SIZE)] * times)
    (line,) = told(directory)
    assert line.startswith("freeze note: is missing, although the high-water mark says that the log was frozen")
    set_note(directory, "freeze", frozen_at(SIZE))
    assert told(directory) == []


def test_a_damaged_freeze_note_is_not_missing(directory: DataDirectory) -> None:
    mark(directory, frozen_at(SIZE))
    set_note(directory, "freeze", b"")
    (line,) = told(directory)
    assert line.startswith("freeze note: the note that froze the log is damaged: ")


def test_an_end_that_only_the_database_knows_is_one_that_a_crash_has_left(directory: DataDirectory) -> None:
    set_note(directory, "freeze", frozen_at(SIZE))
    assert told(directory) == []


async def test_a_tree_that_has_grown_after_its_end_is_found(directory: DataDirectory) -> None:
    before = directory.mark.read_bytes()
    mark(directory, frozen_at(SIZE))
    frozen = directory.mark.read_bytes()
    directory.mark.write_bytes(before)
    await grow(directory, random_leaves(9, seed=8))
    directory.mark.write_bytes(frozen)
    assert told(directory) == [f"high-water mark: says that the log was frozen at {SIZE} entries, and the tree has 709"]
    copy = directory.path / "copy"
    shutil.copy(directory.database, copy)
    report = check_copy(directory, copy, vkey=LOG_KEY, progress=Progress())
    assert [finding.where for finding in report.findings] == ["high-water mark"]


def test_a_log_that_was_frozen_twice_is_found(directory: DataDirectory) -> None:
    set_note(directory, "freeze", frozen_at(SIZE, successor=ANOTHER))
    mark(directory, frozen_at(SIZE))
    assert told(directory) == ["high-water mark: names another successor than the freeze note"]


def test_a_mark_that_names_no_successor_is_found(directory: DataDirectory) -> None:
    mark(directory, frozen_at(SIZE, successor=LOG_KEY))
    (line,) = told(directory)
    assert line.startswith("high-water mark: the note that froze the log is damaged: a log cannot succeed itself")


def test_a_copy_from_before_the_end_is_clean(directory: DataDirectory) -> None:
    copy = directory.path / "copy"
    shutil.copy(directory.database, copy)
    set_note(directory, "freeze", frozen_at(SIZE))
    mark(directory, frozen_at(SIZE))
    assert check_copy(directory, copy, vkey=LOG_KEY, progress=Progress()).is_clean


async def test_a_copy_that_is_older_than_its_log_is_clean(directory: DataDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(directory.database, copy)
    await grow(directory, random_leaves(9, seed=8))
    assert check_copy(directory, copy, vkey=LOG_KEY, progress=Progress()).is_clean
