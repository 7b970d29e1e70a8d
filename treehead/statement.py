"""in-toto Statements: what a publisher says about an artifact, and the release predicate that `treehead sign` makes.

A statement names subjects (file name and digests), a predicate type and a predicate. The names that look-ups, watches
and trust rules use come from here, that is from signed bytes, and from nowhere else.

Statements of others are read, too: only the members that in-toto Statement v1 defines are interpreted, and the JSON
need not be canonical, because the signature covers the bytes as they are.

Digests are of two sorts. Those of `DIGEST_BYTES` say which bytes an artifact has, and each subject has one at least.
All others only serve to find the entry, so they may be of any algorithm; but none is passed over, for what is signed
must not hide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase

from treehead.encoding import Fields, JsonValue, format_canonical_json, parse_hex, parse_json_object, parse_utf8
from treehead.errors import MalformedError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
RELEASE_PREDICATE = "https://treehead.dev/release/v1"

STATEMENT_BYTES_MAX = 65_535
SUBJECTS_MAX = 256
NAME_CHARS_MAX = 512
DIGEST_CHARS_MAX = 512
SUBJECT_DIGESTS_MAX = 16
DIGESTS_MAX = 512
"""Of all subjects together: by each of them, an entry is found."""

UNNAMED_ECOSYSTEM = "unnamed"
"""Where trust rules find entries whose signature covers a digest only; no release may claim to be one."""

PYPI = "pypi"
"""Where a name has many spellings, of which only the normalised one is accepted (PEP 503)."""

_ECOSYSTEM = re.compile(r"[a-z][a-z0-9.-]*")
_PROJECT = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_PROJECT_SEPARATORS = re.compile(r"[-_.]+")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_PURL_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_~:"
_PURL_SPELLINGS = [chr(octet) if octet in _PURL_PLAIN else f"%{octet:02X}" for octet in range(256)]
_PURL_OCTETS = {spelling: octet for octet, spelling in enumerate(_PURL_SPELLINGS)}
_PURL_TOKEN = re.compile(r"%.{0,2}|.", re.DOTALL)
_ALGORITHM = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")

DIGEST_BYTES = {"sha256": 32, "sha512": 64}
"""The digest algorithms that a verification goes by, and their lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One artifact.

    Attributes:
        name: a file name, for releases.
        digests: by algorithm, those that a verification goes by: `sha256`, `sha512`.
        further_digests: by algorithm, all others; see `parse_digest`.
    """

    name: str
    digests: Mapping[str, bytes]
    further_digests: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The release predicate: which package version a file belongs to.

    `ecosystem` is a package URL type, `name` the namespace and name with slashes between (on PyPI, see
    `normalise_project`), `version` may be empty, and `size` is in bytes.
    """

    purl: str
    ecosystem: str
    name: str
    version: str
    filename: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement. `release` is None when the predicate is not Treehead's own."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    release: Release | None


def parse_statement(payload: bytes) -> Statement:
    """Read a statement's bytes.

    Of a predicate that is not the release predicate only the type is kept.

    Raises:
        MalformedError: payload is no in-toto Statement v1, has no subject or digest, or a release that contradicts
        itself.
    """
    fields = Fields(parse_json_object(payload, what="statement", bytes_max=STATEMENT_BYTES_MAX), path="statement")
    if fields.text("_type") != STATEMENT_TYPE:
        raise MalformedError(f"field statement._type is not {STATEMENT_TYPE}")
    items = fields.array("subject")
    if not 0 < len(items) <= SUBJECTS_MAX:
        raise MalformedError(f"field statement.subject has {len(items)} subjects, not 1 to {SUBJECTS_MAX}")
    subjects = tuple(
        _parse_subject(Fields(item, path=f"statement.subject[{number}]")) for number, item in enumerate(items)
    )
    count = sum(len(subject.digests) + len(subject.further_digests) for subject in subjects)
    if count > DIGESTS_MAX:
        raise MalformedError(f"field statement.subject has {count} digests; at most {DIGESTS_MAX} are taken")
    predicate_type = fields.text("predicateType")
    release = None
    if predicate_type == RELEASE_PREDICATE:
        release = _parse_release(fields.object("predicate"))
        if len(subjects) != 1 or subjects[0].name != release.filename:
            raise MalformedError("field statement.predicate.filename does not name the one subject")
        fields.finish()
    return Statement(subjects=subjects, predicate_type=predicate_type, release=release)


def _parse_subject(fields: Fields) -> Subject:
    name = _name(fields, "name")
    where = fields.path("digest")
    digest_set = fields.value("digest")
    if not isinstance(digest_set, dict):
        raise MalformedError(f"field {where} is not a JSON object")
    if len(digest_set) > SUBJECT_DIGESTS_MAX:
        raise MalformedError(f"field {where} has {len(digest_set)} digests; at most {SUBJECT_DIGESTS_MAX} are taken")
    digest_fields = Fields(digest_set, path=where)
    digests: dict[str, bytes] = {}
    further_digests: dict[str, bytes] = {}
    for algorithm in digest_set:
        if not is_algorithm(algorithm):
            raise MalformedError(
                f"field {digest_fields.path(algorithm[:64])!r} is not named as algorithms are: "
                "1 to 64 of A-Z, a-z, 0-9, _, . and -"
            )
        value = parse_digest(algorithm, digest_fields.text(algorithm), what=f"field {digest_fields.path(algorithm)}")
        (digests if algorithm in DIGEST_BYTES else further_digests)[algorithm] = value
    if not digests:
        raise MalformedError(f"field {where} has none of {', '.join(DIGEST_BYTES)}")
    return Subject(name=name, digests=digests, further_digests=further_digests)


