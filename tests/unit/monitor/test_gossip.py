"""The rules of gossip, one by one, on the pure machine: what is persisted, judged, sent and said, and in what order."""

from base64 import b64decode, b64encode

import pytest

from tests.unit.library.specimens import (
    LOG_KEY,
    OTHER_LOG,
    Tree,
    forked_trees,
    prefix_evidence,
    private_key,
    same_size_evidence,
    signed_checkpoint,
)
from tests.unit.monitor.gossiper import LOG_ID, Gossiper, exchange, head_with_root, signed_head
from treehead.evidence import Fork, format_evidence, verify_evidence
from treehead.keys import NoteKeyType
from treehead.merkle import EMPTY_ROOT, HASH_BYTES
from treehead.note import format_note
from treehead_monitor.event import Accused, KeepNote, Proven
from treehead_monitor.gossip import GossipMachine, Limits
from treehead_monitor.head import HEAD_BYTES_MAX
from treehead_monitor.memory import Memory
from treehead_monitor.message import (
    DIGESTS_MAX,
    EVIDENCE_MAX,
    ITEMS_BYTES_MAX,
    NOTES_MAX,
    Gossip,
    evidence_id,
    that_fit,
)
from treehead_monitor.wire import GOSSIP_BYTES_MAX

TREE = Tree(b"leaf %d" % index for index in range(40))
SIZES = [(1, 2), (1, 3), (2, 3), (4, 8), (5, 8), (7, 13), (8, 9), (8, 16), (16, 40), (31, 32), (39, 40)]


def monitor_at(size: int, tree: Tree = TREE, **options: object) -> Gossiper:
    """A monitor that has followed its log to a size, its trace begun anew."""
    monitor = Gossiper(tree, **options)  # type: ignore[arg-type]
    monitor.follow(size)
    monitor.trace.clear()
    monitor.findings.clear()
    return monitor


# --- judging heads ---------------------------------------------------------------------------------------------------


def test_a_note_is_persisted_before_it_is_judged() -> None:
    _, theirs = forked_trees(13, 4)
    monitor = monitor_at(13, peers=("p", "q"))
    monitor.hear(signed_head(theirs, 7), source="p")
    assert monitor.trace == [
        "keep note 7 from p",
        "compare 7",
        "keep evidence prefix 7 13",
        "send p evidence",
        "send q evidence",
        "accuse",
    ]


def test_same_size_same_root_is_agreement() -> None:
    monitor = monitor_at(7)
    monitor.hear(signed_head(TREE, 7))
    assert monitor.trace == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 16, 31, 40])
def test_same_size_other_root_is_a_fork(size: int) -> None:
    _, theirs = forked_trees(size, size - 1)
    monitor = monitor_at(size)
    monitor.hear(signed_head(theirs, size))
    (evidence,) = monitor.evidence
    assert evidence.fork is Fork.SAME_SIZE
    verify_evidence(evidence, key=LOG_KEY)


@pytest.mark.parametrize(("smaller", "larger"), SIZES)
def test_a_smaller_head_of_another_tree_is_a_fork_that_the_larger_tree_proves(smaller: int, larger: int) -> None:
    _, theirs = forked_trees(larger, smaller - 1)
    monitor = monitor_at(larger)
    monitor.hear(signed_head(theirs, smaller))
    (evidence,) = monitor.evidence
    assert evidence.fork is Fork.PREFIX
    first, second = verify_evidence(evidence, key=LOG_KEY)
    assert (first.size, second.size) == (smaller, larger)


@pytest.mark.parametrize(("smaller", "larger"), SIZES)
def test_a_smaller_head_of_our_tree_is_agreement(smaller: int, larger: int) -> None:
    monitor = monitor_at(larger)
    monitor.hear(signed_head(TREE, smaller))
    assert monitor.trace == [f"keep note {smaller} from peer", f"compare {smaller}"]
    assert not monitor.is_accusing


def test_the_empty_tree_is_a_prefix_of_every_tree() -> None:
    monitor = monitor_at(40)
    monitor.hear(head_with_root(0, EMPTY_ROOT))
    assert not monitor.is_accusing
    monitor = monitor_at(0)
    monitor.hear(signed_head(TREE, 40))
    monitor.follow(40)
    assert not monitor.is_accusing


