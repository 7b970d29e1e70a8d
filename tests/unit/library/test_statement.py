"""Statements: what is read from signed bytes, and the package URL that must agree with it."""

import itertools
import json
from typing import Any

import pytest
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from tests.unit.library.specimens import CONTENT, FILENAME, digests, release, statement
from treehead.errors import MalformedError, TooLargeError
from treehead.statement import (
    DIGEST_CHARS_MAX,
    NAME_CHARS_MAX,
    RELEASE_PREDICATE,
    STATEMENT_TYPE,
    SUBJECT_DIGESTS_MAX,
    SUBJECTS_MAX,
    Subject,
    format_purl,
    format_release_statement,
    normalise_project,
    parse_statement,
    project_of,
)

SHA256 = digests(CONTENT)["sha256"].hex()


def changed(**changes: object) -> bytes:
    """The release statement with members of its predicate replaced."""
    document = json.loads(statement())
    document["predicate"].update(changes)
    return json.dumps(document).encode()


def foreign(**changes: object) -> bytes:
    """A statement that is not ours, such as provenance."""
    document: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "a", "digest": {"sha256": SHA256}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"builder": [1.5, {"id": "x"}]},
    }
    document.update(changes)
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def with_digest(**more: object) -> bytes:
    """The same with one subject that has more digests."""
    return foreign(subject=[{"name": "a", "digest": {"sha256": SHA256, **more}}])


def test_a_release_statement_is_read_back_as_it_was_printed() -> None:
    parsed = parse_statement(statement())
    assert parsed.predicate_type == RELEASE_PREDICATE
    assert parsed.release == release()
    assert parsed.subjects == (Subject(name=FILENAME, digests=digests(CONTENT)),)
    assert format_release_statement(release(), digests=digests(CONTENT)) == statement()


