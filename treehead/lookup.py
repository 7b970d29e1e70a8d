"""What an entry is found by: its terms, each a kind and a value.

    kind           value
    ALGORITHM      a digest of an artifact: see `treehead.statement.parse_digest`
    "name:"        the name of an artifact, in UTF-8
    "purl:"        a package URL in canonical spelling: of a version, and of its package without a version
    "signer:"      SHA-256 of the signer's SubjectPublicKeyInfo

Whoever submits an entry chooses the names of its digest algorithms; there is no colon in them, so none of them is
another kind. The log looks for terms among those that it has stored, and the client derives them again from each entry
that it is sent. They come from what is signed, and from nowhere else; see docs/formats/look-ups.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from treehead.entry import Entry
from treehead.errors import MalformedError
from treehead.publickey import public_key_from_spki
from treehead.purl import PURL_START, PackageUrl, canonical_purl, package_of, parse_purl
from treehead.statement import DIGEST_BYTES, DIGEST_CHARS_MAX, NAME_CHARS_MAX, is_algorithm

DIGEST_VALUE_BYTES_MAX = 4 * DIGEST_CHARS_MAX
"""Of a digest that is a text in UTF-8."""

NAME = "name:"
PURL = "purl:"
SIGNER = "signer:"


class Term(NamedTuple):
    """One thing that an entry is found by; see the module."""

    kind: str
    value: bytes


# --- of an entry -----------------------------------------------------------------------------------------------------


def terms_of(entry: Entry) -> frozenset[Term]:
    """Everything that an entry is found by. Its signature is not looked at."""
    terms = {_signer_term(entry.signer.spki)}
    for artifact in entry.artifacts:
        for digest in artifact.digests.items():
            terms.add(Term(*digest))
        for digest in artifact.further_digests.items():
            terms.add(Term(*digest))
        if artifact.name is not None:
            terms.add(Term(NAME, artifact.name.encode()))
            if artifact.name.startswith(PURL_START):
                terms.update(_terms_of_name(artifact.name))
    release = entry.release
    if release is not None:
        purl = PackageUrl(type=release.ecosystem, name=release.name, version=release.version)
        terms.update(_terms_of_purl(purl, text=release.purl))
    return frozenset(terms)


def _terms_of_name(name: str) -> Iterator[Term]:
    """Npm's provenance, for one, calls its subject by a package URL."""
    try:
        purl = parse_purl(name)
    except MalformedError:
        return  # it is found as the name that it is
    yield from _terms_of_purl(purl, text=name)


def _terms_of_purl(purl: PackageUrl, *, text: str) -> Iterator[Term]:
    """The terms of a package URL, which `text` spells."""
    canonical = purl.canonical()
    if canonical is not purl:
        text = str(canonical)
    yield Term(PURL, text.encode())
    yield Term(PURL, package_of(text).encode())


def _signer_term(spki: bytes) -> Term:
    return Term(SIGNER, sha256(spki).digest())


# --- of a query ------------------------------------------------------------------------------------------------------


def digest_term(algorithm: str, value: bytes) -> Term:
    """The term of a digest.

    Raises:
        MalformedError: no statement can have such a digest.
    """
    if not is_algorithm(algorithm):
        raise MalformedError(
            "algorithm is not named as algorithms are: 1 to 64 of A-Z, a-z, 0-9, _, . and -, such as sha256"
        )
    length = DIGEST_BYTES.get(algorithm)
    if length is not None and len(value) != length:
        raise MalformedError(f"value has {len(value)} bytes; a {algorithm} digest has {length}")
    if not 0 < len(value) <= DIGEST_VALUE_BYTES_MAX:
        raise MalformedError(f"value has {len(value)} bytes, not 1 to {DIGEST_VALUE_BYTES_MAX}")
    return Term(algorithm, value)


def name_term(name: str) -> Term:
    """The term of an artifact's name, which for a release is the file name.

    Raises:
        MalformedError: no statement can have such a name.
    """
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise MalformedError(f"name is not 1 to {NAME_CHARS_MAX} printable characters")
    return Term(NAME, name.encode())


def purl_term(text: str) -> Term:
    """The term of a package URL in canonical spelling: of exactly that version, or without one of all versions.

    Raises:
        MalformedError: it is none, or in another spelling; the message has the canonical one.
    """
    canonical = canonical_purl(text)
    if text != canonical:
        raise MalformedError(f"package URL is not in its canonical spelling, which is {canonical}")
    return Term(PURL, text.encode())


def signer_term(spki: bytes) -> Term:
    """The term of the key that signed, given as SubjectPublicKeyInfo in DER.

    Raises:
        MalformedError, UnsupportedError: it is no key of a scheme known here.
    """
    return _signer_term(public_key_from_spki(spki).spki)
