"""The high-water mark: never lower, torn by nothing, and only the log's own."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG, Tree, signed_checkpoint
from treehead.checkpoint import Checkpoint
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType
from treehead.note import format_note
from treehead_logserver.freeze import sign_freeze
from treehead_logserver.highwater import SLOT_BYTES, HighWaterMark, MissingMarkError, create_mark, read_mark

TREE = Tree(b"%d" % index for index in range(40))


def signed(size: int) -> bytes:
    return format_note(signed_checkpoint(size, TREE.root(size)))


def ended(size: int) -> bytes:
    checkpoint = Checkpoint(origin=ORIGIN, size=size, root=TREE.root(size))
    successor = OTHER_LOG.verifier_key(name="log.example/2027", key_type=NoteKeyType.ED25519)
    return sign_freeze(checkpoint, successor=successor, key=LOG)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "high-water"
    create_mark(path, signed(0))
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[HighWaterMark]:
    mark = HighWaterMark.open(path, vkey=LOG_KEY)
    try:
        yield mark
    finally:
        mark.close()


def raise_to(path: Path, *sizes: int) -> None:
    with opened(path) as mark:
        for size in sizes:
            mark.raise_to(size, signed(size))


def test_a_mark_holds_the_largest_tree_it_was_raised_to(path: Path) -> None:
    assert read_mark(path, vkey=LOG_KEY).size == 0
    for size in (1, 2, 7, 30):
        raise_to(path, size)
        assert (read_mark(path, vkey=LOG_KEY).size, read_mark(path, vkey=LOG_KEY).root) == (size, TREE.root(size))
    raise_to(path, 31, 32, 33)
    assert read_mark(path, vkey=LOG_KEY).size == 33


def test_a_mark_is_never_lowered(path: Path) -> None:
    raise_to(path, 20)
    raise_to(path, 3, 19, 20)
    assert read_mark(path, vkey=LOG_KEY).size == 20


@pytest.mark.parametrize("torn_at", [0, 1, 40, 100, 511, 512, SLOT_BYTES - 1])
@pytest.mark.parametrize("sizes", [(5,), (5, 6), (5, 6, 7)])
def test_a_write_that_is_torn_leaves_the_mark_before_it(path: Path, sizes: tuple[int, ...], torn_at: int) -> None:
    raise_to(path, *sizes)
    before = path.read_bytes()
    raise_to(path, 40)
    after = path.read_bytes()
    (slot,) = (at for at in (0, SLOT_BYTES) if before[at : at + SLOT_BYTES] != after[at : at + SLOT_BYTES])
    path.write_bytes(after[: slot + torn_at] + before[slot + torn_at :])
    assert read_mark(path, vkey=LOG_KEY).size in {sizes[-1], 40}
    raise_to(path, 21)  # goes on, into the slot that was torn
    assert read_mark(path, vkey=LOG_KEY).size in {21, 40}


def is_of_the_end(path: Path, size: int) -> bool:
    checkpoint = read_mark(path, vkey=LOG_KEY)
    return checkpoint.size == size and checkpoint.extensions[:1] == ("frozen",)


@pytest.mark.parametrize("sizes", [(), (5,), (5, 6), (5, 6, 7, 7)])
def test_the_end_counts_for_more_than_the_checkpoint_of_the_same_tree(path: Path, sizes: tuple[int, ...]) -> None:
    raise_to(path, *sizes)
    size = max(sizes, default=0)
    for _ in range(3):
        with opened(path) as mark:
            mark.freeze(size, ended(size))
        assert is_of_the_end(path, size)
        raise_to(path, size, size)
        assert is_of_the_end(path, size)
        with opened(path) as mark:
            assert (mark.newest.size, mark.note) == (size, ended(size))


def test_after_the_end_no_larger_tree_is_noted(path: Path) -> None:
    raise_to(path, 7)
    with opened(path) as mark:
        mark.freeze(7, ended(7))
        with pytest.raises(StorageError, match="was frozen at 7 entries, so it cannot grow"):
            mark.raise_to(8, signed(8))
    before = path.read_bytes()
    with opened(path) as mark, pytest.raises(StorageError, match="was frozen at 7 entries, so it cannot grow"):
        mark.raise_to(8, signed(8))
    raise_to(path, 6)
    assert path.read_bytes() == before


def test_there_is_no_end_before_what_was_signed(path: Path) -> None:
    raise_to(path, 7)
    before = path.read_bytes()
    with opened(path) as mark, pytest.raises(StorageError, match="cannot have ended at 6"):
        mark.freeze(6, ended(6))
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn_at", [0, 1, 40, 100, 200, 511, 512, SLOT_BYTES - 1])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_end_that_is_torn_leaves_what_was_before_it(path: Path, times: int, torn_at: int) -> None:
    raise_to(path, 5, 6)
    before = b""
    for _ in range(times):
        before = path.read_bytes()
        with opened(path) as mark:
            mark.freeze(6, ended(6))
    after = path.read_bytes()
    slots = [at for at in (0, SLOT_BYTES) if before[at : at + SLOT_BYTES] != after[at : at + SLOT_BYTES]]
    for slot in slots:
        path.write_bytes(after[: slot + torn_at] + before[slot + torn_at :])
        assert read_mark(path, vkey=LOG_KEY).size == 6
        assert times == 1 or is_of_the_end(path, 6)


def test_a_mark_without_a_checkpoint_of_the_log_is_damaged(path: Path) -> None:
    for data in (b"", bytes(2 * SLOT_BYTES), b"x" * 2 * SLOT_BYTES, signed(3)[:-9], signed(3) + b"x"):
        path.write_bytes(data)
        with pytest.raises(StorageError, match="is damaged"):
            read_mark(path, vkey=LOG_KEY)
    path.write_bytes(format_note(signed_checkpoint(3, TREE.root(3), log=OTHER_LOG)))
    with pytest.raises(StorageError, match="is damaged"):
        HighWaterMark.open(path, vkey=LOG_KEY)


def test_a_mark_that_is_too_large_is_not_read(path: Path) -> None:
    path.write_bytes(bytes(2 * SLOT_BYTES + 1))
    with pytest.raises(StorageError, match=f"larger than {2 * SLOT_BYTES} bytes"):
        read_mark(path, vkey=LOG_KEY)


def test_a_mark_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingMarkError, match="no high-water mark"):
        HighWaterMark.open(tmp_path / "high-water", vkey=LOG_KEY)


def test_a_mark_is_made_once_and_for_its_owner(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="exists already"):
        create_mark(path, signed(1))


def test_a_mark_that_cannot_be_written_is_a_storage_error_and_stands(path: Path) -> None:
    raise_to(path, 4)
    with opened(path) as mark:
        os.close(mark._descriptor)
        with pytest.raises(StorageError, match="cannot write"):
            mark.raise_to(9, signed(9))
        mark._descriptor = os.open(path, os.O_WRONLY)
        assert read_mark(path, vkey=LOG_KEY).size == 4
        mark.raise_to(9, signed(9))
    assert read_mark(path, vkey=LOG_KEY).size == 9


def test_the_longest_checkpoint_fits(path: Path) -> None:
    create_mark(path.with_name("other"), b"x" * SLOT_BYTES)
    with pytest.raises(ValueError, match="does not fit"):
        create_mark(path.with_name("another"), b"x" * (SLOT_BYTES + 1))
