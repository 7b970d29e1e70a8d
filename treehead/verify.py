"""The decision at the point of use: may this artifact be used? One function, `verify_artifact`, with numbered steps.

The caller does the I/O: it reads the files, hashes the artifact, looks at the clock, remembers heads and asks monitors.
What comes back is either `Verified`, or an exception whose branch in `treehead.errors` is the verdict:

    RefusedError, MalformedError     contradicted: a check failed
    UndecidedError, UnsupportedError unverifiable: something needed is missing, too old or unknown here
    MisbehaviourError                the log signed two trees; the evidence is attached
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from treehead.checkpoint import parse_checkpoint
from treehead.entry import Artifact, Entry, parse_entry, verify_entry
from treehead.errors import (
    ArtifactError,
    MalformedError,
    MisbehaviourError,
    QuorumError,
    StaleError,
    UndecidedError,
    UnsupportedError,
)
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.note import parse_note
from treehead.policy import Policy, SignedHead, check_quorum, verify_head
from treehead.statement import PYPI, format_purl, project_of
from treehead.tlogproof import parse_proof
from treehead.trust import Name, Rule, Trust, name_of

if TYPE_CHECKING:
    # Only monitors have views and only forks need evidence; a plain offline verification does not pay for either.
    from treehead.statement import Release
    from treehead.view import View

CLOCK_SKEW_S = 300
"""How far a witness's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """The artifact at hand: its base name, its length in bytes, and its digests by algorithm (sha256 and sha512)."""

    filename: str
    size: int
    digests: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Every step passed.

    Attributes:
        entry: the verified entry, and `index` its place in the log.
        name: what the artifact was published as; `rule` allowed it.
        head: the checkpoint that the inclusion proof leads to.
        linked: whether the head remembered from earlier was shown to be consistent with `head`; None when none was.
        views: the monitors' heads, in the order in which the views were given.
        witnessed_at: when the quorum (or, without a quorum, one witness) had last cosigned one of the heads, in POSIX
            seconds; None if there was no such time.
    """

    entry: Entry
    index: int
    name: Name
    rule: Rule
    head: SignedHead
    linked: bool | None
    views: tuple[SignedHead, ...]
    witnessed_at: int | None


def verify_artifact(
    artifact: ArtifactFile,
    *,
    proof: bytes,
    policy: Policy,
    trust: Trust,
    now: int,
    purl: str | None = None,
    remembered: SignedHead | None = None,
    views: Sequence[View] = (),
) -> Verified:
    """Decide whether the artifact is what a trusted signer published, and the log shows it to everyone alike.

    `now` is POSIX seconds. `purl` is the package that the caller takes this to be, with or without a version, if it
    wants that checked. `remembered` is the newest head seen before of the log `remembered.log`; another log's is
    ignored.

    Raises:
        MalformedError: the proof, or the entry in it, is malformed.
        UnsupportedError: the entry is of an unknown kind or algorithm, or gives no digest that the artifact has.
        RefusedError: a check failed; see the subclasses.
        UndecidedError: the head is too old or of unknown age, or a monitor could not confirm it.
        MisbehaviourError: the log contradicts itself.
    """
    # 1: parse the proof; 2, the digests, came with the artifact.
    parsed = parse_proof(proof)
    note = parse_note(parsed.checkpoint)
    checkpoint = parse_checkpoint(note.text)
    # 3: the leaf comes with the proof, and counts only because of step 4.
    if parsed.extra is None:
        raise MalformedError("proof has no extra line, so the entry is not in it")
    # 4: the leaf is in the checkpoint's tree.
    leaf_hash = hash_leaf(parsed.extra)
    verify_inclusion(
        index=parsed.index, size=checkpoint.size, leaf_hash=leaf_hash, proof=parsed.hashes, root=checkpoint.root
    )
    # 5: a log of the policy signed the checkpoint.
    head = verify_head(policy, note)
    # 6: enough witnesses cosigned it.
    check_quorum(policy, head.cosigned)
    # 8: it does not contradict the head remembered for this log.
    remembered = remembered if remembered is not None and remembered.log == head.log else None
    linked = _check_remembered(head, remembered)
    # 9: the entry speaks of these bytes, by this name.
    entry = parse_entry(parsed.extra)
    name = _name_of(artifact, entry, purl=purl)
    # 10: the signer may speak for the name.
    rule = trust.check_signer(name, entry.signer)
    # 11: and did sign.
    verify_entry(entry)
    # 12: the monitors that were asked see the same tree, and hold nothing against the log.
    confirmed = _confirm(views, heads=[head] if remembered is None else [head, remembered], policy=policy)
    # 7, last: the rule says how old the head may be, and a monitor's head that extends it may be what shows its age.
    witnessed_at = _check_fresh([head, *confirmed], policy=policy, rule=rule, now=now)
    if remembered is not None and confirmed:
        linked = True
    return Verified(
        entry=entry,
        index=parsed.index,
        name=name,
        rule=rule,
        head=head,
        linked=linked,
        views=confirmed,
        witnessed_at=witnessed_at,
    )


def _check_remembered(head: SignedHead, remembered: SignedHead | None) -> bool | None:
    """Step 8: heads of one size must be one head; heads of two sizes need a monitor to link them (step 12)."""
    if remembered is None:
        return None
    if head.checkpoint.size != remembered.checkpoint.size:
        return False
    _check_same_size(head, remembered, where="in this proof and in one seen earlier")
    return True


def _confirm(views: Sequence[View], *, heads: Sequence[SignedHead], policy: Policy) -> tuple[SignedHead, ...]:
    """Step 12: the monitors' heads. All of `heads` are prefixes of each, and those of one size are one head.

    What one monitor proves outweighs that another cannot confirm, so all are heard before one is found wanting; and a
    head that the log signed counts against it even where its monitor could confirm nothing.
    """
    if not views:
        return ()
    from treehead.view import verify_view, verify_view_head

    signed: list[SignedHead] = []
    confirmed: list[SignedHead] = []
    undecided: list[UndecidedError] = []
    for view in views:
        with suppress(UndecidedError):
            signed.append(verify_view_head(view, log=heads[0].log, policy=policy))
        try:
            confirmed.append(verify_view(view, heads=heads, policy=policy))
        except UndecidedError as exc:
            undecided.append(exc)
    for head1, head2 in combinations(signed, 2):
        if head1.checkpoint.size == head2.checkpoint.size:
            _check_same_size(head1, head2, where="to two monitors")
    if undecided:
        raise undecided[0]
    return tuple(confirmed)


def _check_same_size(head1: SignedHead, head2: SignedHead, *, where: str) -> None:
    if head1.checkpoint.root == head2.checkpoint.root:
        return
    from treehead.evidence import same_size_fork

    raise MisbehaviourError(
        f"log {head1.checkpoint.origin!r} signed two trees of size {head1.checkpoint.size}, shown {where}",
        evidence=same_size_fork(head1.note, head2.note, key=head1.log),
    )


def _name_of(artifact: ArtifactFile, entry: Entry, *, purl: str | None) -> Name:
    """Step 9: the name by which the entry speaks of the artifact, whose bytes and file name must be the signed ones."""
    matching = [signed for signed in entry.artifacts if _is_same_bytes(artifact, signed)]
    if not matching:
        _check_comparable(artifact, entry)
        raise ArtifactError(
            "the file's digest is not the one that was signed: the file was changed, or the proof is another's"
        )
    if entry.release is not None and entry.release.size != artifact.size:
        raise ArtifactError(f"the file has {artifact.size} bytes, {entry.release.size} were signed")
    if purl is not None:
        _check_purl(entry, purl)
    if matching[0].name is None:
        return name_of(entry, matching[0])
    named = next((signed for signed in matching if signed.name == artifact.filename), None)
    if named is None:
        raise ArtifactError(f"the file is called {artifact.filename!r}, but was signed as {matching[0].name!r}")
    if entry.release is not None:
        _check_project(artifact, entry.release)
    return name_of(entry, named)


def _check_project(artifact: ArtifactFile, release: Release) -> None:
    """Installers go by the file name: who may speak for one project must not bring a file that installs as another."""
    project = project_of(artifact.filename)
    if release.ecosystem == PYPI and project not in (None, release.name):
        raise ArtifactError(f"the file's name is that of the project {project!r}, but it was signed as {release.purl}")


def _is_same_bytes(artifact: ArtifactFile, signed: Artifact) -> bool:
    return all(artifact.digests.get(algorithm) == digest for algorithm, digest in signed.digests.items())


def _check_comparable(artifact: ArtifactFile, entry: Entry) -> None:
    """A bare signature by ECDSA P-384 is over a SHA-384 digest, of which the artifact's own says nothing."""
    algorithms = {algorithm for signed in entry.artifacts for algorithm in signed.digests}
    if algorithms.isdisjoint(artifact.digests):
        raise UnsupportedError(
            f"the entry gives the file's digest by {', '.join(sorted(algorithms))} only, and files are hashed by "
            f"{' and '.join(sorted(artifact.digests))} here"
        )


