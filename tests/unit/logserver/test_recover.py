"""recover: says what there is and what can be done in every case, and writes only what is proven."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG, Tree
from tests.unit.logserver.directory import contents, flipped, grow, made, make, run_sql
from tests.unit.logserver.parts import parts, random_leaves
from tests.unit.logserver.published import set_note
from treehead.checkpoint import Checkpoint, sign_checkpoint
from treehead.datadir import locked
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType
from treehead.note import Note, format_note, parse_note, sign_text
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.tlogproof import TlogProof, format_proof
from treehead_logserver import recover
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import is_freeze, sign_freeze
from treehead_logserver.highwater import SLOT_BYTES, HighWaterMark, read_mark
from treehead_logserver.recover import Explanation, explain, format_explanation

LEAVES = random_leaves(500, seed=40)
TREE = Tree(LEAVES)
OTHER = Tree(random_leaves(500, seed=41))
SIZE = 300


@pytest.fixture
async def directory(tmp_path: Path) -> DataDirectory:
    directory = await made(tmp_path / "log", LEAVES[:SIZE])
    directory.lock.touch()
    return directory


def signed(size: int, tree: Tree = TREE, *, key: PrivateKey = LOG, origin: str = ORIGIN) -> bytes:
    return sign_checkpoint(Checkpoint(origin=origin, size=size, root=tree.root(size)), key=key)


def written(directory: DataDirectory, data: bytes) -> Path:
    path = directory.path.parent / "newest"
    path.write_bytes(data)
    return path


def explained(directory: DataDirectory, newest: Path | None = None, *, changes: bool = False) -> Explanation:
    before = contents(directory.path)
    explanation = explain(directory, vkey=LOG_KEY, newest=newest)
    assert (contents(directory.path) != before) == changes
    text = format_explanation(explanation)
    assert text.splitlines()[0] == f"log {ORIGIN}"
    assert text.splitlines()[1].startswith("database")
    return explanation


def advice(explanation: Explanation) -> str:
    return "\n".join(explanation.advice)


# --- all is well -----------------------------------------------------------------------------------------------------


def test_a_log_in_order_can_be_started(directory: DataDirectory) -> None:
    explanation = explained(directory)
    assert explanation.is_well
    assert "All is well" in advice(explanation)
    assert f"database {directory.database}: 300 entries, root " in format_explanation(explanation)
    assert f"high-water mark {directory.mark}: 300 entries, root " in format_explanation(explanation)


async def test_a_log_that_was_killed_before_it_raised_the_mark_can_be_started(directory: DataDirectory) -> None:
    older = directory.mark.read_bytes()
    await grow(directory, LEAVES[SIZE:310])
    directory.mark.write_bytes(older)
    assert explained(directory).is_well


async def test_an_empty_log_can_be_started(tmp_path: Path) -> None:
    directory = make(tmp_path / "log")
    directory.lock.touch()
    assert explained(directory).is_well


@pytest.mark.parametrize("size", [0, 1, 256, 299, 300])
def test_a_checkpoint_that_the_database_contains_changes_nothing(directory: DataDirectory, size: int) -> None:
    assert explained(directory, written(directory, signed(size))).is_well


# --- the database is older than what was signed ----------------------------------------------------------------------


async def rolled_back(directory: DataDirectory, size: int) -> None:
    """Let the log grow, and put the older database back."""
    older = directory.database.read_bytes()
    await grow(directory, LEAVES[SIZE:size])
    directory.database.write_bytes(older)


async def test_a_database_that_was_put_back_must_not_be_continued(directory: DataDirectory) -> None:
    await rolled_back(directory, 450)
    explanation = explained(directory)
    assert not explanation.is_well
    text = advice(explanation)
    assert "Entries 300 to 449 are missing" in text
    assert "newest copy of log.sqlite, with 450 entries or more" in text
    assert "must not be continued" in text
    assert "another origin" in text


async def test_one_missing_entry_is_one(directory: DataDirectory) -> None:
    await rolled_back(directory, 301)
    assert "Entry 300 is missing" in advice(explained(directory))


async def test_a_checkpoint_beyond_the_database_is_a_promise_as_the_mark_is(directory: DataDirectory) -> None:
    await rolled_back(directory, 305)
    explanation = explained(directory, written(directory, signed(302)))
    assert "Entries 300 to 304 are missing" in advice(explanation)
    explanation = explained(directory, written(directory, signed(310)), changes=True)
    assert not explanation.is_well
    assert "Entries 300 to 309 are missing" in advice(explanation)


async def test_where_all_was_put_back_a_checkpoint_keeps_the_log_from_starting(directory: DataDirectory) -> None:
    assert explained(directory).is_well, "for it knows of nothing else"
    note = parse_note(signed(310))
    witnesses = [
        sign_text(note.text, key=PrivateKey.from_seed(scheme=Scheme.ED25519, seed=bytes([number]) * 32), name="w" * 150)
        for number in range(20)
    ]
    cosigned = format_note(Note(text=note.text, signatures=(*witnesses[:9], *note.signatures, *witnesses[9:])))
    assert len(cosigned) > SLOT_BYTES
    explanation = explained(directory, written(directory, cosigned), changes=True)
    assert not explanation.is_well
    assert "The high-water mark knew nothing of that checkpoint, and is of it now" in advice(explanation)
    assert read_mark(directory.mark, vkey=LOG_KEY).size == 310
    explanation = explained(directory)
    assert not explanation.is_well
    assert "Entries 300 to 309 are missing" in advice(explanation)


def test_a_checkpoint_of_another_tree_does_not_raise_the_mark(directory: DataDirectory) -> None:
    explanation = explained(directory, written(directory, signed(200, OTHER)))
    assert not explanation.is_well
    assert "does not go with the checkpoint" in advice(explanation)


@pytest.mark.parametrize("damaged", [True, False])
def test_without_a_mark_a_checkpoint_beyond_the_database_is_the_mark(directory: DataDirectory, damaged: bool) -> None:
    if damaged:
        directory.mark.write_bytes(b"no mark")
    else:
        directory.mark.unlink()
        directory.mark.with_name("high-water.damaged").write_bytes(b"kept from an earlier time")
    explanation = explained(directory, written(directory, signed(310)), changes=True)
    assert not explanation.is_well
    assert "Entries 300 to 309 are missing" in advice(explanation)
    assert read_mark(directory.mark, vkey=LOG_KEY).size == 310
    explanation = explained(directory, written(directory, signed(250)))
    assert not explanation.is_well, "a smaller one changes nothing"


def test_a_damaged_mark_that_was_kept_is_not_lost_to_another(directory: DataDirectory) -> None:
    directory.mark.write_bytes(b"no mark")
    directory.mark.with_name("high-water.damaged").write_bytes(b"kept from an earlier time")
    with pytest.raises(StorageError, match=r"high-water\.damaged is there from an earlier time: move it away"):
        explain(directory, vkey=LOG_KEY, newest=written(directory, signed(310)))


# --- another tree ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 256, 299, 300])
async def test_a_database_with_another_tree_must_not_be_continued(
    directory: DataDirectory, tmp_path: Path, size: int
) -> None:
    other = await made(tmp_path / "other", random_leaves(size, seed=42))
    shutil.copy(other.mark, directory.mark)
    explanation = explained(directory)
    assert not explanation.is_well
    assert f"another tree of size {size}" in advice(explanation)
    assert f"treehead-log fsck --data {directory.path}" in advice(explanation)


@pytest.mark.parametrize("has_mark", [True, False])
def test_a_checkpoint_of_another_tree_is_not_explained_away(directory: DataDirectory, has_mark: bool) -> None:
    if not has_mark:
        directory.mark.unlink()
    explanation = explained(directory, written(directory, signed(280, OTHER)))
    assert not explanation.is_well
    assert "another tree of size 280" in advice(explanation)


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set leaf = x'00' where leaf_index = 299",
        "delete from tree",
        "update tree set checkpoint = x'00'",
        "delete from tiles",
        "drop table entries",
    ],
)
def test_a_damaged_database_must_not_be_continued(directory: DataDirectory, statement: str) -> None:
    run_sql(directory.database, statement)
    explanation = explained(directory)
    assert not explanation.is_well
    assert "fsck" in advice(explanation)
    assert "with 300 entries or more" in advice(explanation)


@pytest.mark.parametrize("content", [None, b"no database, but long enough to be one " * 200])
def test_a_lost_database_has_to_be_found(directory: DataDirectory, content: bytes | None) -> None:
    directory.database.unlink()
    if content is not None:
        directory.database.write_bytes(content)
    explanation = explained(directory)
    assert not explanation.is_well
    assert "newest copy of log.sqlite, with 300 entries or more" in advice(explanation)


# --- the end ---------------------------------------------------------------------------------------------------------


def ended(size: int, tree: Tree = TREE, *, name: str = "log.example/2027") -> bytes:
    checkpoint = Checkpoint(origin=ORIGIN, size=size, root=tree.root(size))
    successor = OTHER_LOG.verifier_key(name=name, key_type=NoteKeyType.ED25519)
    return sign_freeze(checkpoint, successor=successor, key=LOG)


def mark_end(directory: DataDirectory, size: int = SIZE) -> None:
    with contextlib.closing(HighWaterMark.open(directory.mark, vkey=LOG_KEY)) as mark:
        mark.freeze(size, ended(size))


def test_a_frozen_log_in_order_can_be_started(directory: DataDirectory) -> None:
    set_note(directory, "freeze", ended(SIZE))
    for count in (1, 2):  # before the mark knows, as a crash may leave it, and after
        explanation = explained(directory)
        assert explanation.is_well
        assert "All is well" in advice(explanation)
        assert "from before that" not in advice(explanation)
        assert format_explanation(explanation).count(", where the log was frozen\n") == count
        mark_end(directory)


def test_an_end_that_a_database_from_before_does_not_know_is_explained(directory: DataDirectory) -> None:
    mark_end(directory)
    explanation = explained(directory)
    assert explanation.is_well
    assert "The next start takes the note that froze it from the high-water mark" in advice(explanation)


def test_an_end_that_is_brought_is_the_mark_where_all_was_put_back(directory: DataDirectory) -> None:
    explanation = explained(directory, written(directory, ended(SIZE)), changes=True)
    assert explanation.is_well
    assert "knew nothing of the end of the log, and is of it now" in advice(explanation)
    assert "The next start takes the note that froze it from the high-water mark" in advice(explanation)
    assert is_freeze(read_mark(directory.mark, vkey=LOG_KEY))
    assert explained(directory, written(directory, ended(SIZE))).is_well, "and it is that once"


def test_an_end_that_is_brought_and_known_changes_nothing(directory: DataDirectory) -> None:
    set_note(directory, "freeze", ended(SIZE))
    assert explained(directory, written(directory, ended(SIZE))).is_well


def test_without_a_mark_an_end_that_is_brought_is_the_mark(directory: DataDirectory) -> None:
    directory.mark.unlink()
    explanation = explained(directory, written(directory, ended(SIZE)), changes=True)
    assert explanation.is_well
    assert "was written anew, with 300 entries" in advice(explanation)
    assert "The next start takes the note that froze it from the high-water mark" in advice(explanation)
    assert is_freeze(read_mark(directory.mark, vkey=LOG_KEY))


def test_an_end_beyond_the_database_is_a_promise_as_any_other(directory: DataDirectory) -> None:
    explanation = explained(directory, written(directory, ended(310)), changes=True)
    assert not explanation.is_well
    assert "Entries 300 to 309 are missing" in advice(explanation)
    newest = read_mark(directory.mark, vkey=LOG_KEY)
    assert (newest.size, is_freeze(newest)) == (310, True)


@pytest.mark.parametrize("where", ["mark", "database", "brought"])
async def test_a_log_that_was_continued_after_its_end_must_not_be_started(directory: DataDirectory, where: str) -> None:
    brought = None
    if where == "brought":
        await grow(directory, LEAVES[SIZE:310])
        brought = written(directory, ended(SIZE))
    elif where == "database":
        set_note(directory, "freeze", ended(SIZE))
        brought = written(directory, signed(310))
    else:
        before = directory.mark.read_bytes()
        mark_end(directory)
        end = directory.mark.read_bytes()
        directory.mark.write_bytes(before)
        await grow(directory, LEAVES[SIZE:310])
        directory.mark.write_bytes(end)
    explanation = explained(directory, brought)
    assert not explanation.is_well
    assert "was frozen at 300 entries, and has signed a tree of 310 after that" in advice(explanation)
    assert "Do not start this log again" in advice(explanation)


def test_the_mark_of_an_end_is_not_raised(directory: DataDirectory) -> None:
    mark_end(directory)
    explanation = explained(directory, written(directory, signed(310)))
    assert not explanation.is_well
    assert "was frozen at 300 entries, and has signed a tree of 310 after that" in advice(explanation)


def test_two_ends_do_not_go_together(directory: DataDirectory) -> None:
    set_note(directory, "freeze", ended(SIZE, name="log.example/2028"))
    mark_end(directory)
    explanation = explained(directory)
    assert not explanation.is_well
    assert "was frozen twice" in advice(explanation)


@pytest.mark.parametrize("note", [ended(299), ended(SIZE, OTHER), ended(SIZE, name=ORIGIN), signed(SIZE), b""])
def test_a_freeze_note_that_is_not_of_the_tree_is_damage(directory: DataDirectory, note: bytes) -> None:
    set_note(directory, "freeze", note)
    explanation = explained(directory)
    assert not explanation.is_well
    assert "The database is not in order." in advice(explanation)


# --- no mark ---------------------------------------------------------------------------------------------------------


def damaged_mark(directory: DataDirectory) -> None:
    data = directory.mark.read_bytes()
    directory.mark.write_bytes(flipped(flipped(data, 100), 8 * SLOT_BYTES + 100))


@pytest.mark.parametrize("damaged", [True, False])
def test_without_a_mark_somebody_has_to_bring_a_checkpoint(directory: DataDirectory, damaged: bool) -> None:
    if damaged:
        damaged_mark(directory)
    else:
        directory.mark.unlink()
    explanation = explained(directory)
    assert not explanation.is_well
    text = format_explanation(explanation)
    assert f"high-water mark {directory.mark}: {'it is damaged' if damaged else 'there is none'}" in text
    assert f"treehead-log recover --data {directory.path} --newest FILE" in text
    assert "monitor" in text


@pytest.mark.parametrize("damaged", [True, False])
@pytest.mark.parametrize("size", [0, 1, 256, 299, 300])
async def test_with_a_checkpoint_that_the_database_contains_the_mark_is_written_anew(
    directory: DataDirectory, damaged: bool, size: int
) -> None:
    before = directory.mark.read_bytes()
    damaged_mark(directory)
    damage = directory.mark.read_bytes()
    if not damaged:
        directory.mark.unlink()
    explanation = explained(directory, written(directory, signed(size)), changes=True)
    assert explanation.is_well
    assert "the high-water mark was written anew, with 300 entries" in advice(explanation)
    assert read_mark(directory.mark, vkey=LOG_KEY).size == SIZE
    kept = directory.path / "high-water.damaged"
    assert (kept.read_bytes() == damage) if damaged else not kept.exists()
    assert directory.mark.stat().st_mode & 0o777 == 0o600
    assert len(directory.mark.read_bytes()) == len(before)
    assert explained(directory).is_well
    await grow(directory, LEAVES[SIZE:])
    assert read_mark(directory.mark, vkey=LOG_KEY).size == 500


async def test_a_mark_is_not_ahead_of_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is killed may leave a write-ahead log that is only in the system's memory."""
    directory, copy = make(tmp_path / "log"), tmp_path / "killed"

    def kill() -> None:
        shutil.copytree(directory.path, copy, ignore=shutil.ignore_patterns("*-shm", "high-water"))

    await grow(directory, LEAVES[:20], leave=kill)
    killed = DataDirectory(path=copy)
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        recover, "sync_data", lambda descriptor: synced.append((os.fstat(descriptor).st_ino, killed.mark.exists()))
    )
    assert explain(killed, vkey=LOG_KEY, newest=written(killed, signed(20))).is_well
    files = (killed.database, copy / "log.sqlite-wal")
    assert synced == [(path.stat().st_ino, False) for path in files]
    assert killed.mark.exists()


