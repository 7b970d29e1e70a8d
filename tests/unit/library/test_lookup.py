"""What an entry is found by, and that a query for one thing never means another."""

from __future__ import annotations

from hashlib import sha256, sha512

import pytest

from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    P256_PUBLISHER,
    PUBLISHER,
    attestation_leaf,
    hashedrekord_leaf,
    statement,
)
from treehead.encoding import JsonValue, format_canonical_json
from treehead.entry import parse_entry
from treehead.errors import MalformedError, UnsupportedError
from treehead.lookup import (
    DIGEST_VALUE_BYTES_MAX,
    NAME,
    PURL,
    SIGNER,
    Term,
    digest_term,
    name_term,
    purl_term,
    signer_term,
    terms_of,
)
from treehead.statement import STATEMENT_TYPE

SHA256, SHA512 = sha256(CONTENT).digest(), sha512(CONTENT).digest()


def terms(leaf: bytes) -> set[Term]:
    return set(terms_of(parse_entry(leaf)))


def provenance(*subjects: tuple[str, dict[str, str]]) -> bytes:
    """The leaf of somebody's statement about these subjects."""
    listed: list[JsonValue] = [
        {"name": name, "digest": {"sha256": SHA256.hex(), **digests}} for name, digests in subjects
    ]
    return attestation_leaf(
        format_canonical_json({"_type": STATEMENT_TYPE, "predicateType": "about:blank", "subject": listed})
    )


def by_name_and_purl(leaf: bytes) -> set[str]:
    return {value.decode() for kind, value in terms(leaf) if kind in (NAME, PURL)}


def test_a_release_is_found_by_digests_file_name_version_package_and_signer() -> None:
    assert terms(attestation_leaf()) == {
        digest_term("sha256", SHA256),
        digest_term("sha512", SHA512),
        name_term(FILENAME),
        purl_term("pkg:pypi/acme-tool@1.0"),
        purl_term("pkg:pypi/acme-tool"),
        signer_term(PUBLISHER.public.spki),
    }


def test_a_release_without_a_version_is_found_as_its_package_only() -> None:
    leaf = attestation_leaf(statement(ecosystem="generic", name="model.bin", version=""))
    assert [term for term in terms(leaf) if term.kind == PURL] == [purl_term("pkg:generic/model.bin")]


def test_a_signature_over_a_digest_is_found_by_that_and_its_signer() -> None:
    assert terms(hashedrekord_leaf()) == {digest_term("sha256", SHA256), signer_term(P256_PUBLISHER.public.spki)}


def test_every_subject_is_found_by_its_name_and_all_of_its_digests() -> None:
    sha1, text = sha256(b"any").hexdigest()[:40], "h1:4ZDq=/+"
    leaf = provenance(("a b", {"sha1": sha1, "gitCommit": "00"}), ("ü", {"dirHash": text}))
    assert terms(leaf) == {
        digest_term("sha256", SHA256),
        digest_term("sha1", bytes.fromhex(sha1)),
        digest_term("gitCommit", b"\0"),
        digest_term("dirHash", text.encode()),
        name_term("a b"),
        name_term("ü"),
        signer_term(PUBLISHER.public.spki),
    }


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pkg:npm/%40scope/x@1.0.0", {"pkg:npm/%40scope/x@1.0.0", "pkg:npm/%40scope/x"}),
        ("pkg:npm/JSONStream@1.3.5", {"pkg:npm/jsonstream@1.3.5", "pkg:npm/jsonstream"}),
        ("pkg:pypi/Zope.Interface", {"pkg:pypi/zope-interface"}),
        ("pkg:docker/x@1?platform=linux%2Famd64", {"pkg:docker/x@1?platform=linux%2Famd64", "pkg:docker/x"}),
        ("pkg:generic/x#a/b", {"pkg:generic/x#a/b", "pkg:generic/x"}),
        ("pkg:npm/@scope/x@1.0.0", set()),
        ("pkg:", set()),
        ("npm/x@1", set()),
    ],
)
def test_a_subject_that_is_called_by_a_package_url_is_found_by_it(name: str, found: set[str]) -> None:
    assert by_name_and_purl(provenance((name, {}))) == found | {name}


def test_a_release_in_another_case_is_found_by_the_canonical_spelling() -> None:
    leaf = attestation_leaf(statement(ecosystem="github", name="Acme/Tool", version="V1", filename="tool"))
    assert by_name_and_purl(leaf) == {"pkg:github/acme/tool@V1", "pkg:github/acme/tool", "tool"}


def test_terms_of_different_kinds_are_different_whatever_a_submitter_calls_an_algorithm() -> None:
    for algorithm in ("name", "purl", "signer", "pkg", "digest"):
        kinds = {term.kind for term in terms(provenance((FILENAME, {algorithm: FILENAME})))}
        assert kinds == {"sha256", algorithm, NAME, SIGNER}
    for kind in (NAME, PURL, SIGNER):
        with pytest.raises(MalformedError, match=r"field 'statement\.subject\[0\]\.digest\."):
            terms(provenance((FILENAME, {kind: FILENAME})))
        with pytest.raises(MalformedError, match="algorithm"):
            digest_term(kind, b"x")


# --- queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "value", "complaint"),
    [
        ("", b"x", "algorithm"),
        ("sha 1", b"x", "algorithm"),
        ("sha1\n", b"x", "algorithm"),
        ("a" * 65, b"x", "algorithm"),
        ("ä", b"x", "algorithm"),
        ("sha256", b"", "value has 0 bytes; a sha256 digest has 32"),
        ("sha256", bytes(64), "value has 64 bytes; a sha256 digest has 32"),
        ("sha512", bytes(32), "value has 32 bytes; a sha512 digest has 64"),
        ("sha1", b"", "value has 0 bytes, not 1 to"),
        ("sha1", bytes(DIGEST_VALUE_BYTES_MAX + 1), f"not 1 to {DIGEST_VALUE_BYTES_MAX}"),
    ],
)
def test_a_digest_that_no_entry_can_have_is_no_query(algorithm: str, value: bytes, complaint: str) -> None:
    with pytest.raises(MalformedError, match=complaint):
        digest_term(algorithm, value)


@pytest.mark.parametrize("name", ["", "a\n", "a\u202eb", "\ud800", "x" * 513])
def test_a_name_that_no_entry_can_have_is_no_query(name: str) -> None:
    with pytest.raises(MalformedError, match="name is not 1 to 512 printable characters"):
        name_term(name)


def test_a_package_url_in_another_spelling_is_no_query_and_the_right_one_is_told() -> None:
    with pytest.raises(MalformedError, match=r"canonical spelling, which is pkg:npm/%40scope/x@1$"):
        purl_term("pkg:npm/@scope/X@1")
    with pytest.raises(MalformedError, match="package URL"):
        purl_term("x" * 100_000)


def test_what_is_no_key_is_no_query() -> None:
    for spki in (b"", b"x" * 100_000, PUBLISHER.public.spki[:-1], PUBLISHER.public.spki + b"\0"):
        with pytest.raises(UnsupportedError, match="public key"):
            signer_term(spki)
    off_curve = P256_PUBLISHER.public.spki[:-1] + bytes([P256_PUBLISHER.public.spki[-1] ^ 1])
    with pytest.raises(MalformedError, match="curve"):
        signer_term(off_curve)
