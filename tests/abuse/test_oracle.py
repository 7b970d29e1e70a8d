"""What the abuse run holds a log to: each promise, broken, is found to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abuse.oracle import check_entries, find_defects
from tests.abuse.record import Record, Told
from tests.fault.oracle import LostError
from tests.unit.library.specimens import LOG_KEY, Tree, signed_checkpoint
from treehead.errors import InclusionError
from treehead.merkle import hash_leaf
from treehead.note import format_note

LEAVES = [b"leaf %d" % number for number in range(5)]
HASHES = [hash_leaf(leaf) for leaf in LEAVES]


def told() -> Told:
    """What a log with these leaves told: the places of all, and two of its heads."""
    told = Told(vkey=LOG_KEY)
    told.note_submitted(LEAVES)
    for index, leaf in enumerate(LEAVES):
        told.note_index(leaf, index)
    tree = Tree(LEAVES)
    for size in (3, 5):
        told.note_head(format_note(signed_checkpoint(size, tree.root(size))))
    return told


def test_a_log_that_has_what_it_acknowledged_passes() -> None:
    check_entries(told(), HASHES)
    check_entries(Told(vkey=LOG_KEY), [])


@pytest.mark.parametrize(
    ("hashes", "lost"),
    [
        pytest.param(HASHES[:-1], 1, id="the_last_is_gone"),
        pytest.param([HASHES[1], HASHES[0], *HASHES[2:]], 2, id="two_have_changed_places"),
        pytest.param([], 5, id="all_are_gone"),
    ],
)
def test_an_acknowledged_entry_that_is_not_at_its_index_is_lost(hashes: list[bytes], lost: int) -> None:
    with pytest.raises(LostError) as caught:
        check_entries(told(), hashes)
    assert caught.value.count == lost


def test_an_entry_that_nobody_sent_is_found() -> None:
    with pytest.raises(AssertionError, match="nobody submitted 1 of the log's entries, the first at 5"):
        check_entries(told(), [*HASHES, hash_leaf(b"strange")])


def test_an_entry_twice_is_found() -> None:
    with pytest.raises(AssertionError, match="twice"):
        check_entries(told(), [*HASHES, HASHES[0]])


@pytest.mark.parametrize("size", [2, 6])
def test_a_head_of_another_tree_or_of_a_larger_one_is_found(size: int) -> None:
    lied = told()
    lied.note_head(format_note(signed_checkpoint(size, bytes(32))))
    with pytest.raises(AssertionError, match=f"sizes \\[{size}\\]"):
        check_entries(lied, HASHES)


@pytest.mark.parametrize(
    "contradict",
    [
        pytest.param(lambda told: told.note_index(b"other", 2), id="an_index_with_two_leaves"),
        pytest.param(
            lambda told: told.note_head(format_note(signed_checkpoint(3, bytes(32)))), id="two_heads_of_one_size"
        ),
    ],
)
def test_what_a_log_says_twice_must_agree(contradict: Callable[[Told], None]) -> None:
    with pytest.raises(AssertionError):
        contradict(told())


def test_an_answer_whose_proof_proves_nothing_is_found() -> None:
    tree = Tree(LEAVES)
    checkpoint = format_note(signed_checkpoint(5, tree.root()))
    Told(vkey=LOG_KEY).note_proof(LEAVES[2], 2, hashes=tree.inclusion(2), checkpoint=checkpoint)
    with pytest.raises(InclusionError):
        Told(vkey=LOG_KEY).note_proof(LEAVES[2], 1, hashes=tree.inclusion(2), checkpoint=checkpoint)


def test_what_a_process_has_recorded_is_what_it_was_told(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        record.submitted(b"one")
        record.submitted(b"two")
        record.placed(b"two", 2**40)
    read = Told(vkey=LOG_KEY)
    read.note_record(tmp_path / "record")
    assert read.submitted == {hash_leaf(b"one"), hash_leaf(b"two")}
    assert read.places == {2**40: hash_leaf(b"two")}
    assert read.acknowledged == 1


def test_a_traceback_in_the_journal_is_a_defect_however_it_got_there(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text(
        '{"level": "INFO", "message": "well"}\n{"level": "ERROR", "traceback": "RuntimeError: at 0x55d9"}\n'
        "Traceback (most recent call last):\n",
        encoding="utf-8",
    )
    assert find_defects(journal) == [
        '{"level": "ERROR", "traceback": "RuntimeError: at 0x…"}',
        "Traceback (most recent call last):",
    ]
