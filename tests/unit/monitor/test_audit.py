"""Following one log: what becomes verified, what stays progress, what is a suspicion, and what is proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG_KEY, OTHER_LOG, Tree, forked_trees, signed_checkpoint
from tests.unit.monitor.desk import LOOK_PAGES_MAX, UNVERIFIED_ENTRIES_MAX, ScriptedLog, desk, leaves
from tests.unit.monitor.gossiper import LOG_ID, signed_head
from treehead.errors import StorageError
from treehead.evidence import Fork, verify_evidence
from treehead.merkle import verify_consistency
from treehead.note import format_note
from treehead_monitor.datadir import DataDirectory, create_monitor
from treehead_monitor.event import KeepNote, Park
from treehead_monitor.status import State, read_status

BOUNDARIES = [0, 1, 2, 255, 256, 257, 511, 512, 513, 768]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_monitor(DataDirectory(path=tmp_path / "monitor"), name="monitor.example", passphrase=None)
    return tmp_path / "monitor"


# --- honest logs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [100, 256, 1_000])
async def test_the_root_of_every_past_size_is_at_hand_around_tile_boundaries(folder: Path, page: int) -> None:
    log, tree = ScriptedLog(), Tree(leaves(BOUNDARIES[-1]))
    async with desk(folder, log, page=page) as monitor:
        for size in BOUNDARIES:
            log.leaves = leaves(size)
            await monitor.look()
            assert monitor.size == size
            for past in [*BOUNDARIES, 100, 400]:
                if past <= size:
                    assert await monitor.followed.history.root_at(past) == tree.root(past)
                    path = await monitor.followed.history.consistency(past, size)
                    assert path == tree.consistency(past, size)
        assert monitor.doubts() == set()


@pytest.mark.parametrize("size", BOUNDARIES)
async def test_a_first_look_at_a_log_of_any_size_verifies_it(folder: Path, size: int) -> None:
    async with desk(folder, ScriptedLog(leaves(size))) as monitor:
        await monitor.look()
        assert monitor.size == size


async def test_the_third_level_of_tiles_is_kept_too(folder: Path) -> None:
    size = 65_536 + 300
    log = ScriptedLog(leaves(size))
    tree = Tree(log.leaves)
    log.page = 4_096
    log.checkpoint = format_note(signed_checkpoint(65_535, tree.root(65_535)))
    async with desk(folder, log, page=8_192) as monitor:
        await monitor.look()
        assert monitor.size == 65_535
        log.checkpoint = format_note(signed_checkpoint(size, tree.root()))
        await monitor.look()
    async with desk(folder, log) as monitor:
        history = monitor.followed.history
        for past in (1, 255, 256, 65_535, 65_536, 65_537, size):
            assert await history.root_at(past) == tree.root(past)
            path = await history.consistency(past, size)
            verify_consistency(size1=past, size2=size, root1=tree.root(past), root2=tree.root(), proof=path)


async def test_a_restart_fetches_nothing_again(folder: Path) -> None:
    log = ScriptedLog(leaves(900))
    async with desk(folder, log, page=100) as monitor:
        await monitor.look()
    log.asked.clear()
    async with desk(folder, log) as monitor:
        assert monitor.size == 900
        await monitor.look()
        assert log.asked == []
        log.leaves = leaves(910)
        await monitor.look()
        assert log.asked == [(900, 910)]
        assert monitor.size == 910


async def test_a_long_way_is_gone_in_pages_and_taken_up_where_it_broke_off(folder: Path) -> None:
    log = ScriptedLog(leaves(1_000))
    log.down_after = 700
    async with desk(folder, log, page=300) as monitor:
        await monitor.look()
        assert monitor.size is None
        assert monitor.doubts() == {"no-answer"}
    log.asked.clear()
    log.down_after = None
    async with desk(folder, log, page=300) as monitor:
        await monitor.look()
        assert log.asked == [(700, 1_000)]
        assert monitor.size == 1_000
        assert monitor.doubts() == set()


async def test_progress_beyond_the_head_that_is_shown_now_is_dropped(folder: Path) -> None:
    log = ScriptedLog(leaves(1_000))
    log.down_after = 700
    async with desk(folder, log, page=300) as monitor:
        await monitor.look()
        log.down_after = None
        log.leaves = leaves(500)
        await monitor.look()
        assert monitor.size == 500
        assert await monitor.followed.history.root_at(256) == Tree(leaves(256)).root()


async def test_the_root_of_a_larger_tree_does_not_pass_for_that_of_a_smaller_one(folder: Path) -> None:
    log = ScriptedLog(leaves(1_000))
    log.down_after = 700
    async with desk(folder, log, page=300) as monitor:
        await monitor.look()
        log.down_after = None
        log.checkpoint = format_note(signed_checkpoint(500, Tree(leaves(700)).root()))
        await monitor.look()
        assert (monitor.size, monitor.doubts()) == (None, {"bad-answer"})


async def test_a_log_that_grows_while_it_is_fetched_is_followed_to_the_head_it_showed(folder: Path) -> None:
    log = ScriptedLog(leaves(900))
    log.checkpoint = log.checkpoint_of(600)
    async with desk(folder, log, page=300) as monitor:
        await monitor.look()
        assert monitor.size == 600


# --- suspicions ------------------------------------------------------------------------------------------------------


async def test_a_log_that_is_down_is_a_suspicion_until_it_answers(folder: Path) -> None:
    log = ScriptedLog(leaves(3))
    log.is_down = True
    async with desk(folder, log) as monitor:
        await monitor.look()
        assert monitor.doubts() == {"no-answer"}
        assert not monitor.driver.is_misbehaved(LOG_ID)
    async with desk(folder, log) as monitor:
        assert monitor.doubts() == {"no-answer"}
        log.is_down = False
        await monitor.look()
        assert monitor.doubts() == set()
        assert monitor.size == 3


BAD_CHECKPOINTS: dict[str, bytes] = {
    "nothing": b"",
    "no_note": b"hello\n",
    "no_text": b"\xff\xfe",
    "no_checkpoint": b"text\n\n\xe2\x80\x94 log.example/treehead AAAAAAA=\n",
    "another_logs_key": format_note(signed_checkpoint(3, bytes(32), log=OTHER_LOG)),
    "another_origin": format_note(signed_checkpoint(3, bytes(32), origin="other.example")),
    "a_damaged_signature": format_note(signed_checkpoint(3, bytes(32))).replace(b"\n3\n", b"\n4\n"),
    "a_megabyte": b"x" * 1_048_576,
}


@pytest.mark.parametrize("checkpoint", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
async def test_a_checkpoint_that_the_log_did_not_sign_is_a_suspicion_and_not_kept(
    folder: Path, checkpoint: bytes
) -> None:
    log = ScriptedLog(leaves(3))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.checkpoint = checkpoint or b"\n"
        await monitor.look()
        assert monitor.doubts() == {"bad-answer"}
        assert monitor.size == 3
        log.checkpoint = None
        await monitor.look()
        assert monitor.doubts() == set()


@pytest.mark.parametrize("verified", [0, 1, 3, 4, 256, 300])
async def test_entries_that_do_not_hash_to_the_signed_root_are_a_suspicion_and_never_verified(
    folder: Path, verified: int
) -> None:
    log = ScriptedLog(leaves(verified))
    async with desk(folder, log, page=150) as monitor:
        await monitor.look()
        log.leaves = leaves(600)
        log.served = [*leaves(599), b"something else"]
        log.asked.clear()
        await monitor.look()
        assert [begin for begin, _ in log.asked].count(verified) == 2, "fetched once more before it is a suspicion"
        assert monitor.doubts() == {"bad-answer"}
        assert not monitor.driver.is_misbehaved(LOG_ID)
        assert monitor.size == verified
        assert await monitor.followed.history.root_at(verified) == Tree(leaves(verified)).root()
    async with desk(folder, log) as monitor:
        assert monitor.known.progress is None, "what was fetched in vain is not built on"
        log.served = None
        await monitor.look()
        assert monitor.size == 600
        assert await monitor.followed.history.root_at(512) == Tree(leaves(512)).root()
        assert monitor.doubts() == set()


@pytest.mark.parametrize("verified", [3, 4, 300])
async def test_a_proof_that_confirms_our_tree_makes_bad_entries_a_suspicion_only(folder: Path, verified: int) -> None:
    log = ScriptedLog(leaves(verified))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.leaves = leaves(600)
        log.proofs = Tree(log.leaves)
        log.served = [*leaves(599), b"something else"]
        await monitor.look()
        assert monitor.doubts() == {"bad-answer"}
        assert not monitor.driver.is_misbehaved(LOG_ID)


@pytest.mark.parametrize("verified", [3, 4])
async def test_a_proof_that_leads_nowhere_proves_nothing(folder: Path, verified: int) -> None:
    log = ScriptedLog(leaves(verified))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.leaves = leaves(20)
        log.served = [*leaves(19), b"something else"]
        log.proofs = Tree(leaves(20, kind="unrelated"))
        await monitor.look()
        assert monitor.doubts() == {"bad-answer"}
        assert not monitor.driver.is_misbehaved(LOG_ID)


async def test_a_log_that_sends_no_entries_is_a_suspicion(folder: Path) -> None:
    log = ScriptedLog(leaves(20))
    log.served = leaves(7)
    async with desk(folder, log) as monitor:
        await monitor.look()
        assert monitor.doubts() == {"bad-answer"}
        log.served = None
        await monitor.look()
        assert monitor.size == 20


async def test_an_older_head_shown_again_is_a_suspicion_and_the_tree_stays(folder: Path) -> None:
    log = ScriptedLog(leaves(20))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.checkpoint = log.checkpoint_of(7)
        await monitor.look()
        assert (monitor.doubts(), monitor.size) == ({"rollback"}, 20)
        log.checkpoint = None
        await monitor.look()
        assert monitor.doubts() == set()
    (status,) = read_status(monitor.directory).logs
    assert [(doubt.doubt.value, doubt.count, doubt.standing) for doubt in status.suspicions] == [("rollback", 1, False)]


async def test_a_head_that_could_not_be_reached_at_first_is_no_rollback_once_it_is_passed(folder: Path) -> None:
    log = ScriptedLog(leaves(20))
    log.down_after = 0
    async with desk(folder, log) as monitor:
        await monitor.look()
        assert monitor.doubts() == {"no-answer"}
        log.down_after, log.leaves = None, leaves(30)
        await monitor.look()
        assert (monitor.size, monitor.doubts()) == (30, set())
    (status,) = read_status(monitor.directory).logs
    assert [doubt.doubt.value for doubt in status.suspicions] == ["no-answer"]
    assert status.parked == ()


async def test_one_look_goes_so_many_pages_and_the_next_takes_up_the_newest_head(folder: Path) -> None:
    log = ScriptedLog(leaves(1_500))
    async with desk(folder, log, page=100) as monitor:
        await monitor.look()
        assert (monitor.size, monitor.doubts(), len(log.asked)) == (None, set(), LOOK_PAGES_MAX)
        log.leaves = leaves(1_600)
        await monitor.look()
        assert log.asked[LOOK_PAGES_MAX] == (1_000, 1_100)
        assert (monitor.size, monitor.doubts()) == (1_600, set())


async def test_a_head_out_of_all_proportion_is_a_suspicion_and_nothing_is_fetched(folder: Path) -> None:
    log = ScriptedLog(leaves(3))
    log.checkpoint = format_note(signed_checkpoint(UNVERIFIED_ENTRIES_MAX + 1, bytes(32)))
    async with desk(folder, log) as monitor:
        await monitor.look()
        assert (monitor.doubts(), log.asked) == ({"bad-answer"}, [])


# --- proof -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verified", "size"), [(1, 2), (2, 3), (3, 7), (4, 5), (4, 8), (8, 9), (8, 13), (16, 20), (300, 600), (512, 600)]
)
async def test_a_log_that_extends_another_tree_is_proven_by_its_own_proofs(
    folder: Path, verified: int, size: int
) -> None:
    log = ScriptedLog(leaves(verified))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.leaves = [*leaves(verified - 1), *leaves(size - verified + 1, kind="other")]
        log.proofs = Tree(log.leaves)
        await monitor.look()
        assert monitor.driver.is_misbehaved(LOG_ID)
        (evidence,) = monitor.driver.evidence(LOG_ID)
        assert evidence.fork is Fork.PREFIX
        first, second = verify_evidence(evidence, key=LOG_KEY)
        assert (first.size, second.size) == (verified, size)
        log.asked.clear()
        await monitor.look()
        assert log.asked == [], "there is no one tree left to follow"
    (status,) = read_status(monitor.directory).logs
    assert status.state is State.MISBEHAVED
    async with desk(folder, log) as monitor:
        assert monitor.driver.is_misbehaved(LOG_ID)


async def test_a_log_that_changes_its_tree_without_growing_is_proven_at_once(folder: Path) -> None:
    ours, theirs = forked_trees(9, 4)
    log = ScriptedLog(leaves(9))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.checkpoint = signed_head(theirs, 9).data
        await monitor.look()
        (evidence,) = monitor.driver.evidence(LOG_ID)
        assert evidence.fork is Fork.SAME_SIZE
        assert ours.root() == Tree(leaves(9)).root()


async def test_a_smaller_tree_that_is_no_prefix_is_proven_from_our_own_tiles(folder: Path) -> None:
    _, theirs = forked_trees(700, 300)
    log = ScriptedLog(leaves(700))
    async with desk(folder, log) as monitor:
        await monitor.look()
        log.checkpoint = signed_head(theirs, 513).data
        await monitor.look()
        (evidence,) = monitor.driver.evidence(LOG_ID)
        first, second = verify_evidence(evidence, key=LOG_KEY)
        assert (first.size, second.size) == (513, 700)


@pytest.mark.parametrize("size", [4, 7, 9])
async def test_a_note_that_was_kept_and_not_judged_before_a_crash_is_judged_after_it(folder: Path, size: int) -> None:
    _, theirs = forked_trees(9, 2)
    log = ScriptedLog(leaves(7))
    async with desk(folder, log) as monitor:
        await monitor.look()
        await monitor.store.keep([KeepNote(head=signed_head(theirs, size), source="p", at_ms=0)])
    async with desk(folder, log) as monitor:
        log.leaves = leaves(9)
        assert monitor.driver.is_misbehaved(LOG_ID) == (size <= 7)
        await monitor.look()
        assert monitor.driver.is_misbehaved(LOG_ID)


async def test_a_parked_head_that_was_reached_and_not_judged_before_a_crash_is_judged_after_it(folder: Path) -> None:
    _, theirs = forked_trees(9, 2)
    head = signed_head(theirs, 5)
    log = ScriptedLog(leaves(90))
    async with desk(folder, log) as monitor:
        await monitor.look()
        await monitor.store.keep([KeepNote(head=head, source="p", at_ms=0), Park(head=head, source="p", at_ms=0)])
        later = [signed_head(Tree(leaves(90)), size) for size in range(10, 90)]
        await monitor.store.keep([KeepNote(head=other, source="p", at_ms=1) for other in later])
    async with desk(folder, log) as monitor:
        assert monitor.driver.is_misbehaved(LOG_ID)


async def test_own_heads_that_are_judged_again_are_no_rollback(folder: Path) -> None:
    log = ScriptedLog()
    async with desk(folder, log) as monitor:
        for size in (3, 5, 9):
            log.leaves = leaves(size)
            await monitor.look()
    async with desk(folder, log) as monitor:
        assert monitor.doubts() == set()
        assert monitor.followed.suspicions == {}


# --- our own disk ----------------------------------------------------------------------------------------------------


def flip_a_tile(monitor: Path) -> None:
    import sqlite3

    with sqlite3.connect(monitor / "monitor.sqlite") as database:
        database.execute("update logs set edge = zeroblob(length(edge))")
    database.close()


def forget_the_edge(monitor: Path) -> None:
    import sqlite3

    with sqlite3.connect(monitor / "monitor.sqlite") as database:
        database.execute("update logs set edge = x''")
    database.close()


@pytest.mark.parametrize("damage", [flip_a_tile, forget_the_edge])
async def test_a_damaged_store_is_our_own_failure_and_not_the_logs(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    log = ScriptedLog(leaves(300))
    async with desk(folder, log) as monitor:
        await monitor.look()
    damage(folder)
    with pytest.raises(StorageError, match="damaged"):
        async with desk(folder, log):
            pass


async def test_after_a_failed_write_nothing_is_done_any_more(folder: Path) -> None:
    log = ScriptedLog(leaves(3))
    async with desk(folder, log) as monitor:
        await monitor.look()
        monitor.directory.evidence.rmdir()
        log.checkpoint = signed_head(forked_trees(3, 1)[1], 3).data
        with pytest.raises(StorageError, match="evidence"):
            await monitor.look()
        with pytest.raises(StorageError, match="has stopped"):
            await monitor.driver.see(signed_head(Tree(leaves(3))))
        with pytest.raises(StorageError):
            await monitor.driver.broken()
    monitor.directory.evidence.mkdir()
    async with desk(folder, log) as monitor:
        assert monitor.driver.is_misbehaved(LOG_ID), "the note was kept first, and is judged now"