def test_of_a_foreign_statement_subjects_and_type_are_read_and_nothing_else() -> None:
    subjects = [{"name": f"file {number}", "digest": {"sha256": SHA256, "gitCommit": "?"}} for number in range(3)]
    parsed = parse_statement(foreign(subject=subjects, extension=[1]))
    assert parsed.release is None
    assert [subject.name for subject in parsed.subjects] == ["file 0", "file 1", "file 2"]
    assert parsed.subjects[0].digests == {"sha256": digests(CONTENT)["sha256"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("00ff", b"\0\xff"),
        ("0", b"0"),
        ("0FF", b"0FF"),
        ("h1:4ZDq=/+", b"h1:4ZDq=/+"),
        ("ü", "ü".encode()),
        ("ab" * (DIGEST_CHARS_MAX // 2), b"\xab" * (DIGEST_CHARS_MAX // 2)),
    ],
)
def test_digests_of_every_other_algorithm_are_read_apart_from_those_that_verifications_go_by(
    text: str, value: bytes
) -> None:
    (subject,) = parse_statement(with_digest(**{"sha3_256.x-Y": text, "SHA256": "00"})).subjects
    assert subject.digests == {"sha256": digests(CONTENT)["sha256"]}
    assert subject.further_digests == {"sha3_256.x-Y": value, "SHA256": b"\0"}


def test_as_many_digests_as_are_allowed_are_read() -> None:
    more = {f"a{number}": "00" for number in range(SUBJECT_DIGESTS_MAX - 1)}
    (subject,) = parse_statement(with_digest(**more)).subjects
    assert subject.further_digests.keys() == more.keys()
    both = {"sha256": SHA256, "a": "00"}
    assert len(parse_statement(foreign(subject=[{"name": "a", "digest": both}] * 256)).subjects) == 256


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        pytest.param(foreign(_type="https://in-toto.io/Statement/v0.1"), "statement._type", id="older_statement"),
        pytest.param(foreign(_type=None), "statement._type", id="no_type"),
        pytest.param(foreign(subject=[]), "statement.subject", id="no_subject"),
        pytest.param(foreign(subject={}), "statement.subject", id="subject_is_an_object"),
        pytest.param(foreign(subject=["a"]), "statement.subject[0]", id="subject_is_a_string"),
        pytest.param(
            foreign(subject=[{"name": "a", "digest": {"sha256": SHA256}}] * (SUBJECTS_MAX + 1)),
            "statement.subject",
            id="too_many_subjects",
        ),
        pytest.param(foreign(subject=[{"digest": {"sha256": SHA256}}]), "statement.subject[0].name", id="no_name"),
        pytest.param(
            foreign(subject=[{"name": "", "digest": {"sha256": SHA256}}]), "statement.subject[0].name", id="empty_name"
        ),
        pytest.param(
            foreign(subject=[{"name": "a\u202eb", "digest": {"sha256": SHA256}}]),
            "statement.subject[0].name",
            id="right_to_left_name",
        ),
        pytest.param(
            foreign(subject=[{"name": "a", "digest": {"sha256": SHA256}}, {"name": "b", "digest": {"md5": "00"}}]),
            "statement.subject[1].digest",
            id="no_digest_we_know",
        ),
        pytest.param(
            foreign(subject=[{"name": "a", "digest": {"sha256": SHA256.upper()}}]),
            "statement.subject[0].digest.sha256",
            id="upper_case_digest",
        ),
        pytest.param(
            foreign(subject=[{"name": "a", "digest": {"sha256": SHA256, "sha512": SHA256}}]),
            "statement.subject[0].digest.sha512",
            id="short_digest",
        ),
        pytest.param(
            foreign(subject=[{"name": "a", "digest": [SHA256]}]), "statement.subject[0].digest", id="digest_is_an_array"
        ),
        pytest.param(with_digest(sha1=17), "statement.subject[0].digest.sha1", id="digest_is_a_number"),
        pytest.param(with_digest(sha1=None), "statement.subject[0].digest.sha1", id="digest_is_null"),
        pytest.param(with_digest(sha1=""), "statement.subject[0].digest.sha1", id="empty_digest"),
        pytest.param(with_digest(sha1="AB"), "statement.subject[0].digest.sha1", id="another_digest_in_upper_case"),
        pytest.param(with_digest(sha1="aB01"), "statement.subject[0].digest.sha1", id="another_digest_in_mixed_case"),
        pytest.param(with_digest(sha1="a\nb"), "statement.subject[0].digest.sha1", id="newline_in_a_digest"),
        pytest.param(
            with_digest(sha1="0" * (DIGEST_CHARS_MAX + 1)), "statement.subject[0].digest.sha1", id="long_digest"
        ),
        pytest.param(with_digest(**{"name:": "00"}), "statement.subject[0].digest.name:", id="colon_in_an_algorithm"),
        pytest.param(with_digest(**{"": "00"}), "statement.subject[0].digest.", id="empty_algorithm"),
        pytest.param(with_digest(**{"a\u202eb": "00"}), "statement.subject[0].digest.", id="right_to_left_algorithm"),
        pytest.param(with_digest(**{"a" * 65: "00"}), "statement.subject[0].digest.a", id="long_algorithm"),
        pytest.param(
            with_digest(**{f"a{number}": "00" for number in range(SUBJECT_DIGESTS_MAX)}),
            "statement.subject[0].digest",
            id="too_many_digests",
        ),
        pytest.param(
            foreign(subject=[{"name": "a", "digest": {"sha256": SHA256, "a": "0", "b": "0"}}] * 171),
            "statement.subject has 513 digests",
            id="too_many_digests_of_all_subjects",
        ),
        pytest.param(foreign(predicateType=None), "statement.predicateType", id="no_predicate_type"),
        pytest.param(foreign(predicateType=1), "statement.predicateType", id="numeric_predicate_type"),
        pytest.param(
            foreign(predicateType=RELEASE_PREDICATE, predicate=[]), "statement.predicate", id="predicate_is_an_array"
        ),
        pytest.param(
            json.dumps(json.loads(statement()) | {"note": 1}).encode(), "statement.note", id="member_beside_a_release"
        ),
        pytest.param(changed(note=1), "statement.predicate.note", id="member_in_a_release"),
        pytest.param(changed(filename="other.whl"), "statement.predicate.filename", id="other_file"),
        pytest.param(changed(size=-1), "statement.predicate.size", id="negative_size"),
        pytest.param(changed(size=1.0), "statement.predicate.size", id="fractional_size"),
        pytest.param(changed(size=2**63), "statement.predicate.size", id="size_beyond_63_bits"),
        pytest.param(changed(size=True), "statement.predicate.size", id="boolean_size"),
        pytest.param(changed(name="other"), "statement.predicate.purl", id="purl_of_another_name"),
        pytest.param(changed(version="2.0"), "statement.predicate.purl", id="purl_of_another_version"),
        pytest.param(changed(ecosystem="npm"), "statement.predicate.purl", id="purl_of_another_ecosystem"),
        pytest.param(changed(purl="pkg:pypi/acme-tool@1.0?a=b"), "statement.predicate.purl", id="purl_with_qualifier"),
        pytest.param(changed(version="\ud800"), "statement", id="surrogate_in_the_version"),
        pytest.param(changed(version="1\n0"), "statement.predicate.version", id="newline_in_the_version"),
        pytest.param(changed(version="1" * (NAME_CHARS_MAX + 1)), "statement.predicate.version", id="long_version"),
        pytest.param(changed(name="\x1b[2J"), "statement.predicate.name", id="escape_in_the_name"),
        pytest.param(changed(name="a" * (NAME_CHARS_MAX + 1)), "statement.predicate.name", id="long_name"),
    ],
)
def test_a_bad_statement_is_refused_by_the_name_of_its_field(payload: bytes, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_statement(payload)
    assert field in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("ecosystem", "name", "version", "field"),
    [
        pytest.param("pypi/acme", "x", "1", "ecosystem", id="namespace_in_the_ecosystem"),
        pytest.param("PyPI", "x", "1", "ecosystem", id="upper_case_ecosystem"),
        pytest.param("py pi", "x", "1", "ecosystem", id="space_in_the_ecosystem"),
        pytest.param("3d", "x", "1", "ecosystem", id="ecosystem_begins_with_a_digit"),
        pytest.param("unnamed", "sha256:00", "", "ecosystem", id="release_that_claims_to_be_unnamed"),
        pytest.param("npm", "/x", "1", "name", id="leading_slash"),
        pytest.param("npm", "x/", "1", "name", id="trailing_slash"),
        pytest.param("npm", "a//b", "1", "name", id="empty_part"),
        pytest.param("npm", ".", "1", "name", id="one_dot"),
        pytest.param("npm", "a/../b", "1", "name", id="two_dots_between_slashes"),
        pytest.param("npm", " x", "1", "name", id="leading_space"),
        pytest.param("npm", "a /b", "1", "name", id="space_before_a_slash"),
        pytest.param("pypi", "Acme", "1", "name", id="pypi_name_in_capitals"),
        pytest.param("pypi", "acme_tool", "1", "name", id="pypi_name_with_an_underscore"),
        pytest.param("pypi", "zope.interface", "1", "name", id="pypi_name_with_a_dot"),
        pytest.param("pypi", "acme--tool", "1", "name", id="pypi_name_with_two_hyphens"),
        pytest.param("pypi", "acme-", "1", "name", id="pypi_name_that_ends_with_a_hyphen"),
        pytest.param("pypi", "acme/tool", "1", "name", id="pypi_name_with_a_namespace"),
        pytest.param("pypi", "\u0430cme", "1", "name", id="pypi_name_with_a_foreign_letter"),
        pytest.param("pypi", "acme\u0662", "1", "name", id="pypi_name_with_a_foreign_digit"),
        pytest.param("pypi", "x", " 1", "version", id="space_before_the_version"),
        pytest.param("pypi", "x", "1 ", "version", id="space_after_the_version"),
    ],
)
def test_a_name_that_package_urls_spell_in_two_ways_is_refused(
    ecosystem: str, name: str, version: str, field: str
) -> None:
    with pytest.raises(MalformedError, match=rf"field statement\.predicate\.{field} "):
        parse_statement(statement(ecosystem=ecosystem, name=name, version=version))