def _check_purl(entry: Entry, purl: str) -> None:
    release = entry.release
    if release is None:
        raise ArtifactError(f"the entry names no package, so it is not known to be {purl}")
    if purl not in (release.purl, format_purl(ecosystem=release.ecosystem, name=release.name, version="")):
        raise ArtifactError(f"the entry is for {release.purl}, not for {purl}")


def _check_fresh(heads: Sequence[SignedHead], *, policy: Policy, rule: Rule, now: int) -> int | None:
    """Step 7: when the quorum was last met, which is no longer ago than the rule allows."""
    times = [time_s for head in heads if (time_s := _quorum_time(head, policy=policy, now=now)) is not None]
    witnessed_at = max(times, default=None)
    if rule.max_age_s is None or (witnessed_at is not None and now - rule.max_age_s <= witnessed_at):
        return witnessed_at
    age = (
        f"enough did {now - witnessed_at} s ago" if witnessed_at is not None else "there is no time at which enough did"
    )
    raise StaleError(
        f"too few witnesses cosigned the head within the {rule.max_age_s} s that rule {str(rule)!r} allows ({age}): "
        "get a newer proof"
    )


def _quorum_time(head: SignedHead, *, policy: Policy, now: int) -> int | None:
    """Since when a quorum's cosignatures are no older: the newest that meet it (or, without a quorum, the newest one).

    Those of witnesses whose clocks are ahead of ours do not count.
    """
    counted: set[bytes] = set()
    for name, time_s in sorted(head.cosigned.items(), key=lambda item: item[1], reverse=True):
        if time_s > now + CLOCK_SKEW_S:
            continue
        counted.add(name)
        try:
            check_quorum(policy, counted)
        except QuorumError:
            continue
        return time_s
    return None