def is_algorithm(name: str) -> bool:
    """Whether a digest algorithm may be called so: 1 to 64 of the characters A-Z, a-z, 0-9, `_`, `.` and `-`."""
    return _ALGORITHM.fullmatch(name) is not None


def parse_digest(algorithm: str, text: str, *, what: str) -> bytes:
    """What a statement says a digest is, for verifications to go by or entries to be found by.

    It is spelled in hexadecimal. With algorithms that no verification goes by, another text stands for itself, in
    UTF-8, as `h1:…` does for dirHash; but not hexadecimal in capitals, which nobody would find by its bytes.

    Raises:
        MalformedError: text is of the wrong length for `algorithm`, or not lower-case hexadecimal though it has to be;
        or it is empty, longer than 512 characters, or not printable.
    """
    length = DIGEST_BYTES.get(algorithm)
    if length is not None:
        return parse_hex(text, what=what, length=length)
    if not 0 < len(text) <= DIGEST_CHARS_MAX or not text.isprintable():
        raise MalformedError(f"{what} is not 1 to {DIGEST_CHARS_MAX} printable characters")
    return parse_hex(text, what=what) if _HEX.fullmatch(text) is not None else text.encode()


def _parse_release(fields: Fields) -> Release:
    release = Release(
        purl=_name(fields, "purl"),
        ecosystem=_name(fields, "ecosystem"),
        name=_name(fields, "name"),
        version=_printable(fields, "version"),
        filename=_name(fields, "filename"),
        size=fields.size("size"),
    )
    fields.finish()
    if _ECOSYSTEM.fullmatch(release.ecosystem) is None or release.ecosystem == UNNAMED_ECOSYSTEM:
        raise MalformedError(f"field {fields.path('ecosystem')} is not a package URL type")
    if any(segment.strip(" ") != segment or segment in ("", ".", "..") for segment in release.name.split("/")):
        raise MalformedError(f"field {fields.path('name')} has a part that is empty or dots, or a space at its edge")
    if release.ecosystem == PYPI and _PROJECT.fullmatch(release.name) is None:
        raise MalformedError(
            f"field {fields.path('name')} is not normalised as PyPI does: lower-case, with single hyphens (PEP 503)"
        )
    if release.version.strip(" ") != release.version:
        raise MalformedError(f"field {fields.path('version')} begins or ends with a space")
    if release.purl != format_purl(ecosystem=release.ecosystem, name=release.name, version=release.version):
        raise MalformedError(f"field {fields.path('purl')} does not spell the ecosystem, name and version beside it")
    return release


def _name(fields: Fields, member: str) -> str:
    name = _printable(fields, member)
    if not name:
        raise MalformedError(f"field {fields.path(member)} is empty")
    return name


def _printable(fields: Fields, member: str) -> str:
    text = fields.text(member)
    if len(text) > NAME_CHARS_MAX or not text.isprintable():
        raise MalformedError(f"field {fields.path(member)} is not up to {NAME_CHARS_MAX} printable characters")
    return text


def normalise_project(name: str) -> str:
    """A PyPI project's name in the spelling of which there is one a project (PEP 503).

    Such a name is ASCII, and of what is none only that is folded: the rest differs between versions of Python.
    """
    return _PROJECT_SEPARATORS.sub("-", name).translate(_LOWER)


def project_of(filename: str) -> str | None:
    """The PyPI project, normalised, that the file name of a wheel or sdist says; None for other files.

    Not checked: that the rest of the name is as it should be.
    """
    if filename.endswith(".whl"):
        return normalise_project(filename.partition("-")[0])
    if filename.endswith(".tar.gz"):
        return normalise_project(filename.removesuffix(".tar.gz").rpartition("-")[0])
    return None


def format_purl(*, ecosystem: str, name: str, version: str) -> str:
    """The package URL of a version: `pkg:ecosystem/name@version`, without qualifiers or subpath (purl-spec).

    Slashes in `name` separate namespace from name, as in `@scope/name`; an empty version is left out.
    """
    path = "/".join(map(percent_encode, name.split("/")))
    return f"pkg:{ecosystem}/{path}" + (f"@{percent_encode(version)}" if version else "")


def percent_encode(text: str) -> str:
    """Print a part of a package URL, everything escaped but letters, digits and `-._~:` (purl-spec)."""
    if not text.encode().translate(None, _PURL_PLAIN):
        return text
    return "".join(map(_PURL_SPELLINGS.__getitem__, text.encode()))


def percent_decode(text: str, *, what: str) -> str:
    """Parse a part of a package URL, the exact inverse of `percent_encode`.

    Raises:
        MalformedError: something is not escaped, or is and need not be, or what comes of it is not UTF-8.
    """
    tokens = _PURL_TOKEN.findall(text)
    try:
        octets = bytes(map(_PURL_OCTETS.__getitem__, tokens))
    except KeyError as exc:
        raise MalformedError(f"{what} has {exc.args[0]!r}, which is not how a package URL spells anything") from exc
    return parse_utf8(octets, what=what, bytes_max=len(octets))


def format_release_statement(release: Release, *, digests: Mapping[str, bytes]) -> bytes:
    """The statement's bytes (canonical JSON) for one released file with the given digests."""
    predicate: dict[str, JsonValue] = {
        "purl": release.purl,
        "ecosystem": release.ecosystem,
        "name": release.name,
        "version": release.version,
        "filename": release.filename,
        "size": release.size,
    }
    subject: dict[str, JsonValue] = {
        "name": release.filename,
        "digest": {algorithm: digest.hex() for algorithm, digest in digests.items()},
    }
    return format_canonical_json(
        {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": RELEASE_PREDICATE, "predicate": predicate}
    )