def test_an_empty_tree_with_another_root_is_a_fork() -> None:
    monitor = monitor_at(5)
    monitor.hear(head_with_root(0, bytes(32)))
    (evidence,) = monitor.evidence
    verify_evidence(evidence, key=LOG_KEY)
    monitor = monitor_at(0)
    monitor.hear(head_with_root(0, bytes(32)))
    (evidence,) = monitor.evidence
    assert evidence.fork is Fork.SAME_SIZE


def test_a_larger_head_is_parked_and_resolved_by_following_the_log() -> None:
    monitor = monitor_at(5)
    monitor.hear(signed_head(TREE, 9))
    assert monitor.trace == ["keep note 9 from peer", "compare 9", "park 9"]
    monitor.follow(8)
    assert list(monitor.parked) == [signed_head(TREE, 9).digest]
    monitor.follow(12)
    assert monitor.parked == {}
    assert not monitor.is_accusing


@pytest.mark.parametrize("followed", [9, 10, 16, 40])
def test_a_parked_head_of_another_tree_is_a_fork_once_the_log_is_followed_that_far(followed: int) -> None:
    _, theirs = forked_trees(9, 3)
    monitor = monitor_at(5)
    monitor.hear(signed_head(theirs, 9))
    assert not monitor.is_accusing
    monitor.follow(followed)
    (evidence,) = monitor.evidence
    assert evidence.fork is (Fork.SAME_SIZE if followed == 9 else Fork.PREFIX)
    verify_evidence(evidence, key=LOG_KEY)


def test_two_parked_heads_of_one_size_are_a_fork_at_once() -> None:
    ours, theirs = forked_trees(30, 3)
    monitor = Gossiper(TREE)
    monitor.hear(signed_head(ours, 30))
    monitor.hear(signed_head(theirs, 30))
    (evidence,) = monitor.evidence
    assert evidence.fork is Fork.SAME_SIZE


def test_a_head_that_the_log_shows_is_compared_with_what_peers_showed() -> None:
    ours, theirs = forked_trees(30, 3)
    monitor = Gossiper(TREE)
    monitor.hear(signed_head(theirs, 30))
    monitor.see(signed_head(ours, 30))
    assert monitor.is_accusing


def test_a_parked_head_is_kept_once_and_outlives_a_restart() -> None:
    monitor = monitor_at(5)
    for _ in range(3):
        monitor.hear(signed_head(TREE, 9))
    assert monitor.trace == ["keep note 9 from peer", "compare 9", "park 9"]
    restarted = monitor.restarted()
    assert list(restarted.parked) == [signed_head(TREE, 9).digest]
    _, theirs = forked_trees(9, 3)
    restarted.hear(signed_head(theirs, 9))
    assert restarted.is_accusing


def test_unresolved_heads_are_never_evicted_and_too_many_are_refused_as_a_suspicion() -> None:
    monitor = monitor_at(1, limits=Limits(parked_max=3))
    for size in (20, 21, 22, 23, 24):
        monitor.hear(signed_head(TREE, size))
    assert [digest.size for digest in monitor.parked] == [20, 21, 22]
    assert "keep note 23 from peer" not in monitor.trace
    assert monitor.suspicions() == {"unresolved"}
    monitor.tick()
    assert monitor.suspicions() == {"unresolved"}
    monitor.follow(22)
    monitor.tick()
    assert monitor.parked == {}
    assert monitor.suspicions() == set()


def test_what_there_is_no_room_for_is_not_asked_for() -> None:
    one, two = monitor_at(1, name="one", limits=Limits(parked_max=2)), monitor_at(30, name="two")
    one.hear(signed_head(TREE, 20), signed_head(TREE, 21))
    assert exchange(one, two) == 2, "the other one lacks a note, too"
    assert exchange(one, two) == 1


def test_many_heads_in_one_message_do_not_pass_the_limit() -> None:
    monitor = monitor_at(1, limits=Limits(parked_max=3))
    monitor.hear(*(signed_head(TREE, size) for size in range(20, 30)))
    assert len(monitor.parked) == 3


def test_a_rival_of_a_parked_head_is_judged_even_if_there_is_no_room() -> None:
    ours, theirs = forked_trees(30, 3)
    monitor = monitor_at(1, limits=Limits(parked_max=1))
    monitor.hear(signed_head(ours, 30))
    monitor.hear(signed_head(theirs, 30))
    assert monitor.is_accusing