@pytest.mark.parametrize("name", ["Acme", "zope.interface", "a__b", "A.-_B", "-a", "x1"])
def test_projects_are_normalised_as_the_reference_does(name: str) -> None:
    assert normalise_project(name) == canonicalize_name(name)


@pytest.mark.parametrize(
    ("filename", "project"),
    [
        ("acme_tool-1.0-py3-none-any.whl", "acme-tool"),
        ("Zope.Interface-7.2-1-cp311-cp311-linux_x86_64.whl", "zope-interface"),
        ("acme-tool-1.0.tar.gz", "acme-tool"),
        ("zope.interface-7.2.tar.gz", "zope-interface"),
        ("nonsense.whl", "nonsense-whl"),
        ("nonsense.tar.gz", ""),
        ("acme-1.0.zip", None),
        ("acme-1.0.whl.asc", None),
    ],
)
def test_a_file_name_says_its_project(filename: str, project: str | None) -> None:
    assert project_of(filename) == project


def test_a_statement_without_bound_is_refused() -> None:
    with pytest.raises(TooLargeError, match="65535"):
        parse_statement(b" " * 65_536)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"null", b"\xff", b'{"_type":[]}'])
def test_what_is_no_statement_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedError, match="statement"):
        parse_statement(payload)


# --- package URLs against the reference implementation ---------------------------------------------------------------

