"""What a leaf has to be before it may wait for its place in the log, and by what it is found."""

from __future__ import annotations

from hashlib import sha256, sha512

import pytest

from tests.unit.library.specimens import CONTENT, STRANGER, attestation_leaf, hashedrekord_leaf, statement
from treehead.dsse import Envelope
from treehead.encoding import JsonValue, format_canonical_json
from treehead.entry import attestation
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from treehead.merkle import hash_leaf
from treehead.statement import PAYLOAD_TYPE, STATEMENT_TYPE
from treehead_logserver.kinds import ALL_KINDS, OPAQUE, SIGNED_KINDS
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.storage.base import Candidate, Term

DIGESTS = {Term("sha256", sha256(CONTENT).digest()), Term("sha512", sha512(CONTENT).digest())}


def admit(leaf: bytes) -> Candidate:
    return admit_leaf(leaf, kinds=SIGNED_KINDS)


def test_a_signed_release_is_admitted_with_all_its_digests() -> None:
    leaf = attestation_leaf()
    assert admit(leaf) == Candidate(leaf, hash_leaf(leaf), frozenset(DIGESTS))


def test_a_hashedrekord_is_admitted_with_its_digest() -> None:
    leaf = hashedrekord_leaf()
    assert admit(leaf).terms == {Term("sha256", sha256(CONTENT).digest())}


def test_a_digest_that_an_entry_names_twice_is_one_look_up_row() -> None:
    subjects: list[JsonValue] = [{"digest": {"sha256": sha256(CONTENT).hexdigest()}, "name": name} for name in "ab"]
    payload = format_canonical_json({"_type": STATEMENT_TYPE, "predicateType": "about:blank", "subject": subjects})
    assert admit(attestation_leaf(payload)).terms == {Term("sha256", sha256(CONTENT).digest())}


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
        admit_leaf(hashedrekord_leaf(), kinds={"attestation"})
    assert admit_leaf(attestation_leaf(), kinds={"attestation"}).terms == DIGESTS


@pytest.mark.parametrize("kinds", [{OPAQUE}, ALL_KINDS])
@pytest.mark.parametrize(
    "leaf", [b"", b"any bytes", b"{}", b'{"apiVersion":1}', attestation_leaf() + b"\n", bytes(65_535)]
)
def test_an_opaque_log_takes_any_bytes_and_finds_them_by_their_hash_only(leaf: bytes, kinds: set[str]) -> None:
    assert admit_leaf(leaf, kinds=kinds) == Candidate(leaf, hash_leaf(leaf))


def test_an_opaque_log_has_the_limit_of_every_log() -> None:
    with pytest.raises(TooLargeError, match="65535 bytes"):
        admit_leaf(bytes(65_536), kinds={OPAQUE})


def test_an_entry_in_good_order_is_found_by_its_terms_in_an_opaque_log_too() -> None:
    assert admit_leaf(attestation_leaf(), kinds={OPAQUE}) == admit(attestation_leaf())