@pytest.mark.parametrize("surplus", [b"\n", b"\n\n"])
def test_a_checkpoint_may_have_newlines_too_many(directory: DataDirectory, surplus: bytes) -> None:
    directory.mark.unlink()
    assert explained(directory, written(directory, signed(300) + surplus), changes=True).is_well


def test_a_checkpoint_may_come_in_a_proof(directory: DataDirectory) -> None:
    directory.mark.unlink()
    proof = TlogProof(extra=b"leaf", index=3, hashes=TREE.inclusion(3, 290), checkpoint=signed(290))
    assert explained(directory, written(directory, format_proof(proof)), changes=True).is_well


def test_a_mark_that_cannot_be_read_may_be_in_order(directory: DataDirectory) -> None:
    directory.mark.unlink()
    directory.mark.mkdir()
    with pytest.raises(StorageError, match="cannot read high-water mark"):
        explain(directory, vkey=LOG_KEY, newest=written(directory, signed(300)))
    assert list(directory.mark.iterdir()) == []


# --- the operator's mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is no checkpoint by"),
        (b"hello\n", "is no checkpoint by"),
        (b"c2sp.org/tlog-proof@v1\nindex 1\n", "is no checkpoint by"),
        (flipped(signed(300), 8 * 40), "is no checkpoint by"),
        (signed(300) + b"\0", "is no checkpoint by"),
        (signed(300, key=OTHER_LOG), "is no checkpoint by"),
        (signed(300, origin="log.example/other"), "is of the log 'log.example/other'"),
        (b"x" * 10_000_000, "larger than"),
    ],
)
@pytest.mark.parametrize("has_mark", [True, False])
def test_what_is_no_checkpoint_by_this_log_counts_for_nothing(
    directory: DataDirectory, data: bytes, complaint: str, has_mark: bool
) -> None:
    if not has_mark:
        directory.mark.unlink()
    before = contents(directory.path)
    path = written(directory, data)
    with pytest.raises(UsageError, match=re.escape(f"--newest {path}")) as caught:
        explain(directory, vkey=LOG_KEY, newest=path)
    assert complaint in str(caught.value)
    assert contents(directory.path) == before


def test_a_file_that_is_not_there_is_named(directory: DataDirectory) -> None:
    with pytest.raises(UsageError, match=r"--newest: cannot read checkpoint .*none: No such file"):
        explain(directory, vkey=LOG_KEY, newest=directory.path / "none")


async def test_a_log_that_runs_is_not_looked_at(directory: DataDirectory) -> None:
    with locked(directory), pytest.raises(StorageError, match="in use by another process"):
        explain(directory, vkey=LOG_KEY, newest=None)


def test_a_file_of_an_older_version_says_what_to_do(directory: DataDirectory) -> None:
    run_sql(directory.database, "pragma user_version = 1")
    with pytest.raises(StorageError, match="start the log once"):
        explain(directory, vkey=LOG_KEY, newest=None)


async def test_what_recover_calls_well_can_be_opened(directory: DataDirectory) -> None:
    assert explained(directory).is_well
    async with parts(directory.database) as log:
        assert log.checkpoint().size == SIZE
