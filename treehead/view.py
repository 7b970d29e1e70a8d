"""A monitor's view of one log, as a client checks it: how heads the client holds relate to the monitor's own.

The client asks with the sizes of heads that it holds; the monitor answers with its own newest head, and for each size
the root that *its* tree had then and the proof of that. The client need not believe any of it: a root that differs from
the client's, proven into a head that the log signed, is evidence against the log, whoever passed it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from treehead.errors import MisbehaviourError, RefusedError, TreeheadError, UndecidedError
from treehead.evidence import Evidence, prefix_fork, same_size_fork, verify_evidence
from treehead.keys import VerifierKey
from treehead.merkle import verify_consistency
from treehead.note import Note
from treehead.policy import Policy, SignedHead, verify_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The root that a monitor's tree had at `size`, and the consistency proof from there to the monitor's head."""

    size: int
    root: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one monitor says about one log; nothing of it is verified.

    Attributes:
        monitor: how to name the monitor in messages.
        head: its newest verified head as a signed note, or None if it has none yet.
        prefixes: one per size asked for that is not larger than the head.
        evidence: what it holds against the log.
        faults: why some part of its answer could not be read; the parts above were.
    """

    monitor: str
    head: Note | None
    prefixes: tuple[Prefix, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    faults: tuple[str, ...] = ()


def verify_view(view: View, *, heads: Sequence[SignedHead], policy: Policy) -> SignedHead:
    """The monitor's head, of which all of `heads` are prefixes, and against whose log the monitor holds no evidence.

    `heads` are one or more heads of one log. What one part of the view proves outweighs what another leaves open,
    whichever comes first.

    Not checked: that the answer came from the monitor; its cosignature counts like any witness's, if the policy lists
    it.

    Raises:
        MisbehaviourError: the view proves that the log signed contradicting heads.
        UndecidedError: the monitor has not got that far, or its answer does not hold together.
    """
    undecided = [
        UndecidedError(f"monitor {view.monitor} sent an answer that cannot be read: {fault}") for fault in view.faults
    ]
    for evidence in view.evidence:
        try:
            _check_evidence(view, evidence, heads[0])
        except UndecidedError as exc:
            undecided.append(exc)
    theirs = verify_view_head(view, log=heads[0].log, policy=policy)
    for head in heads:
        try:
            _check_prefix(view, head, theirs)
        except UndecidedError as exc:
            undecided.append(exc)
    if undecided:
        raise undecided[0]
    return theirs


def verify_view_head(view: View, *, log: VerifierKey, policy: Policy) -> SignedHead:
    """The monitor's head, which `log` signed; not checked: how it relates to any other.

    Raises:
        UndecidedError: there is no such head in the view.
    """
    if view.head is None:
        if view.faults:
            raise UndecidedError(f"monitor {view.monitor} sent an answer that cannot be read: {view.faults[0]}")
        raise UndecidedError(f"monitor {view.monitor} has no verified head of {log.name!r} yet")
    try:
        theirs = verify_head(policy, view.head)
    except TreeheadError as exc:
        raise UndecidedError(f"monitor {view.monitor} sent a head that does not verify: {exc}") from exc
    if theirs.log != log:
        raise UndecidedError(f"monitor {view.monitor} answered for another log")
    return theirs


def _check_prefix(view: View, ours: SignedHead, theirs: SignedHead) -> None:
    size = ours.checkpoint.size
    if theirs.checkpoint.size == size and theirs.checkpoint.root != ours.checkpoint.root:
        raise _forked(view, ours, same_size_fork(ours.note, theirs.note, key=ours.log))
    if theirs.checkpoint.size < size:
        raise UndecidedError(
            f"monitor {view.monitor} has followed the log to size {theirs.checkpoint.size}, the head here is {size}"
        )
    prefix = next((prefix for prefix in view.prefixes if prefix.size == size), None)
    if prefix is None:
        raise UndecidedError(f"monitor {view.monitor} sent no proof for size {size}")
    try:
        verify_consistency(
            size1=size,
            size2=theirs.checkpoint.size,
            root1=prefix.root,
            root2=theirs.checkpoint.root,
            proof=prefix.path,
        )
    except RefusedError as exc:
        raise UndecidedError(f"monitor {view.monitor} sent a proof that does not verify: {exc}") from exc
    if prefix.root != ours.checkpoint.root:
        fork = prefix_fork(ours.note, theirs.note, prefix_root=prefix.root, path=prefix.path, key=ours.log)
        raise _forked(view, ours, fork)


def _check_evidence(view: View, evidence: Evidence, head: SignedHead) -> None:
    try:
        verify_evidence(evidence, key=head.log)
    except TreeheadError as exc:
        raise UndecidedError(f"monitor {view.monitor} sent evidence that proves nothing: {exc}") from exc
    raise MisbehaviourError(
        f"log {head.checkpoint.origin!r} signed contradicting trees, as monitor {view.monitor} proves",
        evidence=evidence,
    )


def _forked(view: View, ours: SignedHead, evidence: Evidence) -> MisbehaviourError:
    return MisbehaviourError(
        f"log {ours.checkpoint.origin!r} signed two trees: "
        f"monitor {view.monitor} was shown another one at size {ours.checkpoint.size}",
        evidence=evidence,
    )
