"""The decision about an artifact: each step has its own error, and the first that fails speaks."""

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.library.signers import public_of, sign
from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    INDEX,
    LEAF,
    LOG,
    LOG_KEY,
    NOW,
    ORIGIN,
    OTHER_LOG,
    P256_PUBLISHER,
    POLICY,
    PUBLISHER,
    SIZE,
    STRANGER,
    TRUST,
    WITNESSES,
    Tree,
    artifact,
    attestation_leaf,
    digests,
    hashedrekord_leaf,
    head_of,
    policy,
    proof_file,
    proof_of,
    sealed,
    seen_head,
    signed_checkpoint,
    statement,
    tree_with,
    trust,
    view_of,
    witness_line,
)
from treehead.entry import attestation, hashedrekord, parse_entry
from treehead.errors import (
    ArtifactError,
    InclusionError,
    MalformedError,
    MisbehaviourError,
    QuorumError,
    SignatureError,
    StaleError,
    TooLargeError,
    TreeheadError,
    UndecidedError,
    UnsupportedError,
    UntrustedError,
)
from treehead.evidence import Fork, format_evidence, parse_evidence, verify_evidence
from treehead.note import Note, format_note, sign_text
from treehead.publickey import Scheme
from treehead.tlogproof import PROOF_BYTES_MAX, format_proof
from treehead.trust import parse_trust
from treehead.verify import CLOCK_SKEW_S, Verified, verify_artifact

TREE = tree_with()
PURL = "pkg:pypi/acme-tool@1.0"


def verify(**changes: Any) -> Verified:
    arguments: dict[str, Any] = {
        "artifact": artifact(),
        "proof": proof_file(),
        "policy": POLICY,
        "trust": TRUST,
        "now": NOW,
        **changes,
    }
    return verify_artifact(arguments.pop("artifact"), **arguments)


def with_head(note: Note, leaf: bytes = LEAF, tree: Tree = TREE) -> bytes:
    return format_proof(proof_of(leaf, checkpoint=note, tree=tree))


def opaque_leaf() -> bytes:
    return LEAF.replace(b'"kind":"attestation"', b'"kind":"opaque"')


FORGED_LEAF = attestation.format_leaf(sealed(statement(), signer=STRANGER), signer=PUBLISHER.public)
STALE = dict.fromkeys(WITNESSES, NOW - 15 * 86_400)


def test_an_untouched_artifact_is_verified() -> None:
    verified = verify(purl=PURL)
    assert str(verified.name) == "pypi:acme-tool"
    assert str(verified.rule) == "pypi:acme-*"
    assert verified.index == INDEX
    assert verified.head.checkpoint.size == SIZE
    assert verified.head.log == LOG_KEY
    assert verified.entry.signer == PUBLISHER.public
    assert verified.linked is None
    assert verified.views == ()


