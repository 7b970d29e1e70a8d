"""Package URLs in the one spelling by which entries are found (purl-spec).

    pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS#SUBPATH

A *canonical* package URL escapes everything but letters, digits and `-._~:` in each of its parts, and obeys the rules
of its type, most of which fold case: `pkg:pypi/zope-interface@7.2`, `pkg:npm/%40scope/name`. Any other spelling would
be a place to hide in, so what is looked for, and what it is compared with, is spelled canonically.

The types' rules are written down here, and are those of packageurl-python 0.17.6, of which a test makes sure. They are
not left to that package because look-up rows are stored: its next version must not spell a name in another way than
the rows of a log do. It only reads what is in no canonical spelling, to say what would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from string import ascii_lowercase, ascii_uppercase

from treehead.errors import MalformedError
from treehead.statement import PYPI, format_purl, normalise_project, percent_decode, percent_encode

PURL_CHARS_MAX = 512
PURL_START = "pkg:"

_TYPE = re.compile(r"[a-z][a-z0-9.-]*")
_AFTER_NAME = re.compile("[@?#]")
_QUALIFIER_KEY = re.compile(r"[a-z][a-z0-9._-]*")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)
"""Only ASCII is folded: what the rest of Unicode does differs between versions of Python."""

_LOWER_NAMESPACE = frozenset(
    {"alpm", "apk", "bitbucket", "composer", "github", "gitlab", "hex", "luarocks", "pypi", "qpkg"}
)
_LOWER_NAME = frozenset(
    {"alpm", "apk", "bitbucket", "bitnami", "composer", "github", "gitlab", "hex", "luarocks", "npm", "oci", "pub"}
)
_LOWER_VERSION = frozenset({"huggingface", "oci"})
_NOT_IN_A_PUB_NAME = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageUrl:
    """A package URL, taken apart, its parts not escaped.

    Attributes:
        type: such as `pypi`.
        name: with its namespace in front, if it has one, as in `@scope/name`.
        version: may be empty.
        qualifiers: pairs of key and value, in the order of the keys.
        subpath: may be empty.
    """

    type: str
    name: str
    version: str = ""
    qualifiers: tuple[tuple[str, str], ...] = ()
    subpath: str = ""

    def __str__(self) -> str:
        text = format_purl(ecosystem=self.type, name=self.name, version=self.version)
        if self.qualifiers:
            text += "?" + "&".join(f"{key}={percent_encode(value)}" for key, value in self.qualifiers)
        if self.subpath:
            text += "#" + "/".join(map(percent_encode, self.subpath.split("/")))
        return text

    def canonical(self) -> PackageUrl:
        """The same by the rules of its type."""
        name, version = _canonical_name(self.type, self.name), self.version
        if self.type in _LOWER_VERSION:
            version = version.translate(_LOWER)
        return self if (name, version) == (self.name, self.version) else replace(self, name=name, version=version)


def _canonical_name(type_: str, full_name: str) -> str:
    if type_ == PYPI:
        return normalise_project(full_name)
    namespace, slash, name = full_name.rpartition("/")
    if type_ in _LOWER_NAMESPACE:
        namespace = namespace.translate(_LOWER)
    elif type_ == "cpan":
        namespace = namespace.translate(_UPPER)
    if type_ in _LOWER_NAME:
        name = name.translate(_LOWER)
    if type_ == "hackage":
        name = name.replace("_", "-")
    elif type_ == "pub":
        name = _NOT_IN_A_PUB_NAME.sub("_", name)
    return f"{namespace}{slash}{name}"


def parse_purl(text: str) -> PackageUrl:
    """Take a package URL apart that escapes what it has to and nothing else, the exact inverse of `str`.

    Not checked: that it obeys the rules of its type; see `PackageUrl.canonical`.

    Raises:
        MalformedError: text is no such package URL, or longer than 512 characters.
    """
    if len(text) > PURL_CHARS_MAX:
        raise MalformedError(f"package URL is longer than {PURL_CHARS_MAX} characters")
    scheme, _, rest = text.partition(":")
    rest, _, subpath = rest.partition("#")
    rest, _, qualifiers = rest.partition("?")
    rest, _, version = rest.partition("@")
    type_, _, name = rest.partition("/")
    if f"{scheme}:" != PURL_START or _TYPE.fullmatch(type_) is None:
        raise MalformedError("package URL does not begin with pkg: and a type, such as pkg:pypi/")
    purl = PackageUrl(
        type=type_,
        name=_decode_path(name, what="name"),
        version=percent_decode(version, what="package URL's version"),
        qualifiers=tuple(_qualifiers(qualifiers)) if qualifiers else (),
        subpath=_decode_path(subpath, what="subpath") if subpath else "",
    )
    if purl.version.strip(" ") != purl.version or str(purl) != text:
        raise MalformedError("package URL has an empty part, or a version with a space at its edge")
    return purl


def _qualifiers(text: str) -> Iterable[tuple[str, str]]:
    last = ""
    for pair in text.split("&"):
        key, _, value = pair.partition("=")
        if _QUALIFIER_KEY.fullmatch(key) is None or not value or key <= last:
            raise MalformedError("package URL has qualifiers that are not KEY=VALUE, in the order of the keys")
        yield key, percent_decode(value, what=f"package URL's qualifier {key}")
        last = key


def _decode_path(text: str, *, what: str) -> str:
    segments = [percent_decode(segment, what=f"package URL's {what}") for segment in text.split("/")]
    if any(segment in ("", ".", "..") or "/" in segment or segment.strip(" ") != segment for segment in segments):
        raise MalformedError(f"package URL has a {what} with a part that is empty or dots, or a space at its edge")
    return "/".join(segments)


def package_of(text: str) -> str:
    """The package that a package URL in canonical spelling is of: without version, qualifiers and subpath."""
    return _AFTER_NAME.split(text, maxsplit=1)[0]


def canonical_purl(text: str) -> str:
    """The canonical spelling of a package URL, in whatever spelling purl-spec allows it is.

    Raises:
        MalformedError: text is none, or longer than 512 characters.
    """
    try:
        return str(parse_purl(text).canonical())
    except MalformedError as exc:
        if len(text) > PURL_CHARS_MAX or not text.isprintable():
            raise
        reason = exc
    from packageurl import PackageURL

    try:
        read = PackageURL.from_string(text)
    except ValueError as exc:
        raise MalformedError(f"not a package URL such as pkg:pypi/sampleproject@4.0.0: {exc}") from exc
    purl = PackageUrl(
        type=read.type,
        name=f"{read.namespace}/{read.name}" if read.namespace else read.name,
        version=read.version or "",
        qualifiers=tuple(sorted(read.qualifiers.items())),
        subpath=read.subpath or "",
    )
    try:
        return str(parse_purl(str(purl.canonical())))
    except MalformedError:
        raise reason from None