def test_a_head_out_of_reach_for_too_long_is_a_suspicion_and_no_accusation() -> None:
    monitor = monitor_at(1, limits=Limits(parked_deadline_ms=1_000))
    monitor.hear(signed_head(TREE, 20))
    monitor.tick(later_ms=999)
    assert monitor.suspicions() == set()
    monitor.tick(later_ms=1)
    assert monitor.suspicions() == {"unresolved"}
    assert not monitor.is_accusing
    monitor.follow(20)
    monitor.tick()
    assert monitor.suspicions() == set()


def test_an_older_head_shown_again_is_a_suspicion_and_no_accusation() -> None:
    monitor = monitor_at(9)
    monitor.see(signed_head(TREE, 4))
    assert monitor.trace == ["keep note 4 from log", "compare 4", "suspect rollback"]
    assert not monitor.is_accusing
    monitor.see(signed_head(TREE, 9))
    assert monitor.suspicions() == set()


def test_an_older_head_from_a_peer_is_no_finding() -> None:
    monitor = monitor_at(9)
    monitor.hear(signed_head(TREE, 4))
    assert monitor.findings == []


def test_a_log_that_shows_an_older_head_of_another_tree_has_forked() -> None:
    _, theirs = forked_trees(9, 2)
    monitor = monitor_at(9)
    monitor.see(signed_head(theirs, 4))
    assert monitor.is_accusing


# --- what counts -----------------------------------------------------------------------------------------------------


def test_a_note_of_a_log_that_is_not_followed_is_dropped_before_its_signature_is_checked() -> None:
    note = signed_checkpoint(5, bytes(32), origin="stranger.example")
    damaged = format_note(note).replace(b"\n5\n", b"\n6\n")
    monitor = monitor_at(9)
    monitor.hear_gossip(Gossip(notes=(damaged, format_note(signed_checkpoint(5, bytes(32), log=OTHER_LOG)))))
    assert monitor.trace == []
    assert monitor.findings == []


@pytest.mark.parametrize("data", [b"", b"no note\n", b"\xff" * 100, b"x" * 70_000])
def test_what_is_no_note_is_the_peers_fault(data: bytes) -> None:
    monitor = monitor_at(9)
    monitor.hear_gossip(Gossip(notes=(data,)))
    assert monitor.trace == ["fault of peer"]


def test_a_note_whose_signature_does_not_verify_is_not_kept_and_is_the_peers_fault() -> None:
    _, theirs = forked_trees(9, 2)
    monitor = monitor_at(9)
    monitor.hear_gossip(Gossip(notes=(signed_head(theirs, 9).data.replace(b"\n9\n", b"\n8\n"),)))
    assert monitor.trace == ["fault of peer"]
    assert "does not verify" in monitor.faults()[0]
    assert not monitor.is_accusing


def test_lines_that_others_add_to_a_note_do_not_reach_the_evidence() -> None:
    _, theirs = forked_trees(9, 2)
    plain = signed_checkpoint(5, theirs.root(5))
    cosigned = signed_checkpoint(5, theirs.root(5), cosigned={"w1": 1, "w2": 2})
    files = []
    for note in (plain, cosigned):
        monitor = monitor_at(9)
        monitor.hear_gossip(Gossip(notes=(format_note(note),)))
        files.append(monitor.files)
    assert files[0] == files[1] != []


# --- evidence --------------------------------------------------------------------------------------------------------

SAME_SIZE = format_evidence(same_size_evidence())
PREFIX = format_evidence(prefix_evidence())


@pytest.mark.parametrize("data", [SAME_SIZE, PREFIX])
def test_evidence_is_kept_before_it_is_relayed_and_relayed_once_to_all_others(data: bytes) -> None:
    monitor = monitor_at(1, peers=("p", "q", "r"))
    monitor.hear(evidence=[data], source="q")
    assert [line.split()[:2] for line in monitor.trace] == [
        ["keep", "evidence"],
        ["send", "p"],
        ["send", "r"],
        ["accuse"],
    ]
    monitor.trace.clear()
    monitor.hear(evidence=[data], source="r")
    monitor.hear(evidence=[data], source="p")
    assert monitor.trace == []


