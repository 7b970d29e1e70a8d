"""What a leaf has to be before it may wait for its place in the log, and by what it is found."""

from __future__ import annotations

from hashlib import sha256, sha512

import pytest

from tests.unit.library.signers import certificate, key_of, public_of, sign
from tests.unit.library.specimens import (
    CONTENT,
    P256_PUBLISHER,
    PUBLISHER,
    STRANGER,
    attestation_leaf,
    hashedrekord_leaf,
    statement,
)
from treehead.dsse import Envelope
from treehead.encoding import JsonValue, format_canonical_json
from treehead.entry import attestation, hashedrekord, parse_entry
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError, UntrustedError
from treehead.lookup import terms_of
from treehead.merkle import hash_leaf
from treehead.publickey import Scheme
from treehead.statement import PAYLOAD_TYPE, STATEMENT_TYPE
from treehead_logserver.kinds import ALL_KINDS, OPAQUE
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules, parse_rules
from treehead_logserver.storage.base import Candidate, Term
from treehead_logserver.twin import twin_hash

DIGESTS = {Term("sha256", sha256(CONTENT).digest()), Term("sha512", sha512(CONTENT).digest())}


def admit(leaf: bytes) -> Candidate:
    return admit_leaf(leaf, rules=AdmissionRules())


def taking(*kinds: str) -> AdmissionRules:
    return AdmissionRules(kinds=frozenset(kinds))


def test_a_signed_release_is_admitted_with_all_its_digests_and_its_signer() -> None:
    leaf = attestation_leaf()
    candidate = admit(leaf)
    assert candidate == Candidate(leaf, hash_leaf(leaf), candidate.terms, sha256(PUBLISHER.public.spki).digest())
    assert candidate.terms == terms_of(parse_entry(leaf))
    assert candidate.terms >= DIGESTS


def test_a_hashedrekord_is_admitted_with_its_digest() -> None:
    leaf = hashedrekord_leaf()
    assert admit(leaf).terms >= {Term("sha256", sha256(CONTENT).digest())}
    assert admit(leaf).signer == sha256(P256_PUBLISHER.public.spki).digest()


def test_an_entry_whose_key_comes_in_a_certificate_is_charged_to_the_certificate() -> None:
    """Anyone can make a certificate for a signer's key, who must not be charged for what comes with it."""
    certificates = [certificate(key_of(Scheme.P256), serial=serial) for serial in (1, 2)]
    bare, *certified = [
        hashedrekord.format_leaf(
            digest=sha256(CONTENT).digest(),
            signature=sign(Scheme.P256, CONTENT),
            signer=public_of(Scheme.P256),
            certificate=der,
        )
        for der in (None, *certificates)
    ]
    assert admit(bare).signer == sha256(public_of(Scheme.P256).spki).digest()
    assert [admit(leaf).signer for leaf in certified] == [sha256(der).digest() for der in certificates]
    assert admit(certified[0]).terms == admit(bare).terms


def test_an_entry_with_a_twin_says_which_leaf_that_is() -> None:
    leaf = hashedrekord_leaf()
    assert admit(leaf).twin_hash == twin_hash(leaf, parse_entry(leaf)) is not None
    assert admit(attestation_leaf()).twin_hash is None


def test_a_digest_that_an_entry_names_twice_is_one_look_up_row() -> None:
    subjects: list[JsonValue] = [{"digest": {"sha256": sha256(CONTENT).hexdigest()}, "name": name} for name in "ab"]
    payload = format_canonical_json({"_type": STATEMENT_TYPE, "predicateType": "about:blank", "subject": subjects})
    terms = admit(attestation_leaf(payload)).terms
    assert [term for term in terms if term.kind == "sha256"] == [Term("sha256", sha256(CONTENT).digest())]


