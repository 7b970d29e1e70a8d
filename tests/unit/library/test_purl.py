"""Package URLs: taken apart and spelled again without a difference, and canonical as the reference spells them."""

from __future__ import annotations

import itertools
import re

import pytest
from packageurl import PackageURL
from packageurl.validate import DEFINITIONS_BY_TYPE

from tests.unit.library.specimens import release
from treehead.errors import MalformedError
from treehead.purl import PURL_CHARS_MAX, PackageUrl, canonical_purl, parse_purl
from treehead.statement import PYPI, format_purl, normalise_project

NAMES = [
    "x",
    "Foo_Bar",
    "foo.bar-Baz",
    "@Scope/Name",
    "A/b/C",
    "a b",
    "Ä/ö",
    "a:b",
    "a~b",
    "a+b",
    "a@b",
    "a?b=c&d",
    "a#b",
]
VERSIONS = ["", "1.0", "1:2", "V1.0-RC.1+build", "ä", "1@2", "1?2", "1#2", "1%2", "refs/heads/main"]
WHOLE = [
    ("pkg:npm/%40scope/name@1.0.0", PackageUrl(type="npm", name="@scope/name", version="1.0.0")),
    ("pkg:generic/a:b", PackageUrl(type="generic", name="a:b")),
    ("pkg:golang/github.com/Foo/bar@v1", PackageUrl(type="golang", name="github.com/Foo/bar", version="v1")),
    (
        "pkg:docker/x@1?a=b%26c&platform=linux%2Famd64#sub/p%20q",
        PackageUrl(
            type="docker",
            name="x",
            version="1",
            qualifiers=(("a", "b&c"), ("platform", "linux/amd64")),
            subpath="sub/p q",
        ),
    ),
    ("pkg:generic/x?a=b", PackageUrl(type="generic", name="x", qualifiers=(("a", "b"),))),
    ("pkg:generic/x#a", PackageUrl(type="generic", name="x", subpath="a")),
]


@pytest.mark.parametrize(("text", "purl"), WHOLE)
def test_a_package_url_is_taken_apart_and_spelled_again(text: str, purl: PackageUrl) -> None:
    assert parse_purl(text) == purl
    assert str(purl) == text


def test_what_a_release_may_be_called_is_read_back_as_it_was_spelled() -> None:
    for name, version in itertools.product(NAMES, VERSIONS):
        purl = PackageUrl(type="generic", name=name, version=version)
        assert parse_purl(format_purl(ecosystem="generic", name=name, version=version)) == purl
    assert str(parse_purl(release().purl)) == release().purl


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkg:",
        "pkg:npm",
        "pkg:npm/",
        "npm/x@1",
        "PKG:npm/x",
        "pkg:NPM/x",
        "pkg:1npm/x",
        "pkg:n_m/x",
        "pkg://npm/x",
        "pkg:npm/@scope/x",
        "pkg:npm/a//b",
        "pkg:npm/a/",
        "pkg:npm/./a",
        "pkg:npm/..",
        "pkg:npm/%2E%2E",
        "pkg:npm/a%2Fb",
        "pkg:npm/%20a",
        "pkg:npm/a@",
        "pkg:npm/a@1%20",
        "pkg:npm/a@1@2",
        "pkg:npm/a?",
        "pkg:npm/a#",
        "pkg:npm/a#/b",
        "pkg:npm/a#b/../c",
        "pkg:npm/a?b",
        "pkg:npm/a?b=",
        "pkg:npm/a?B=c",
        "pkg:npm/a?b=c&b=d",
        "pkg:npm/a?c=d&b=c",
        "pkg:npm/a?b=c/d",
        "pkg:npm/a b",
        "pkg:npm/ä",
        "pkg:npm/%c3%a4",
        "pkg:npm/%61",
        "pkg:npm/%3A",
        "pkg:npm/%",
        "pkg:npm/%4",
        "pkg:npm/%zz",
        "pkg:npm/%FF",
        "pkg:npm/%ED%A0%80",
        "pkg:npm/" + "x" * (PURL_CHARS_MAX - 7),
    ],
)
def test_another_spelling_is_none(text: str) -> None:
    with pytest.raises(MalformedError, match="package URL"):
        parse_purl(text)


# --- canonical spelling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("pkg:PyPI/Zope.Interface@7.2", "pkg:pypi/zope-interface@7.2"),
        ("pkg:pypi/acme_tool", "pkg:pypi/acme-tool"),
        ("pkg:npm/@scope/Name@1", "pkg:npm/%40scope/name@1"),
        ("pkg:npm/JSONStream@1.3.5", "pkg:npm/jsonstream@1.3.5"),
        ("pkg://github/Foo/Bar@V1", "pkg:github/foo/bar@V1"),
        ("pkg:generic/x@refs/heads", "pkg:generic/x@refs%2Fheads"),
        ("pkg:docker/x@1?b=c/d&A=b", "pkg:docker/x@1?a=b&b=c%2Fd"),
        ("pkg:huggingface/A/B@ABC", "pkg:huggingface/A/B@abc"),
        ("pkg:cpan/dromoland/Some-Module", "pkg:cpan/DROMOLAND/Some-Module"),
        ("pkg:pub/some-Name", "pkg:pub/some_name"),
        ("pkg:generic/%c3%a4%61", "pkg:generic/%C3%A4a"),
    ],
)
def test_a_spelling_that_the_specification_allows_has_a_canonical_one(text: str, canonical: str) -> None:
    assert canonical_purl(text) == canonical
    assert canonical_purl(canonical) == canonical


@pytest.mark.parametrize(
    "text", ["", "x", "pkg:", "pkg:npm", "pkg:npm/", "pkg:1/x", "pkg:npm/..", "pkg:npm/a?b", "a" * 513]
)
def test_what_is_no_package_url_has_no_canonical_spelling(text: str) -> None:
    with pytest.raises(MalformedError, match="package URL"):
        canonical_purl(text)


def reference(type_: str, name: str, version: str) -> str:
    """The reference's canonical spelling, with the slashes of versions escaped as the specification says."""
    namespace, _, last = name.rpartition("/")
    read = PackageURL(type_, namespace or None, last, version or None)
    full_name = f"{read.namespace}/{read.name}" if read.namespace else read.name
    if type_ == PYPI:
        full_name = normalise_project(full_name)  # the reference leaves the dots, which PyPI does not tell apart
    return format_purl(ecosystem=type_, name=full_name, version=read.version or "")


@pytest.mark.parametrize("type_", sorted({*DEFINITIONS_BY_TYPE, "gitlab"}))
def test_the_rules_of_a_type_are_those_of_the_reference(type_: str) -> None:
    for name, version in itertools.product(NAMES, VERSIONS):
        if re.search(r"[^ -~]", name + version):
            continue  # of other alphabets the case is left as it is
        purl = PackageUrl(type=type_, name=name, version=version)
        assert str(purl.canonical()) == reference(type_, name, version)


def test_letters_beyond_ascii_keep_their_case() -> None:
    assert str(PackageUrl(type="github", name="Ä/Öb").canonical()) == "pkg:github/%C3%84/%C3%96b"
    # The reference folds all of Unicode for this type: the Kelvin sign would be a k, and a name become longer.
    assert str(PackageUrl(type="pypi", name="\u212aeras.İ_X").canonical()) == "pkg:pypi/%E2%84%AAeras-%C4%B0-x"