def test_evidence_that_proves_nothing_is_dropped_and_counted_against_the_peer() -> None:
    honest = signed_checkpoint(5, TREE.root(5)), signed_checkpoint(9, TREE.root(9))
    texts = [note.text for note in honest]
    lines = [format_note(note).decode().removeprefix(f"{note.text}\n") for note in honest]
    forged = f"treehead.dev/evidence@v1\nfork same-size\n\n{texts[0]}\n{lines[0]}\n{texts[1]}\n{lines[1]}".encode()
    unsigned = SAME_SIZE.replace(b"\n7\n", b"\n6\n")
    for data in (forged, unsigned, b"", b"nonsense", SAME_SIZE[:-1], SAME_SIZE + b"\n"):
        monitor = monitor_at(9, peers=("p", "q"))
        monitor.hear(evidence=[data], source="p")
        assert monitor.trace == ["fault of p"], data
        assert not monitor.is_accusing
        monitor.hear(evidence=[data], source="p")
        assert monitor.trace == ["fault of p"], "judged once, remembered since"
        assert monitor.machine.follow_up(Gossip(evidence_ids=(evidence_id(data),))) is None


def test_evidence_against_a_log_that_is_not_followed_is_ignored() -> None:
    ours, theirs = forked_trees(7, 6)
    notes = sorted((signed_checkpoint(7, tree.root(), log=OTHER_LOG) for tree in (ours, theirs)), key=format_note)
    data = b"treehead.dev/evidence@v1\nfork same-size\n\n" + b"\n".join(map(format_note, notes))
    monitor = monitor_at(9, peers=("p", "q"))
    monitor.hear(evidence=[data], source="p")
    assert monitor.trace == []
    assert not monitor.is_accusing


def test_evidence_found_by_following_the_log_is_kept_and_told() -> None:
    monitor = monitor_at(1, peers=("p", "q"))
    monitor.run(Proven(evidence=prefix_evidence(), log=LOG_ID, at_ms=0))
    assert monitor.trace == ["keep evidence prefix 5 13", "send p evidence", "send q evidence", "accuse"]


def test_no_more_than_sixteen_files_are_kept_against_one_log() -> None:
    monitor = monitor_at(1)
    for size in range(2, 2 + EVIDENCE_MAX + 4):
        monitor.hear(evidence=[format_evidence(same_size_evidence(size))])
    assert len(monitor.files) == EVIDENCE_MAX
    assert monitor.faults() == []


def test_once_proven_no_further_file_is_made_from_further_heads() -> None:
    _, theirs = forked_trees(30, 3)
    monitor = monitor_at(20)
    for size in range(5, 25):
        monitor.hear(signed_head(theirs, size))
    assert len(monitor.files) == 1


def test_two_lies_in_one_message_make_one_file() -> None:
    _, theirs = forked_trees(30, 3)
    monitor = monitor_at(20)
    monitor.hear(signed_head(theirs, 7), signed_head(theirs, 9))
    assert len(monitor.files) == 1


def test_misbehaviour_outlives_a_restart_even_if_the_files_are_gone() -> None:
    monitor = monitor_at(9)
    monitor.hear(evidence=[SAME_SIZE])
    assert monitor.restarted().is_accusing
    assert Gossiper(TREE, memory=Memory(key=LOG_KEY, misbehaved=True)).is_accusing


def test_heads_of_a_log_that_misbehaved_are_neither_told_nor_wanted() -> None:
    monitor = monitor_at(9)
    monitor.hear(evidence=[SAME_SIZE])
    assert monitor.machine.greeting() == Gossip(evidence_ids=(evidence_id(SAME_SIZE),))
    asked = Gossip(heads=(signed_head(TREE, 30).digest,), wanted_notes=(signed_head(TREE, 9).digest,))
    assert monitor.machine.answer(asked) == monitor.machine.greeting()


def test_the_evidence_against_one_log_does_not_crowd_out_that_against_another() -> None:
    keys = [private_key(f"log{at}").verifier_key(name=f"log{at}", key_type=NoteKeyType.ED25519) for at in range(64)]
    files = {key: tuple(f"{key.name} {at}".encode() for at in range(EVIDENCE_MAX)) for key in keys}
    memories = [Memory(key=key, evidence=evidence) for key, evidence in files.items()]
    machine = GossipMachine(logs=memories, peers=(), limits=Limits())
    told = machine.greeting().evidence_ids
    assert len(told) == DIGESTS_MAX
    assert all(evidence_id(evidence[1]) in told for evidence in files.values())
    every = tuple(evidence_id(data) for evidence in files.values() for data in evidence)
    assert machine.follow_up(Gossip(evidence_ids=every)) is None, "all of it is held"


def test_whoever_finds_the_fork_is_named() -> None:
    monitor = monitor_at(9)
    monitor.hear(evidence=[SAME_SIZE], source="p")
    assert [finding.source for finding in monitor.findings if isinstance(finding, Accused)] == ["p"]