# Types to which the reference applies no rules of their own. For some others it folds case or replaces characters, and
# with that its percent-encoding's case, which the specification fixes as upper.
PLAIN_TYPES = ["generic", "cargo", "maven", "golang", "deb", "conan"]
NAMES = ["x", "Foo_Bar", "foo.bar", "@scope/name", "a/b/c", ".", "..", "a b", "ä/ö", "a%2Fb", "a:b", "a~b", "a+b"]
NAMES += ["a'(b)*", "a@b", "a?b=c&d", "a#b", "a\\b", "\U0001f332", "%", "-._~", "a;b,c", 'a"b', "[a]{b}|^`"]
VERSIONS = ["1.0", "", "1:2", "1+x", "1@2", "A", "ä", "1~2", "1?2", "1#2", "1%2", "v1.0-rc.1+build", "1 2", "1&2=3"]


def parts(ecosystem: str, name: str, version: str) -> PackageURL:
    namespace, _, last = name.rpartition("/")
    return PackageURL(ecosystem, namespace or None, last, version or None)


@pytest.mark.parametrize("ecosystem", PLAIN_TYPES)
def test_package_urls_are_the_reference_implementations(ecosystem: str) -> None:
    for name, version in itertools.product(NAMES, VERSIONS):
        assert (
            format_purl(ecosystem=ecosystem, name=name, version=version) == parts(ecosystem, name, version).to_string()
        )


@pytest.mark.parametrize("version", ["1/2", "refs/heads/main", "/", "a/../b"])
def test_a_slash_in_a_version_is_encoded_as_the_specification_says_and_the_reference_does_not(version: str) -> None:
    ours = format_purl(ecosystem="generic", name="x", version=version)
    assert ours == f"pkg:generic/x@{version.replace('/', '%2F')}"
    assert PackageURL.from_string(ours).version == version


def test_the_reference_reads_the_same_parts_from_our_package_urls() -> None:
    for ecosystem, name, version in itertools.product([*PLAIN_TYPES, "npm", "pypi"], NAMES, VERSIONS):
        read = PackageURL.from_string(format_purl(ecosystem=ecosystem, name=name, version=version))
        assert read == parts(ecosystem, name, version)