# One row a step, in the order in which the steps are taken. The last column is how its arguments differ from good ones.
STEPS: list[tuple[str, type[TreeheadError], str, dict[str, Any]]] = [
    ("1_garbage", MalformedError, "proof", {"proof": b"\x00garbage"}),
    ("1_empty", MalformedError, "proof", {"proof": b""}),
    ("1_truncated", MalformedError, "proof", {"proof": proof_file()[:-1]}),
    ("1_too_large", TooLargeError, "proof", {"proof": b"x" * (PROOF_BYTES_MAX + 1)}),
    ("1_unsigned_checkpoint", MalformedError, "note", {"proof": proof_file().partition("—".encode())[0]}),
    (
        "1_no_checkpoint",
        MalformedError,
        "checkpoint",
        {"proof": with_head(Note(text="text\n", signatures=(sign_text("text\n", key=LOG, name=ORIGIN),)))},
    ),
    ("3_no_leaf", MalformedError, "extra", {"proof": format_proof(replace(proof_of(), extra=None))}),
    ("4_other_leaf", InclusionError, "root", {"proof": format_proof(replace(proof_of(), extra=LEAF + b" "))}),
    ("4_other_index", InclusionError, "", {"proof": format_proof(replace(proof_of(), index=INDEX + 1))}),
    ("4_index_beyond_the_tree", InclusionError, "", {"proof": format_proof(replace(proof_of(), index=SIZE))}),
    (
        "4_short_proof",
        InclusionError,
        "hashes",
        {"proof": format_proof(replace(proof_of(), hashes=proof_of().hashes[1:]))},
    ),
    (
        "4_swapped_proof",
        InclusionError,
        "root",
        {"proof": format_proof(replace(proof_of(), hashes=tree_with(b"another leaf").inclusion(INDEX - 1)))},
    ),
    (
        "5_unlisted_log",
        SignatureError,
        "does not list",
        {"proof": with_head(signed_checkpoint(SIZE, TREE.root(), origin="other.example"))},
    ),
    (
        "5_other_log_key",
        SignatureError,
        "not signed by",
        {"proof": with_head(signed_checkpoint(SIZE, TREE.root(), log=OTHER_LOG))},
    ),
    (
        "5_other_size_signed",
        SignatureError,
        "does not verify",
        {
            "proof": with_head(
                replace(signed_checkpoint(SIZE, TREE.root()), signatures=signed_checkpoint(1, TREE.root()).signatures)
            )
        },
    ),
    (
        "5_bad_cosignature",
        SignatureError,
        "cosignature",
        {
            "proof": with_head(
                replace(
                    signed_checkpoint(SIZE, TREE.root()),
                    signatures=(
                        signed_checkpoint(SIZE, TREE.root()).signatures[0],
                        signed_checkpoint(1, TREE.root(), cosigned={"w1": NOW}).signatures[1],
                    ),
                )
            )
        },
    ),
    ("6_too_few_witnesses", QuorumError, "trusted", {"proof": with_head(head_of(TREE, cosigned={"w3": NOW}))}),
    (
        "8_other_head_seen_earlier",
        MisbehaviourError,
        "two trees of size 23",
        {"remembered": seen_head(head_of(tree_with(b"another leaf"), cosigned={}))},
    ),
    ("9_unknown_kind", UnsupportedError, "opaque", {"proof": proof_file(opaque_leaf())}),
    ("9_malformed_entry", MalformedError, "not JSON", {"proof": proof_file(b"no entry at all")}),
    ("9_changed_file", ArtifactError, "digest", {"artifact": artifact(CONTENT[:-1] + b"L")}),
    ("9_truncated_file", ArtifactError, "digest", {"artifact": artifact(CONTENT[:-1])}),
    ("9_other_length", ArtifactError, "bytes", {"artifact": replace(artifact(), size=len(CONTENT) + 1)}),
    ("9_other_file_name", ArtifactError, "called", {"artifact": artifact(filename="other.whl")}),
    ("9_other_package", ArtifactError, "pkg:pypi/other", {"purl": "pkg:pypi/other"}),
    ("9_other_version", ArtifactError, "pkg:pypi/acme-tool@1.1", {"purl": "pkg:pypi/acme-tool@1.1"}),
    (
        "9_replayed_proof_of_another_file",
        ArtifactError,
        "digest",
        {"proof": proof_file(attestation_leaf(statement().replace(b"3105", b"0000")))},
    ),
    (
        "9_wheel_of_another_project",
        ArtifactError,
        "project 'acme-tool', but it was signed as pkg:pypi/acme-tool2@1.0",
        {"proof": proof_file(attestation_leaf(statement(name="acme-tool2")))},
    ),
    ("10_no_rule", UntrustedError, "no trust rule", {"trust": trust("pypi:other", PUBLISHER)}),
    ("10_wrong_signer", UntrustedError, "not among", {"proof": proof_file(attestation_leaf(signer=STRANGER))}),
    ("11_forged_signature", SignatureError, "envelope", {"proof": proof_file(FORGED_LEAF)}),
    (
        "12_monitor_without_head",
        UndecidedError,
        "monitor",
        {"views": [replace(view_of(TREE, sizes=[SIZE]), head=None)]},
    ),
    (
        "12_monitor_with_another_tree",
        MisbehaviourError,
        "monitor",
        {"views": [view_of(tree_with(b"another leaf"), sizes=[SIZE])]},
    ),
    ("7_stale", StaleError, "too few witnesses", {"proof": with_head(head_of(TREE, cosigned=STALE))}),
]


