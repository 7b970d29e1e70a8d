"""Queries: each form is read as one thing, asked for in one field, and anything else is a usage error."""

from __future__ import annotations

from hashlib import sha256

import pytest

from tests.unit.library.specimens import P256_PUBLISHER, PUBLISHER
from treehead.errors import UsageError
from treehead.lookup import Term, digest_term, name_term, purl_term, signer_term
from treehead.v1 import log_pb2
from treehead_client.query import parse_query

SHA256 = sha256(b"content").digest()


@pytest.mark.parametrize(
    ("text", "term", "request_"),
    [
        (
            f"sha256:{SHA256.hex()}",
            digest_term("sha256", SHA256),
            log_pb2.FindEntriesRequest(digest=log_pb2.Digest(algorithm="sha256", value=SHA256)),
        ),
        (
            "gitCommit:00ff",
            digest_term("gitCommit", b"\0\xff"),
            log_pb2.FindEntriesRequest(digest=log_pb2.Digest(algorithm="gitCommit", value=b"\0\xff")),
        ),
        (
            "dirHash:h1:a=",
            digest_term("dirHash", b"h1:a="),
            log_pb2.FindEntriesRequest(digest=log_pb2.Digest(algorithm="dirHash", value=b"h1:a=")),
        ),
        ("name:a b.whl", name_term("a b.whl"), log_pb2.FindEntriesRequest(name="a b.whl")),
        ("name:name:x", name_term("name:x"), log_pb2.FindEntriesRequest(name="name:x")),
        ("pkg:npm/%40a/b@1", purl_term("pkg:npm/%40a/b@1"), log_pb2.FindEntriesRequest(purl="pkg:npm/%40a/b@1")),
        ("pkg:pypi/x", purl_term("pkg:pypi/x"), log_pb2.FindEntriesRequest(purl="pkg:pypi/x")),
        (
            str(PUBLISHER.public),
            signer_term(PUBLISHER.public.spki),
            log_pb2.FindEntriesRequest(signer=PUBLISHER.public.spki),
        ),
        (
            str(P256_PUBLISHER.public),
            signer_term(P256_PUBLISHER.public.spki),
            log_pb2.FindEntriesRequest(signer=P256_PUBLISHER.public.spki),
        ),
    ],
)
def test_each_form_is_one_thing_to_look_for(text: str, term: Term, request_: log_pb2.FindEntriesRequest) -> None:
    query = parse_query(text)
    assert (query.text, query.term, query.request) == (text, term, request_)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected ALGORITHM:DIGEST"),
        ("sha256", "expected ALGORITHM:DIGEST"),
        (":", "expected ALGORITHM:DIGEST"),
        ("sha 1:00", "algorithm"),
        ("sha256:", "sha256 digest"),
        ("sha256:00", "sha256 digest"),
        (f"sha256:{SHA256.hex().upper()}", "lower-case"),
        (f"sha256:{'0' * 63}G", "sha256 digest"),
        ("sha1:", "sha1 digest"),
        ("sha1:AB", "lower-case"),
        ("name:", "name"),
        ("name:a\nb", "printable"),
        ("name:\ud800", "printable"),
        ("pkg:", "package URL"),
        ("pkg:pypi/Acme_Tool", "which is pkg:pypi/acme-tool"),
        ("ed25519:", "public key"),
        ("p256:AAAA", "public key"),
        ("rsa:AAAA", "public key"),
        ("x" * 100_000, "expected ALGORITHM:DIGEST"),
    ],
)
def test_what_cannot_be_looked_for_is_a_usage_error_that_says_why(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_query(text)
