"""Monitors' views: what confirms a head, what leaves it open, and what proves a fork."""

from dataclasses import replace

import pytest

from tests.unit.library.specimens import (
    LOG_KEY,
    NOW,
    OTHER_LOG,
    POLICY,
    Tree,
    forked_trees,
    head_of,
    policy,
    prefix_evidence,
    same_size_evidence,
    seen_head,
    signed_checkpoint,
    view_of,
)
from treehead.errors import MisbehaviourError, UndecidedError
from treehead.evidence import Evidence, Fork, format_evidence, parse_evidence, verify_evidence
from treehead.keys import format_vkey
from treehead.policy import SignedHead
from treehead.view import Prefix, View, verify_view

OURS, THEIRS = forked_trees(20, 7)
HEAD = seen_head(head_of(OURS, size=12, cosigned={}))
OLDER = seen_head(head_of(OURS, size=9, cosigned={}))
HONEST = view_of(OURS, sizes=[12, 9])
FORKED = view_of(THEIRS, sizes=[12, 9])

# Evidence that proves nothing, because another log signed it.
EMPTY_CLAIM = Evidence(
    fork=Fork.SAME_SIZE,
    first=signed_checkpoint(3, bytes(32), log=OTHER_LOG),
    second=signed_checkpoint(3, b"\1" * 32, log=OTHER_LOG),
)


def check(view: View, *heads: SignedHead) -> SignedHead:
    return verify_view(view, heads=heads or [HEAD], policy=POLICY)


def test_a_monitor_that_follows_the_same_tree_confirms_all_heads() -> None:
    confirmed = check(HONEST, HEAD, OLDER)
    assert confirmed.checkpoint.size == 20
    assert confirmed.log == LOG_KEY


def test_a_monitor_at_the_same_size_confirms_the_head() -> None:
    view = View(
        monitor="m", head=head_of(OURS, size=12, cosigned={}), prefixes=(Prefix(size=12, root=OURS.root(12), path=()),)
    )
    assert check(view).checkpoint == HEAD.checkpoint


def test_the_monitors_own_cosignature_is_found_on_its_head() -> None:
    view = view_of(OURS, sizes=[12], cosigned={"w1": NOW})
    assert check(view).cosigned == {b"w1": NOW}


def test_a_monitor_with_another_tree_proves_the_fork() -> None:
    with pytest.raises(MisbehaviourError, match="signed two trees: monitor") as caught:
        check(FORKED)
    evidence = parse_evidence(format_evidence(caught.value.evidence))
    assert evidence.fork is Fork.PREFIX
    assert [checkpoint.size for checkpoint in verify_evidence(evidence, key=LOG_KEY)] == [12, 20]


def test_a_monitor_with_another_tree_of_the_same_size_proves_the_fork() -> None:
    view = View(
        monitor="m",
        head=head_of(THEIRS, size=12, cosigned={}),
        prefixes=(Prefix(size=12, root=THEIRS.root(12), path=()),),
    )
    with pytest.raises(MisbehaviourError) as caught:
        check(view)
    assert caught.value.evidence.fork is Fork.SAME_SIZE
    verify_evidence(parse_evidence(format_evidence(caught.value.evidence)), key=LOG_KEY)


@pytest.mark.parametrize("evidence", [same_size_evidence(), prefix_evidence()], ids=["same_size", "prefix"])
def test_evidence_that_a_monitor_holds_is_believed_because_it_is_checked(evidence: Evidence) -> None:
    with pytest.raises(MisbehaviourError, match=r"monitor\.example proves") as caught:
        check(replace(HONEST, evidence=(evidence,)))
    assert caught.value.evidence == evidence


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(replace(HONEST, evidence=(EMPTY_CLAIM, same_size_evidence())), id="empty_claim_first"),
        pytest.param(replace(HONEST, evidence=(same_size_evidence(),), head=None), id="no_head"),
        pytest.param(replace(FORKED, evidence=(EMPTY_CLAIM,)), id="empty_claim_and_forked_head"),
        pytest.param(
            View(
                monitor="m",
                head=head_of(THEIRS, size=10, cosigned={}),
                prefixes=(Prefix(size=9, root=THEIRS.root(9), path=THEIRS.consistency(9, 10)),),
            ),
            id="behind_one_head_and_forked_from_the_other",
        ),
    ],
)
def test_proof_outweighs_whatever_else_is_wrong_with_a_view(view: View) -> None:
    with pytest.raises(MisbehaviourError):
        check(view, HEAD, OLDER)


