"""The simulation of caches that fault tests stand on: what is synced stays, what is not may go, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.fault.powerloss import PAGE_BYTES, SECTOR_BYTES, Disk
from tests.fault.trace import FOLDER, Event, Opened, Renamed, Synced, Truncated, Unlinked, Written

OPEN_FOLDER = Opened(inode=1, name=FOLDER)
OPEN_A = Opened(inode=2, name="a")
CREATE_B = Opened(inode=3, name="b", created=True)
SYNC_FOLDER, SYNC_A, SYNC_B = Synced(inode=1), Synced(inode=2), Synced(inode=3)
SEEDS = range(200)


def write(inode: int, offset: int, data: bytes) -> Written:
    return Written(inode=inode, offset=offset, data=data)


def disk(*events: Event, a: bytes = b"old") -> Disk:
    made = Disk({"a": a})
    made.replay([OPEN_FOLDER, OPEN_A, *events])
    return made


def torn(made: Disk) -> list[dict[str, bytes]]:
    return [made.after_power_loss(random.Random(seed)) for seed in SEEDS]


@pytest.mark.parametrize(
    ("events", "cached", "durable"),
    [
        pytest.param([], b"old", b"old", id="nothing_happened"),
        pytest.param([write(2, 0, b"new")], b"new", b"old", id="unsynced_write_is_lost"),
        pytest.param([write(2, 0, b"new"), SYNC_A], b"new", b"new", id="synced_write_stays"),
        pytest.param([write(2, 0, b"n"), SYNC_A, write(2, 1, b"ew")], b"new", b"nld", id="only_the_synced_one_stays"),
        pytest.param([write(2, 5, b"end")], b"old\0\0end", b"old", id="a_gap_is_zeros"),
        pytest.param([Truncated(inode=2, size=1)], b"o", b"old", id="unsynced_truncation_is_lost"),
        pytest.param([Truncated(inode=2, size=1), SYNC_A], b"o", b"o", id="synced_truncation_stays"),
        pytest.param([Truncated(inode=2, size=4), SYNC_A], b"old\0", b"old\0", id="truncation_to_more"),
        pytest.param([write(2, 0, b"new"), SYNC_FOLDER], b"new", b"old", id="to_sync_the_directory_syncs_no_data"),
    ],
)
def test_data_is_durable_when_its_file_was_synced(events: Sequence[Event], cached: bytes, durable: bytes) -> None:
    made = disk(*events)
    assert made.cached() == {"a": cached}
    assert made.after_power_loss() == {"a": durable}


def test_what_is_written_through_needs_no_sync() -> None:
    made = disk(Opened(inode=2, name="a", written_through=True), write(2, 0, b"new"))
    assert made.after_power_loss() == {"a": b"new"}


@pytest.mark.parametrize(
    ("events", "cached", "durable"),
    [
        pytest.param([CREATE_B, write(3, 0, b"x"), SYNC_B], {"a", "b"}, {"a"}, id="new_name_unsynced"),
        pytest.param([CREATE_B, SYNC_FOLDER], {"a", "b"}, {"a", "b"}, id="new_name_synced"),
        pytest.param([Unlinked(name="a")], set(), {"a"}, id="removed_name_unsynced"),
        pytest.param([Unlinked(name="a"), SYNC_FOLDER], set(), set(), id="removed_name_synced"),
        pytest.param([Renamed(old="a", new="b")], {"b"}, {"a"}, id="moved_name_unsynced"),
        pytest.param([Renamed(old="a", new="b"), SYNC_FOLDER], {"b"}, {"b"}, id="moved_name_synced"),
    ],
)
def test_names_are_durable_when_the_directory_was_synced(
    events: Sequence[Event], cached: set[str], durable: set[str]
) -> None:
    made = disk(*events)
    assert set(made.cached()) == cached
    assert set(made.after_power_loss()) == durable


def test_a_file_renamed_into_place_unsynced_may_be_there_and_empty() -> None:
    made = disk(CREATE_B, write(3, 0, b"new"), Renamed(old="b", new="a"), SYNC_FOLDER)
    assert made.cached() == {"a": b"new"}
    assert made.after_power_loss() == {"a": b""}


def test_a_file_made_again_is_another_one_though_its_inode_is_the_same() -> None:
    made = disk(write(2, 0, b"new"), Unlinked(name="a"), Opened(inode=2, name="a", created=True), write(2, 0, b"x"))
    assert made.cached() == {"a": b"x"}
    assert made.after_power_loss() == {"a": b"old"}


def test_what_a_failed_sync_left_in_the_cache_is_lost_whatever_is_synced_later() -> None:
    first, later = b"1" * PAGE_BYTES, b"2" * PAGE_BYTES
    doomed = Synced(inode=2, doomed=True)
    made = disk(write(2, 0, first), doomed, write(2, PAGE_BYTES, later), SYNC_A, a=b"")
    assert made.cached() == {"a": first + later}
    assert made.after_power_loss() == {"a": bytes(PAGE_BYTES) + later}


def test_what_is_doomed_is_written_after_all_with_the_rest_of_its_page() -> None:
    made = disk(write(2, 0, b"doomed"), Synced(inode=2, doomed=True), write(2, 6, b" no more"), SYNC_A)
    assert made.after_power_loss() == {"a": b"doomed no more"}


def test_torn_writes_are_any_of_their_sectors() -> None:
    old, new = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES
    images = {image["a"] for image in torn(disk(write(2, 0, new * 2), a=old * 2))}
    assert images == {old + old, old + new, new + old, new + new}


def test_a_torn_write_leaves_the_rest_of_its_sector_alone() -> None:
    images = {image["a"] for image in torn(disk(write(2, 1, b"XY"), a=b"12345"))}
    assert images == {b"12345", b"1XY45"}


def test_a_torn_sector_has_any_of_the_contents_it_had() -> None:
    images = {image["a"] for image in torn(disk(write(2, 0, b"1"), write(2, 0, b"2"), a=b"0"))}
    assert images == {b"0", b"1", b"2"}


def test_a_torn_file_may_have_grown_without_its_data() -> None:
    images = {image["a"] for image in torn(disk(write(2, 0, b"new"), a=b""))}
    assert images == {b"", b"\0\0\0", b"new"}


def test_nothing_that_was_synced_is_torn() -> None:
    events: list[Event] = [write(2, 0, b"1" * 5_000), SYNC_A, CREATE_B, write(3, 0, b"2" * 5_000), SYNC_B, SYNC_FOLDER]
    assert all(image == {"a": b"1" * 5_000, "b": b"2" * 5_000} for image in torn(disk(*events)))


def test_names_are_torn_in_the_order_of_the_calls() -> None:
    made = disk(CREATE_B, Renamed(old="b", new="c"), Unlinked(name="a"))
    assert {frozenset(image) for image in torn(made)} == {
        frozenset("a"),
        frozenset("ab"),
        frozenset("ac"),
        frozenset("c"),
    }


def test_a_seed_replays_its_image() -> None:
    made = disk(*(write(2, 700 * number, b"%d" % number * 700) for number in range(20)))
    assert torn(made) == torn(made)