@pytest.mark.parametrize(
    ("leaf", "error", "names"),
    [
        pytest.param(b"", MalformedError, "entry", id="empty"),
        pytest.param(b"{}", MalformedError, "field apiVersion", id="no_fields"),
        pytest.param(b"x" * 65_536, TooLargeError, "65535 bytes", id="too_large"),
        pytest.param(b'{"apiVersion":"0.0.1","kind":"x","spec":{}}', UnsupportedError, "field kind", id="unknown_kind"),
        pytest.param(attestation_leaf() + b"\n", MalformedError, "canonical", id="not_canonical"),
        pytest.param(
            attestation.format_leaf(
                Envelope(payload_type=PAYLOAD_TYPE, payload=statement(), signature=STRANGER.sign(b"something else")),
                signer=STRANGER.public,
            ),
            SignatureError,
            r"field spec\.envelope\.signatures\[0\]\.sig",
            id="signature_of_something_else",
        ),
    ],
)
def test_what_is_no_signed_entry_is_refused_by_the_name_of_its_field(
    leaf: bytes, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        admit(leaf)


def test_a_kind_that_is_not_switched_on_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"does not take hashedrekord \(it takes attestation\)"):
        admit_leaf(hashedrekord_leaf(), rules=taking("attestation"))
    assert admit_leaf(attestation_leaf(), rules=taking("attestation")).terms >= DIGESTS


@pytest.mark.parametrize("rules", [taking(OPAQUE), taking(*ALL_KINDS)], ids=["opaque", "all"])
@pytest.mark.parametrize(
    "leaf", [b"", b"any bytes", b"{}", b'{"apiVersion":1}', attestation_leaf() + b"\n", bytes(65_535)]
)
def test_an_opaque_log_takes_any_bytes_and_finds_them_by_their_hash_only(leaf: bytes, rules: AdmissionRules) -> None:
    assert admit_leaf(leaf, rules=rules) == Candidate(leaf, hash_leaf(leaf))


def test_an_opaque_log_has_the_limit_of_every_log() -> None:
    with pytest.raises(TooLargeError, match="65535 bytes"):
        admit_leaf(bytes(65_536), rules=taking(OPAQUE))


def test_an_entry_in_good_order_is_found_by_its_terms_in_an_opaque_log_too() -> None:
    assert admit_leaf(attestation_leaf(), rules=taking(OPAQUE)) == admit(attestation_leaf())


def test_a_limit_of_the_log_is_one_for_whatever_it_takes() -> None:
    rules = AdmissionRules(kinds=ALL_KINDS, entry_bytes_max=100)
    assert admit_leaf(bytes(100), rules=rules).leaf == bytes(100)
    for leaf in (bytes(101), attestation_leaf()):
        with pytest.raises(TooLargeError, match=r"^rule admission\.entry_bytes_max: entry is larger than 100 bytes$"):
            admit_leaf(leaf, rules=rules)


PUBLISHERS = [str(PUBLISHER.public)]
CLOSED: list[tuple[str, dict[str, object]]] = [
    ("signers", {"signers": PUBLISHERS}),
    ("owner", {"owner": [{"match": "pypi:acme-*", "signers": PUBLISHERS}]}),
    ("owner", {"owner": [{"match": "pypi:acme-*", "signers": PUBLISHERS}], "unowned": "refuse"}),
]
UNSIGNED = [
    b"any bytes",
    b"{}",
    attestation_leaf() + b"\n",
    attestation.format_leaf(
        Envelope(payload_type=PAYLOAD_TYPE, payload=statement(), signature=STRANGER.sign(b"something else")),
        signer=PUBLISHER.public,
    ),
]


@pytest.mark.parametrize(("rule", "table"), CLOSED, ids=["signers", "owner", "unowned"])
@pytest.mark.parametrize("leaf", UNSIGNED, ids=["bytes", "json", "not_canonical", "signature_of_something_else"])
def test_rules_about_signers_and_names_let_in_nothing_that_nobody_signed(
    leaf: bytes, rule: str, table: dict[str, object]
) -> None:
    rules = parse_rules({"kinds": ["opaque", "attestation"], **table}, where="admission")
    with pytest.raises(UntrustedError, match=rf"^rule admission\.{rule}: .* this is no entry: "):
        admit_leaf(leaf, rules=rules)
    assert admit_leaf(attestation_leaf(), rules=rules).terms >= DIGESTS


def test_who_is_not_let_in_is_told_so_whether_or_not_the_signature_verifies() -> None:
    rules = parse_rules({"signers": [str(STRANGER.public)]}, where="admission")
    for leaf in (attestation_leaf(), UNSIGNED[-1]):
        with pytest.raises(UntrustedError, match=r"^rule admission\.signers: signer ed25519:"):
            admit_leaf(leaf, rules=rules)


def test_a_signer_who_is_let_in_has_to_have_signed() -> None:
    rules = parse_rules({"signers": [str(PUBLISHER.public)]}, where="admission")
    with pytest.raises(SignatureError, match="does not verify"):
        admit_leaf(UNSIGNED[-1], rules=rules)