# --- conversation ----------------------------------------------------------------------------------------------------


def test_those_who_agree_exchange_digests_only() -> None:
    one, two = monitor_at(9, name="one"), monitor_at(9, name="two")
    assert exchange(one, two) == 1
    assert one.trace == two.trace == []


def test_a_note_goes_only_to_who_lacks_it() -> None:
    one, two = monitor_at(5, name="one"), monitor_at(9, name="two")
    assert exchange(one, two) == 2
    assert list(one.parked) == [signed_head(TREE, 9).digest]
    assert exchange(one, two) == 1, "both know by now"
    assert exchange(two, one) == 1


@pytest.mark.parametrize(("size1", "size2"), [(9, 9), (8, 8), (5, 9), (9, 5), (4, 8), (8, 4), (1, 2), (16, 30)])
def test_two_who_were_shown_a_fork_both_hold_proof_after_one_exchange(size1: int, size2: int) -> None:
    ours, theirs = forked_trees(40, min(size1, size2) - 1)
    one, two = monitor_at(size1, ours, name="one", peers=("two",)), monitor_at(size2, theirs, name="two")
    exchange(one, two)
    for _, gossip in one.outbox:
        exchange(one, two, gossip)
    assert one.files == two.files != []
    verify_evidence(one.evidence[0], key=LOG_KEY)


def test_a_head_of_which_the_log_refuses_the_entries_is_judged_by_whoever_has_the_larger_tree() -> None:
    ours, theirs = forked_trees(15, 10)
    one, two = monitor_at(10, ours, name="one"), monitor_at(15, theirs, name="two", peers=("one",))
    one.see(signed_head(ours, 12))
    assert not one.is_accusing
    exchange(one, two)
    for _, gossip in two.outbox:
        exchange(two, one, gossip)
    assert one.files == two.files != []
    head1, head2 = verify_evidence(one.evidence[0], key=LOG_KEY)
    assert (head1.size, head2.size) == (12, 15)


def test_parked_heads_are_told_after_the_verified_one_the_oldest_first() -> None:
    monitor = monitor_at(5)
    for size in (30, 20, 25):
        monitor.at_ms += 1
        monitor.hear(signed_head(TREE, size))
    assert [head.size for head in monitor.machine.greeting().heads] == [5, 30, 20, 25]


def test_no_more_heads_are_told_than_a_message_holds() -> None:
    monitor = monitor_at(1, limits=Limits(parked_max=DIGESTS_MAX * 2))
    for at in range(0, DIGESTS_MAX + 44, NOTES_MAX):
        monitor.hear(*(head_with_root(size, bytes(32)) for size in range(100 + at, 100 + at + NOTES_MAX)))
    heads = monitor.machine.greeting().heads
    assert [head.size for head in heads] == [1, *range(100, 100 + DIGESTS_MAX - 1)]


def test_a_head_that_a_peer_has_parked_is_not_sent_to_it_again() -> None:
    one, two = monitor_at(5, name="one"), monitor_at(9, name="two")
    exchange(one, two)
    assert two.machine.answer(one.machine.greeting()).notes == ()


def test_a_head_that_was_moved_on_from_is_answered_with_the_newest() -> None:
    monitor = monitor_at(5)
    old = signed_head(TREE, 5)
    monitor.follow(9)
    answer = monitor.machine.answer(Gossip(wanted_notes=(old.digest,)))
    assert answer.notes == (signed_head(TREE, 9).data,)


def test_evidence_is_named_first_and_sent_when_wanted() -> None:
    one, two = monitor_at(9, name="one"), monitor_at(9, name="two")
    two.hear(evidence=[SAME_SIZE])
    answer = two.machine.answer(one.machine.greeting())
    assert answer.evidence == ()
    following = one.machine.follow_up(answer)
    assert following == Gossip(wanted_evidence=(evidence_id(SAME_SIZE),))
    assert two.machine.answer(following).evidence == (SAME_SIZE,)


def test_who_is_called_gets_evidence_from_who_calls() -> None:
    one, two = monitor_at(9, name="one"), monitor_at(9, name="two")
    one.hear(evidence=[SAME_SIZE])
    exchange(one, two)
    assert two.files == [SAME_SIZE]