def test_another_head_of_the_same_size_is_a_fork_without_any_proof() -> None:
    with pytest.raises(MisbehaviourError) as caught:
        check(View(monitor="m", head=head_of(THEIRS, size=12, cosigned={})))
    verify_evidence(caught.value.evidence, key=LOG_KEY)


def test_what_cannot_be_read_leaves_the_head_open_and_hides_no_proof() -> None:
    with pytest.raises(UndecidedError, match="cannot be read: the reason"):
        check(replace(HONEST, faults=("the reason",)))
    with pytest.raises(UndecidedError, match="cannot be read: the reason"):
        check(View(monitor="m", head=None, faults=("the reason",)))
    for view in (FORKED, replace(HONEST, evidence=(same_size_evidence(),)), View(monitor="m", head=HONEST.head)):
        with pytest.raises((MisbehaviourError, UndecidedError)) as caught:
            check(replace(view, faults=("the reason",)))
        assert isinstance(caught.value, MisbehaviourError) == (view.head != HONEST.head or bool(view.evidence))


def with_prefix(**changes: object) -> View:
    prefix = replace(HONEST.prefixes[0], **changes)  # type: ignore[arg-type]
    return replace(HONEST, prefixes=(prefix, *HONEST.prefixes[1:]))


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        pytest.param(replace(HONEST, head=None), "has no verified head", id="no_head"),
        pytest.param(view_of(Tree(), sizes=[]), "followed the log to size 0", id="empty_tree"),
        pytest.param(
            replace(HONEST, head=head_of(OURS, size=11, cosigned={})), "followed the log to size 11", id="behind"
        ),
        pytest.param(replace(HONEST, prefixes=()), "sent no proof for size 12", id="no_prefix"),
        pytest.param(replace(HONEST, prefixes=HONEST.prefixes[1:]), "sent no proof for size 12", id="other_sizes_only"),
        pytest.param(with_prefix(root=bytes(32)), "proof that does not verify", id="invented_root"),
        pytest.param(with_prefix(path=()), "proof that does not verify", id="no_path"),
        pytest.param(with_prefix(root=THEIRS.root(12)), "proof that does not verify", id="root_of_another_tree"),
        pytest.param(
            replace(HONEST, head=signed_checkpoint(20, OURS.root(), log=OTHER_LOG)),
            "head that does not verify",
            id="head_of_another_key",
        ),
        pytest.param(
            replace(HONEST, head=signed_checkpoint(20, OURS.root(), origin="other.example")),
            "head that does not verify",
            id="head_of_another_log",
        ),
        pytest.param(
            replace(HONEST, evidence=(EMPTY_CLAIM,)), "evidence that proves nothing", id="evidence_by_another_key"
        ),
    ],
)
def test_what_a_monitor_cannot_show_leaves_the_head_open(view: View, reason: str) -> None:
    with pytest.raises(UndecidedError, match=rf"^monitor monitor\.example .*{reason}"):
        check(view)


def test_a_head_by_the_origins_other_key_is_another_log() -> None:
    other = OTHER_LOG.verifier_key(name=LOG_KEY.name, key_type=LOG_KEY.key_type)
    by = policy(f"log {format_vkey(other)}", "quorum none")
    view = replace(HONEST, head=signed_checkpoint(20, OURS.root(), log=OTHER_LOG))
    with pytest.raises(UndecidedError, match="answered for another log"):
        verify_view(view, heads=[HEAD], policy=by)


@pytest.mark.parametrize(
    "view",
    [FORKED, with_prefix(root=THEIRS.root(12), path=THEIRS.consistency(12))],
    ids=["other_tree", "other_prefix"],
)
def test_a_lying_monitor_cannot_make_a_fork_out_of_nothing(view: View) -> None:
    with pytest.raises(UndecidedError):
        check(replace(view, head=signed_checkpoint(20, THEIRS.root(), log=OTHER_LOG)))