@pytest.mark.parametrize(("error", "reason", "changes"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_each_step_refuses_with_its_own_error(error: type[TreeheadError], reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TreeheadError) as caught:
        verify(**changes)
    assert type(caught.value) is error
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_of_two_faults_the_earlier_step_speaks() -> None:
    """Where two rows change different arguments, both faults can be made at once."""
    for first, second in itertools.combinations(STEPS, 2):
        if first[0].partition("_")[0] == second[0].partition("_")[0] or first[3].keys() & second[3].keys():
            continue
        with pytest.raises(TreeheadError) as caught:
            verify(**first[3], **second[3])
        assert type(caught.value) is first[1], (first[0], second[0])


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purl", [PURL, "pkg:pypi/acme-tool", None])
def test_a_package_may_be_asked_for_with_or_without_version(purl: str | None) -> None:
    assert verify(purl=purl).name.name == "acme-tool"


@pytest.mark.parametrize(
    "purl", ["", "pkg:pypi/acme-tool@", "pkg:pypi/acme", "pkg:pypi/acme-tool@1", "PKG:pypi/acme-tool", "acme-tool"]
)
def test_a_package_is_asked_for_by_its_one_spelling(purl: str) -> None:
    with pytest.raises(ArtifactError):
        verify(purl=purl)


def foreign_leaf(*names: str, content: bytes = CONTENT) -> bytes:
    digest = artifact(content).digests["sha256"].hex()
    subjects = ",".join(f'{{"digest":{{"sha256":"{digest}"}},"name":"{name}"}}' for name in names)
    payload = f'{{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{subjects}]}}'
    return attestation_leaf(payload.encode())


def test_a_file_without_a_package_is_named_by_its_name() -> None:
    verified = verify(proof=proof_file(foreign_leaf("other", FILENAME)))
    assert str(verified.name) == f"generic:{FILENAME}"
    with pytest.raises(ArtifactError, match="called"):
        verify(proof=proof_file(foreign_leaf("other", "another")))
    with pytest.raises(ArtifactError, match="names no package"):
        verify(proof=proof_file(foreign_leaf(FILENAME)), purl=PURL)


@pytest.mark.parametrize(
    ("filename", "ecosystem", "name", "accepted"),
    [
        ("Acme.Tool-1.0-py3-none-any.whl", "pypi", "acme-tool", True),
        ("acme-tool-1.0.tar.gz", "pypi", "acme-tool", True),
        ("acme_tool-1.0.zip", "pypi", "acme-tool", True),
        ("other-1.0-py3-none-any.whl", "pypi", "acme-tool", False),
        ("other-1.0.tar.gz", "pypi", "acme-tool", False),
        ("other-1.0-py3-none-any.whl", "generic", "acme-tool", True),
    ],
)
def test_a_wheel_or_sdist_of_one_project_is_not_accepted_as_another(
    filename: str, ecosystem: str, name: str, accepted: bool
) -> None:
    leaf = attestation_leaf(statement(filename=filename, ecosystem=ecosystem, name=name))
    how = {
        "artifact": artifact(filename=filename),
        "proof": proof_file(leaf),
        "trust": trust(f"{ecosystem}:*", PUBLISHER),
    }
    if accepted:
        assert verify(**how).name.name == name
    else:
        with pytest.raises(ArtifactError, match="project 'other'"):
            verify(**how)


def test_a_signature_over_a_digest_names_nothing_but_the_digest() -> None:
    verified = verify(proof=proof_file(hashedrekord_leaf()), artifact=artifact(filename="any name"))
    assert str(verified.name) == f"unnamed:sha256:{artifact().digests['sha256'].hex()}"
    with pytest.raises(UntrustedError):
        verify(proof=proof_file(hashedrekord_leaf()), trust=trust("generic:*", P256_PUBLISHER))
    with pytest.raises(ArtifactError):
        verify(proof=proof_file(hashedrekord_leaf()), purl=PURL)


def bare_signature(scheme: Scheme, content: bytes = CONTENT) -> dict[str, Any]:
    """The proof of a signature over a digest, and a rule that lets its signer make such."""
    leaf = hashedrekord.format_leaf(
        digest=hashlib.new(scheme.digest or "", content).digest(),
        signature=sign(scheme, content),
        signer=public_of(scheme),
    )
    rules = f'[[namespace]]\nmatch = "unnamed:*"\nsigners = ["{public_of(scheme)}"]\n'
    return {"proof": proof_file(leaf), "trust": parse_trust(rules.encode())}


@pytest.mark.parametrize("scheme", [Scheme.P256, Scheme.P521, Scheme.RSA2048, Scheme.RSA4096])
def test_a_signature_over_a_digest_that_files_are_hashed_by_is_verified(scheme: Scheme) -> None:
    digest = artifact().digests[scheme.digest or ""]
    assert str(verify(**bare_signature(scheme)).name) == f"unnamed:{scheme.digest}:{digest.hex()}"
    with pytest.raises(ArtifactError, match="the file was changed"):
        verify(**bare_signature(scheme, b"other content"))


def test_a_signature_over_a_digest_that_files_are_not_hashed_by_is_not_decided() -> None:
    with pytest.raises(UnsupportedError, match="digest by sha384 only, and files are hashed by sha256 and sha512 here"):
        verify(**bare_signature(Scheme.P384))


def test_digests_of_other_algorithms_decide_nothing() -> None:
    more = f'"sha1":"{"0" * 40}","SHA512":"11","dirHash":"h1:any",'
    leaf = attestation_leaf(statement().replace(b'"digest":{', b'"digest":{' + more.encode()))
    assert len(parse_entry(leaf).artifacts[0].further_digests) == 3
    assert verify(proof=proof_file(leaf)).name.name == "acme-tool"
    fitting = {**digests(b"other"), "sha1": bytes(20), "SHA512": b"\x11", "dirHash": b"h1:any"}
    with pytest.raises(ArtifactError, match="digest"):
        verify(proof=proof_file(leaf), artifact=replace(artifact(), digests=fitting))


def test_every_signed_digest_must_fit() -> None:
    wrong = {"sha256": artifact().digests["sha256"], "sha512": bytes(64)}
    with pytest.raises(ArtifactError, match="digest"):
        verify(artifact=replace(artifact(), digests=wrong))


# --- freshness -------------------------------------------------------------------------------------------------------

DAY = 86_400


def aged(**ages_s: int) -> bytes:
    return with_head(head_of(TREE, cosigned={name: NOW - age_s for name, age_s in ages_s.items()}))


@pytest.mark.parametrize(
    ("ages_s", "fresh"),
    [
        ({"w1": 0, "w2": 0}, True),
        ({"w1": 14 * DAY, "w2": 14 * DAY}, True),
        ({"w1": 14 * DAY, "w2": 14 * DAY + 1}, False),
        ({"w1": 0, "w2": 15 * DAY}, False),
        ({"w1": 0, "w2": 0, "w3": 99 * DAY}, True),
        ({"w1": 0, "w2": 15 * DAY, "w3": 15 * DAY}, False),
        ({"w1": -CLOCK_SKEW_S, "w2": -CLOCK_SKEW_S}, True),
        ({"w1": -CLOCK_SKEW_S - 1, "w2": -CLOCK_SKEW_S}, False),
    ],
)
def test_a_quorum_of_cosignatures_must_be_fresh(ages_s: dict[str, int], fresh: bool) -> None:
    if fresh:
        verify(proof=aged(**ages_s))
    else:
        with pytest.raises(StaleError, match="1209600 s"):
            verify(proof=aged(**ages_s))


@pytest.mark.parametrize(
    ("ages_s", "age_s"),
    [
        ({"w1": 5, "w2": 70}, 70),
        ({"w1": 5, "w2": 70, "w3": 60}, 60),
        ({"w1": 70, "w2": 5, "w3": -CLOCK_SKEW_S - 1}, 70),
    ],
)
def test_the_age_is_that_of_the_newest_quorum(ages_s: dict[str, int], age_s: int) -> None:
    assert verify(proof=aged(**ages_s)).witnessed_at == NOW - age_s
    with pytest.raises(StaleError, match=f"enough did {age_s} s ago"):
        verify(proof=aged(**ages_s), trust=trust("pypi:*", PUBLISHER, max_age="4s"))


def test_without_a_quorum_one_fresh_cosignature_is_still_needed() -> None:
    by = policy(*(witness_line(name) for name in WITNESSES), "quorum none")
    verify(policy=by, proof=aged(w1=0))
    with pytest.raises(StaleError):
        verify(policy=by, proof=aged(w1=15 * DAY))
    with pytest.raises(StaleError, match="no time at which enough did"):
        verify(policy=by, proof=aged())


def test_a_rule_without_age_takes_any_head() -> None:
    by = policy(*(witness_line(name) for name in WITNESSES), "quorum none")
    rule = trust("pypi:acme-*", PUBLISHER)
    assert verify(policy=by, trust=rule, proof=aged()).head.cosigned == {}


def test_a_monitors_fresh_head_makes_an_old_one_fresh() -> None:
    longer = tree_with(size=SIZE + 5)
    old = head_of(longer, size=SIZE, cosigned=STALE)
    view = view_of(longer, sizes=[SIZE], cosigned=dict.fromkeys(WITNESSES, NOW))
    proof = format_proof(replace(proof_of(checkpoint=old)))
    with pytest.raises(StaleError):
        verify(proof=proof)
    assert verify(proof=proof, views=[view]).views[0].checkpoint.size == SIZE + 5


# --- remembered heads and monitors -----------------------------------------------------------------------------------


def test_the_head_remembered_is_linked_when_it_is_the_same() -> None:
    assert verify(remembered=seen_head(head_of(TREE, cosigned={}))).linked is True


@pytest.mark.parametrize("size", [SIZE - 4, SIZE + 4])
def test_a_head_of_another_size_is_linked_by_a_monitor(size: int) -> None:
    longest = tree_with(size=SIZE + 9)
    remembered = seen_head(head_of(longest, size=size, cosigned={}))
    proof = format_proof(proof_of(checkpoint=head_of(longest, size=SIZE, cosigned=dict.fromkeys(WITNESSES, NOW))))
    assert verify(proof=proof, remembered=remembered).linked is False
    view = view_of(longest, sizes=[SIZE, size])
    assert verify(proof=proof, remembered=remembered, views=[view]).linked is True
    with pytest.raises(UndecidedError, match=f"no proof for size {size}"):
        verify(proof=proof, remembered=remembered, views=[replace(view, prefixes=view.prefixes[:1])])


def test_another_logs_remembered_head_is_ignored() -> None:
    other = Tree([b"another log's leaf"] * SIZE)
    note = signed_checkpoint(SIZE, other.root(), log=OTHER_LOG, origin="other.example")
    key = OTHER_LOG.verifier_key(name="other.example", key_type=LOG_KEY.key_type)
    by = policy(f"log {key}", "quorum none")
    assert verify(remembered=seen_head(note, by=by)).linked is None


def test_a_remembered_fork_comes_with_evidence_that_convinces_a_stranger() -> None:
    remembered = seen_head(head_of(tree_with(b"another leaf"), cosigned={"w1": NOW}))
    with pytest.raises(MisbehaviourError) as caught:
        verify(remembered=remembered)
    evidence = parse_evidence(format_evidence(caught.value.evidence))
    assert evidence.fork is Fork.SAME_SIZE
    verify_evidence(evidence, key=LOG_KEY)


def test_a_remembered_fork_at_another_size_is_proven_through_a_monitor() -> None:
    fork = tree_with(b"another leaf", size=SIZE + 3)
    remembered = seen_head(head_of(fork, cosigned={}))
    honest = view_of(tree_with(size=SIZE + 9), sizes=[SIZE, SIZE + 3])
    assert verify(remembered=remembered).linked is False
    with pytest.raises(MisbehaviourError) as caught:
        verify(remembered=remembered, views=[honest])
    verify_evidence(parse_evidence(format_evidence(caught.value.evidence)), key=LOG_KEY)


def test_two_monitors_that_were_shown_different_trees_prove_a_fork() -> None:
    longer = tree_with(size=SIZE + 3)
    forked = tree_with(size=SIZE + 2)
    forked.append(b"another leaf")
    views = [view_of(longer, sizes=[SIZE]), view_of(forked, sizes=[SIZE])]
    for view in views:
        assert verify(views=[view]).views[0].checkpoint.size == SIZE + 3
    with pytest.raises(MisbehaviourError, match="to two monitors") as caught:
        verify(views=views)
    verify_evidence(parse_evidence(format_evidence(caught.value.evidence)), key=LOG_KEY)


def test_two_heads_of_monitors_that_are_behind_prove_a_fork() -> None:
    behind = tree_with(size=SIZE - 1)
    forked = Tree([*(b"forked %d" % index for index in range(SIZE - 1))])
    views = [replace(view_of(tree, sizes=[]), monitor=f"m{tree.size}") for tree in (behind, forked)]
    for view in views:
        with pytest.raises(UndecidedError):
            verify(views=[view])
    with pytest.raises(MisbehaviourError, match="to two monitors") as caught:
        verify(views=views)
    verify_evidence(parse_evidence(format_evidence(caught.value.evidence)), key=LOG_KEY)


def test_one_monitor_behind_does_not_hide_what_another_proves() -> None:
    behind = view_of(tree_with(size=SIZE - 1), sizes=[])
    forked = view_of(tree_with(b"another leaf"), sizes=[SIZE])
    for views in ([behind, forked], [forked, behind]):
        with pytest.raises(MisbehaviourError):
            verify(views=views)
    with pytest.raises(UndecidedError):
        verify(views=[behind, view_of(TREE, sizes=[SIZE])])


def test_the_proof_holds_the_checkpoint_byte_for_byte() -> None:
    assert format_note(verify().head.note) in proof_file()
