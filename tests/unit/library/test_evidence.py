"""Evidence: what contradicts what, and what does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.library.specimens import (
    LOG,
    LOG_KEY,
    NOW,
    ORIGIN,
    OTHER_LOG,
    OTHER_LOG_KEY,
    WITNESS_KEYS,
    Tree,
    forked_trees,
    prefix_evidence,
    same_size_evidence,
    signed_checkpoint,
)
from treehead.errors import ConsistencyError, MalformedError, RefusedError, SignatureError, UnsupportedError
from treehead.evidence import (
    Evidence,
    Fork,
    format_evidence,
    parse_evidence,
    prefix_fork,
    same_size_fork,
    verify_evidence,
)
from treehead.keys import NoteKeyType
from treehead.merkle import EMPTY_ROOT
from treehead.note import Note, sign_text

OURS, THEIRS = forked_trees(13, 4)
E1 = same_size_evidence()
E2 = prefix_evidence()


@pytest.mark.parametrize("evidence", [E1, E2], ids=["same_size", "prefix"])
def test_evidence_survives_its_file_and_convinces_a_stranger(evidence: Evidence) -> None:
    read = parse_evidence(format_evidence(evidence))
    assert read == evidence
    assert read.id == evidence.id
    first, second = verify_evidence(read, key=LOG_KEY)
    assert first.origin == second.origin == read.origin_unverified == ORIGIN
    assert first != second


@pytest.mark.parametrize("size", range(1, 14))
def test_two_trees_of_one_size_are_a_fork_in_either_order(size: int) -> None:
    tree = Tree([b"x"] * size)
    note1, note2 = signed_checkpoint(size, OURS.root(size)), signed_checkpoint(size, tree.root())
    assert same_size_fork(note1, note2, key=LOG_KEY).id == same_size_fork(note2, note1, key=LOG_KEY).id


@pytest.mark.parametrize("size1", range(5, 13))
def test_a_tree_that_is_no_prefix_of_a_larger_one_is_a_fork(size1: int) -> None:
    for size2 in range(size1 + 1, 14):
        evidence = prefix_fork(
            signed_checkpoint(size1, OURS.root(size1)),
            signed_checkpoint(size2, THEIRS.root(size2)),
            prefix_root=THEIRS.root(size1),
            path=THEIRS.consistency(size1, size2),
            key=LOG_KEY,
        )
        assert verify_evidence(parse_evidence(format_evidence(evidence)), key=LOG_KEY)[0].size == size1


def test_an_empty_tree_with_a_root_of_its_own_is_a_fork() -> None:
    evidence = prefix_fork(
        signed_checkpoint(0, bytes(32)),
        signed_checkpoint(5, OURS.root(5)),
        prefix_root=EMPTY_ROOT,
        path=(),
        key=LOG_KEY,
    )
    assert verify_evidence(evidence, key=LOG_KEY)[0].size == 0
    same_size = same_size_fork(signed_checkpoint(0, bytes(32)), signed_checkpoint(0, EMPTY_ROOT), key=LOG_KEY)
    assert verify_evidence(same_size, key=LOG_KEY)[0].root == bytes(32)


def test_cosignatures_do_not_vary_the_evidence() -> None:
    plain = same_size_fork(signed_checkpoint(5, OURS.root(5)), signed_checkpoint(5, THEIRS.root(5)), key=LOG_KEY)
    cosigned = same_size_fork(
        signed_checkpoint(5, OURS.root(5), cosigned={"w1": NOW}),
        signed_checkpoint(5, THEIRS.root(5), cosigned={"w2": NOW}),
        key=LOG_KEY,
    )
    assert plain == cosigned


def test_two_notes_that_agree_are_no_fork() -> None:
    note = signed_checkpoint(5, OURS.root(5))
    again = signed_checkpoint(5, OURS.root(5), extensions=("other",), cosigned={"w1": NOW})
    for other in (note, again):
        with pytest.raises(RefusedError, match="two different roots"):
            same_size_fork(note, other, key=LOG_KEY)


def test_two_sizes_are_no_same_size_fork() -> None:
    with pytest.raises(RefusedError, match="not of one size"):
        same_size_fork(signed_checkpoint(5, OURS.root(5)), signed_checkpoint(6, OURS.root(6)), key=LOG_KEY)


def smaller(size: int = 5, tree: Tree = OURS) -> Note:
    return signed_checkpoint(size, tree.root(size))


@pytest.mark.parametrize(
    ("small", "large", "prefix_root", "path", "error"),
    [
        pytest.param(smaller(), smaller(13), OURS.root(5), OURS.consistency(5), RefusedError, id="honest_prefix"),
        pytest.param(
            smaller(), smaller(13), THEIRS.root(5), OURS.consistency(5), ConsistencyError, id="root_of_another_tree"
        ),
        pytest.param(
            smaller(),
            smaller(13, THEIRS),
            THEIRS.root(5),
            THEIRS.consistency(5)[:-1],
            ConsistencyError,
            id="proof_cut_short",
        ),
        pytest.param(
            smaller(), smaller(13, THEIRS), bytes(32), THEIRS.consistency(5), ConsistencyError, id="invented_root"
        ),
        pytest.param(smaller(13, THEIRS), smaller(5), THEIRS.root(5), (), RefusedError, id="larger_first"),
        pytest.param(smaller(5), smaller(5, THEIRS), THEIRS.root(5), (), RefusedError, id="one_size"),
        pytest.param(signed_checkpoint(0, EMPTY_ROOT), smaller(5), EMPTY_ROOT, (), RefusedError, id="empty_tree"),
        pytest.param(
            signed_checkpoint(0, EMPTY_ROOT), smaller(5), bytes(32), (), ConsistencyError, id="empty_tree_other_root"
        ),
        pytest.param(
            smaller(4), smaller(13, THEIRS), THEIRS.root(4), THEIRS.consistency(4), RefusedError, id="fork_later_on"
        ),
    ],
)
def test_what_does_not_contradict_is_no_prefix_fork(
    small: Note, large: Note, prefix_root: bytes, path: tuple[bytes, ...], error: type[RefusedError]
) -> None:
    with pytest.raises(error):
        prefix_fork(small, large, prefix_root=prefix_root, path=path, key=LOG_KEY)


def make_same_size(note1: Note, note2: Note) -> Evidence:
    return same_size_fork(note1, note2, key=LOG_KEY)


def make_prefix(note1: Note, note2: Note) -> Evidence:
    return prefix_fork(note1, note2, prefix_root=THEIRS.root(5), path=THEIRS.consistency(5), key=LOG_KEY)


@pytest.mark.parametrize(
    ("make", "note1", "good"),
    [
        (make_same_size, signed_checkpoint(5, OURS.root(5)), lambda **how: signed_checkpoint(5, THEIRS.root(5), **how)),
        (make_prefix, signed_checkpoint(5, OURS.root(5)), lambda **how: signed_checkpoint(13, THEIRS.root(), **how)),
    ],
    ids=["same_size", "prefix"],
)
def test_a_head_that_this_log_did_not_sign_proves_nothing(
    make: Callable[[Note, Note], Evidence], note1: Note, good: Callable[..., Note]
) -> None:
    make(note1, good())
    with pytest.raises(SignatureError, match="not signed by"):
        make(note1, good(log=OTHER_LOG))
    with pytest.raises(SignatureError, match=r"of the log 'other.example'"):
        make(note1, good(origin="other.example"))
    with pytest.raises(SignatureError, match="not signed by"):
        make(note1, replace(good(cosigned={"w1": NOW}), signatures=()))
    forged = replace(note1, signatures=good().signatures)
    with pytest.raises(SignatureError, match="does not verify"):
        make(forged, good())
    text = "not a checkpoint\n"
    with pytest.raises(MalformedError):
        make(note1, Note(text=text, signatures=(sign_text(text, key=LOG, name=ORIGIN),)))


def test_evidence_against_one_key_is_none_against_another() -> None:
    for evidence in (E1, E2):
        with pytest.raises(SignatureError):
            verify_evidence(evidence, key=OTHER_LOG_KEY)
        renamed = LOG.verifier_key(name="other.example", key_type=NoteKeyType.ED25519)
        with pytest.raises(SignatureError):
            verify_evidence(evidence, key=renamed)
        with pytest.raises((UnsupportedError, SignatureError)):
            verify_evidence(evidence, key=WITNESS_KEYS["w1"])


def test_an_assembled_contradiction_in_the_wrong_order_is_refused() -> None:
    with pytest.raises(RefusedError):
        verify_evidence(Evidence(fork=Fork.SAME_SIZE, first=E1.second, second=E1.first), key=LOG_KEY)
    with pytest.raises(RefusedError, match="not smaller"):
        verify_evidence(replace(E2, first=E2.second, second=E2.first), key=LOG_KEY)
    with pytest.raises(RefusedError):
        verify_evidence(replace(E2, prefix_root=None), key=LOG_KEY)


def test_a_second_line_on_a_checkpoint_would_be_room_for_variation() -> None:
    cosigned = signed_checkpoint(7, bytes(32), cosigned={"w1": NOW})
    with pytest.raises(MalformedError, match="more lines"):
        verify_evidence(replace(E1, first=cosigned), key=LOG_KEY)


FILE1, FILE2 = format_evidence(E1), format_evidence(E2)
ROOT_LINE = next(line for line in FILE2.split(b"\n") if line.startswith(b"root "))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" + FILE1, id="not_utf8"),
        pytest.param(b"\n" + FILE1, id="leading_newline"),
        pytest.param(FILE1 + b"\n", id="trailing_newline"),
        pytest.param(FILE1[:-1], id="no_final_newline"),
        pytest.param(FILE1.replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(FILE1.replace(b"@v1", b"@v2"), id="other_version"),
        pytest.param(FILE1.replace(b"fork same-size\n", b""), id="no_fork_line"),
        pytest.param(FILE1.replace(b"fork same-size", b"same-size"), id="fork_without_keyword"),
        pytest.param(FILE1.replace(b"fork same-size", b"fork fork same-size"), id="keyword_twice"),
        pytest.param(FILE1.replace(b"same-size", b"same_size"), id="unknown_fork"),
        pytest.param(FILE1.replace(b"same-size", b"prefix"), id="prefix_without_root"),
        pytest.param(FILE2.replace(b"prefix", b"same-size"), id="same_size_with_root"),
        pytest.param(FILE2.replace(ROOT_LINE + b"\n", b""), id="no_root_line"),
        pytest.param(FILE2.replace(ROOT_LINE, ROOT_LINE.replace(b"root ", b"root  ")), id="two_spaces"),
        pytest.param(FILE2.replace(ROOT_LINE, b"\n".join([ROOT_LINE] * 66)), id="too_many_hashes"),
        pytest.param(FILE1 + b"\n" + FILE1, id="two_files"),
        pytest.param(FILE1.split(b"\n\n", 3)[0] + b"\n\n" + FILE1.split(b"\n\n", 3)[3], id="one_checkpoint"),
        pytest.param(b"x" * 70_000, id="too_large"),
    ],
)
def test_a_malformed_evidence_file_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_evidence(data)