def test_a_monitor_without_a_head_takes_part() -> None:
    one, two = Gossiper(TREE, name="one"), monitor_at(9, name="two")
    exchange(one, two)
    assert [digest.size for digest in one.parked] == [9]


def test_every_peer_has_its_turn_before_any_is_called_again() -> None:
    peers = tuple("abcdefg")
    monitor = Gossiper(TREE, peers=peers, limits=Limits(peers_per_round=1))
    for _ in range(4):
        for _ in peers:
            monitor.tick()
        assert sorted(peer for peer, _ in monitor.outbox) == list(peers)
        monitor.outbox.clear()


@pytest.mark.parametrize(("peers", "per_round", "called"), [(0, 2, 0), (1, 2, 1), (2, 2, 2), (3, 2, 2), (7, 3, 3)])
def test_an_interval_calls_so_many_different_peers(peers: int, per_round: int, called: int) -> None:
    monitor = Gossiper(TREE, peers=tuple("abcdefg"[:peers]), limits=Limits(peers_per_round=per_round))
    for _ in range(20):
        monitor.tick()
        assert len({peer for peer, _ in monitor.outbox}) == len(monitor.outbox) == called
        monitor.outbox.clear()


def test_the_note_that_is_kept_is_the_one_that_came_byte_for_byte() -> None:
    data = format_note(signed_checkpoint(5, TREE.root(5), cosigned={"w1": 1}))
    machine = Gossiper(TREE).machine
    (kept,) = machine.step(machine.open(Gossip(notes=(data,)), source="p", at_ms=7)).persist
    assert isinstance(kept, KeepNote)
    assert (kept.head.data, kept.source, kept.at_ms) == (data, "p", 7)


def with_lines(data: bytes, *, bytes_: int, mark: str = "") -> bytes:
    """A note with lines that anyone may add, of a size in all."""
    lines, left = [], bytes_ - len(data)
    for at in range(90):
        name = f"{mark}padding{at}"
        blob = b64encode(bytes(4) + bytes(left // 90 * 3 // 4)).decode()
        lines.append(f"\u2014 {name} {blob}\n")
    return data + "".join(lines).encode()


def test_of_a_large_note_only_the_logs_own_line_is_kept() -> None:
    head = signed_head(TREE, 5)
    machine = Gossiper(TREE).machine
    padded = with_lines(head.data, bytes_=60_000)
    assert 50_000 < len(padded) < HEAD_BYTES_MAX
    (kept,) = machine.step(machine.open(Gossip(notes=(padded,)), source="p", at_ms=7)).persist
    assert isinstance(kept, KeepNote)
    assert kept.head.data == head.data


def test_a_note_is_told_without_the_lines_that_others_added() -> None:
    head = signed_head(TREE, 9)
    monitor = monitor_at(5)
    monitor.hear_gossip(Gossip(notes=(with_lines(head.data, bytes_=3_000),)))
    assert monitor.machine.answer(Gossip(wanted_notes=(head.digest,))).notes == (head.data,)


def test_what_is_known_is_not_verified_again() -> None:
    """A signature that does not verify would be a fault if it were looked at."""
    monitor = monitor_at(9)
    monitor.hear(signed_head(TREE, 20))
    monitor.trace.clear()
    for head in (signed_head(TREE, 9), signed_head(TREE, 20)):
        text, _, line = head.data.rpartition(b" ")
        other = b64encode(b64decode(line)[:-1] + b"x")
        monitor.hear_gossip(Gossip(notes=(text + b" " + other + b"\n",)))
    assert monitor.trace == []


def test_copies_of_one_head_in_a_message_are_judged_once() -> None:
    monitor = monitor_at(9)
    data = signed_head(TREE, 7).data
    monitor.hear_gossip(Gossip(notes=tuple(with_lines(data, bytes_=4_000, mark=f"{at}-") for at in range(8))))
    assert monitor.trace == ["keep note 7 from peer", "compare 7"]


def test_a_message_holds_no_more_notes_and_evidence_than_its_receiver_accepts() -> None:
    items = [bytes([at]) * HEAD_BYTES_MAX for at in range(10)]
    assert that_fit(items, count_max=16) == tuple(items[:4])
    assert that_fit(items, count_max=2) == tuple(items[:2])
    digests = 2 * DIGESTS_MAX * (HASH_BYTES * 2 + 20) + 2 * DIGESTS_MAX * (HASH_BYTES + 4)
    assert 2 * ITEMS_BYTES_MAX + digests < GOSSIP_BYTES_MAX
