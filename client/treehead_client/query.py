"""What a user asks a log for, in one argument: a digest, a name, a package URL or a signer's key.

ALGORITHM:DIGEST      such as sha256:9f86…; of other algorithms as statements spell it
name:NAME             the name of an artifact, which for a release is the file name
pkg:TYPE/NAME…        a package URL in canonical spelling; without a version it stands for all versions
ed25519:BASE64        or a key of another kind: the signer's public key, as trust.toml names it
"""

from __future__ import annotations

from dataclasses import dataclass

from treehead.display import NAME_CHARS_MAX
from treehead.errors import MalformedError, UnsupportedError, UsageError
from treehead.lookup import Term, digest_term, name_term, purl_term, signer_term
from treehead.publickey import RSA, Scheme, parse_public_key
from treehead.purl import PURL_START
from treehead.statement import parse_digest
from treehead.v1 import log_pb2

_NAME = "name"
_KEYS = frozenset({RSA, *(scheme.value for scheme in Scheme)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query: as the user wrote it, the term that each entry in the answer has to have, and how the log is asked."""

    text: str
    term: Term
    request: log_pb2.FindEntriesRequest


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        UsageError: it is none; the message says what is wrong.
    """
    try:
        return _parse(text)
    except (MalformedError, UnsupportedError) as exc:
        raise UsageError(f"cannot look for {text[:NAME_CHARS_MAX]!r}: {exc}") from exc


def _parse(text: str) -> Query:
    kind, colon, operand = text.partition(":")
    if not (kind and colon):
        raise MalformedError(
            "expected ALGORITHM:DIGEST such as sha256:…, name:FILE, a package URL (pkg:…) or a public key (ed25519:…)"
        )
    if text.startswith(PURL_START):
        return Query(text=text, term=purl_term(text), request=log_pb2.FindEntriesRequest(purl=text))
    if kind == _NAME:
        return Query(text=text, term=name_term(operand), request=log_pb2.FindEntriesRequest(name=operand))
    if kind in _KEYS:
        spki = parse_public_key(text).spki
        return Query(text=text, term=signer_term(spki), request=log_pb2.FindEntriesRequest(signer=spki))
    value = parse_digest(kind, operand, what=f"{kind} digest")
    term = digest_term(kind, value)
    digest = log_pb2.Digest(algorithm=kind, value=value)
    return Query(text=text, term=term, request=log_pb2.FindEntriesRequest(digest=digest))
