"""A start of a frozen log: it stays frozen, whatever of it was lost, and what contradicts its end is not served."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.unit.library.specimens import OTHER_LOG
from tests.unit.logserver.directory import run_sql
from tests.unit.logserver.parts import candidate, random_leaves
from tests.unit.logserver.published import set_note
from treehead.checkpoint import Checkpoint, sign_checkpoint
from treehead.datadir import read_vkey
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead_logserver import opening
from treehead_logserver.datadir import DataDirectory, create_log
from treehead_logserver.freeze import Freeze, freeze_log, is_freeze, sign_freeze
from treehead_logserver.fsck.subject import check_directory
from treehead_logserver.highwater import HighWaterMark, read_mark
from treehead_logserver.opening import OpenedLog, opened_log
from treehead_logserver.progress import Progress
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Extension

ORIGIN = "log.example/2026"
SUCCESSOR, ANOTHER = (
    OTHER_LOG.verifier_key(name=name, key_type=NoteKeyType.ED25519) for name in ("log.example/2027", "log.example/2028")
)
LEAVES = random_leaves(300, seed=60)


@contextlib.asynccontextmanager
async def started(directory: DataDirectory) -> AsyncIterator[OpenedLog]:
    async with opened_log(directory, passphrase=None) as log:
        yield log


async def grow(directory: DataDirectory, leaves: Sequence[bytes]) -> None:
    async with started(directory) as log:

        def extend(_size: int, leaf_hashes: Sequence[bytes]) -> Extension:
            tiles = log.edge.append(leaf_hashes)
            return Extension(state=Signer(key=log.key, origin=ORIGIN).state_of(log.edge), tiles=tiles)

        await log.storage.append(
            list(map(candidate, leaves)), extend, lambda state: log.mark.raise_to(state.size, state.checkpoint)
        )


async def freeze(directory: DataDirectory, successor: VerifierKey = SUCCESSOR) -> Freeze:
    async with started(directory) as log:
        return await freeze_log(log, successor=successor)


@pytest.fixture
async def directory(tmp_path: Path) -> DataDirectory:
    """A log of 300 entries that goes on; its database is beside it, as a backup."""
    directory = DataDirectory(path=tmp_path / "log")
    create_log(directory, origin=ORIGIN, passphrase=None)
    await grow(directory, LEAVES)
    shutil.copy(directory.database, tmp_path / "copy")
    shutil.copy(directory.mark, tmp_path / "mark")
    return directory


def put_back(directory: DataDirectory) -> None:
    shutil.copy(directory.path.parent / "copy", directory.database)


def put_mark_back(directory: DataDirectory) -> None:
    shutil.copy(directory.path.parent / "mark", directory.mark)


def vkey_of(directory: DataDirectory) -> VerifierKey:
    return read_vkey(directory)


def is_clean(directory: DataDirectory) -> bool:
    return check_directory(directory, vkey=vkey_of(directory), progress=Progress()).is_clean


def is_marked_as_frozen(directory: DataDirectory) -> bool:
    return is_freeze(read_mark(directory.mark, vkey=vkey_of(directory)))


async def test_a_log_that_goes_on_has_no_end(directory: DataDirectory) -> None:
    async with started(directory) as log:
        assert log.freeze is None
    assert not is_marked_as_frozen(directory)


async def test_a_freeze_is_in_the_database_and_in_the_mark(directory: DataDirectory) -> None:
    last = await freeze(directory)
    assert is_marked_as_frozen(directory)
    for _ in range(3):
        async with started(directory) as log:
            assert log.freeze == last
            assert await log.storage.read_freeze() == last.note
            with pytest.raises(UsageError, match="the log is frozen at 300 entries, and its successor is"):
                await freeze_log(log, successor=ANOTHER)
        assert is_marked_as_frozen(directory)
        assert is_clean(directory)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_copy_from_before_the_end_does_not_undo_it(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture, times: int
) -> None:
    last = await freeze(directory)
    for _ in range(times):
        put_back(directory)
        assert not is_clean(directory)
        caplog.clear()
        caplog.set_level(logging.WARNING, logger=opening.__name__)
        async with started(directory) as log:
            assert log.freeze == last
            assert await log.storage.read_freeze() == last.note
        (said,) = caplog.messages
        assert "the log is frozen at 300 entries" in said
        assert "a copy from before that" in said
        assert is_clean(directory)
    with pytest.raises(StorageError, match="the log is frozen, and takes no more entries"):
        await grow(directory, [b"one more"])


async def test_to_freeze_a_log_again_that_was_put_back_does_not_name_another_successor(
    directory: DataDirectory,
) -> None:
    last = await freeze(directory)
    put_back(directory)
    with pytest.raises(UsageError, match=str(SUCCESSOR).replace("+", r"\+")):
        await freeze(directory, ANOTHER)
    async with started(directory) as log:
        assert log.freeze == last


async def test_after_a_crash_between_the_two_writes_the_log_is_frozen_and_the_next_start_notes_it(
    directory: DataDirectory,
) -> None:
    last = await freeze(directory)
    put_mark_back(directory)  # which is what there is then
    assert is_clean(directory)
    async with started(directory) as log:
        assert log.freeze == last
        assert is_marked_as_frozen(directory)
    put_back(directory)
    async with started(directory) as log:
        assert log.freeze == last


async def test_a_mark_that_cannot_be_written_leaves_the_log_frozen(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_mark: HighWaterMark, _size: int, _note: bytes) -> None:
        raise StorageError("cannot write the mark")

    with monkeypatch.context() as patch:
        patch.setattr(HighWaterMark, "freeze", fail)
        with pytest.raises(StorageError, match="cannot write the mark"):
            await freeze(directory)
    assert not is_marked_as_frozen(directory)
    async with started(directory) as log:
        assert log.freeze is not None
        assert log.freeze.successor == SUCCESSOR
    assert is_marked_as_frozen(directory)


async def test_a_log_that_has_grown_after_its_end_is_not_served(directory: DataDirectory) -> None:
    await freeze(directory)
    frozen = directory.mark.read_bytes()
    put_back(directory)
    put_mark_back(directory)
    await grow(directory, [b"one more"])
    directory.mark.write_bytes(frozen)
    with pytest.raises(
        StorageError, match=r"was frozen at 300 entries, and its database has 301: .*treehead-log recover"
    ):
        async with started(directory):
            pass


@pytest.mark.parametrize(
    ("size", "root", "successor", "complaint"),
    [
        (299, None, SUCCESSOR, "was frozen at 299 entries, and its database has 300"),
        (301, None, SUCCESSOR, "was frozen at 301 entries, and its database has 300"),
        (300, bytes(32), SUCCESSOR, "another tree of size 300 than the one that the log was frozen with"),
        (300, None, OTHER_LOG.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519), "succeed itself"),
    ],
)
async def test_a_freeze_note_that_is_not_of_the_tree_or_names_no_successor_is_not_served(
    directory: DataDirectory, size: int, root: bytes | None, successor: VerifierKey, complaint: str
) -> None:
    async with started(directory) as log:
        checkpoint = Checkpoint(origin=ORIGIN, size=size, root=root or log.edge.root())
        note = sign_freeze(checkpoint, successor=successor, key=log.key)
    set_note(directory, "freeze", note)
    before = directory.mark.read_bytes()
    with pytest.raises(StorageError, match=complaint):
        async with started(directory):
            pass
    assert directory.mark.read_bytes() == before


async def test_two_ends_are_not_served(directory: DataDirectory) -> None:
    await freeze(directory)
    first = directory.mark.read_bytes()
    put_back(directory)
    put_mark_back(directory)
    await freeze(directory, ANOTHER)
    directory.mark.write_bytes(first)
    with pytest.raises(StorageError, match="the log was frozen twice"):
        async with started(directory):
            pass


async def test_a_mark_that_only_begins_as_an_end_is_not_served(directory: DataDirectory) -> None:
    async with started(directory) as log:
        checkpoint = Checkpoint(origin=ORIGIN, size=300, root=log.edge.root(), extensions=("frozen", "for now"))
        log.mark.freeze(300, sign_checkpoint(checkpoint, key=log.key))
    with pytest.raises(StorageError, match="the note that froze the log is damaged"):
        async with started(directory):
            pass


async def test_an_empty_log_can_end_too(tmp_path: Path) -> None:
    directory = DataDirectory(path=tmp_path / "log")
    create_log(directory, origin=ORIGIN, passphrase=None)
    shutil.copy(directory.database, tmp_path / "copy")
    last = await freeze(directory)
    put_back(directory)
    async with started(directory) as log:
        assert log.freeze == last


async def test_a_freeze_note_that_was_lost_alone_is_put_back(directory: DataDirectory) -> None:
    last = await freeze(directory)
    run_sql(directory.database, "delete from notes where name = 'freeze'")
    async with started(directory) as log:
        assert log.freeze == last
