"""The Rekor v2 write face of a running log: what Sigstore's clients post, and what they get."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_log_http import ORIGIN, Log, served
from tests.unit.library.signers import sign
from tests.unit.library.specimens import OTHER_LOG, STRANGER
from tests.unit.logserver.rekor_requests import (
    MESSAGE,
    PAE,
    at,
    body,
    damaged,
    dsse_request,
    hashedrekord_request,
    leaf_of,
)
from treehead.checkpoint import open_checkpoint
from treehead.encoding import format_base64, parse_base64
from treehead.keys import NoteKeyType
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.publickey import Scheme
from treehead_logserver.config import Limits
from treehead_logserver.datadir import DataDirectory, create_log
from treehead_logserver.freeze import freeze_log
from treehead_logserver.kinds import ALL_KINDS, SIGNED_KINDS
from treehead_logserver.opening import opened_log
from treehead_logserver.rekor.request import BODY_BYTES_MAX
from treehead_logserver.rules import AdmissionRules

PATH = "/api/v2/log/entries"
SUCCESSOR = OTHER_LOG.verifier_key(name="log.example/next", key_type=NoteKeyType.ED25519)


async def post(log: Log, request: bytes) -> dict[str, Any]:
    response = await log.http.post(PATH, content=request)
    assert response.status_code == 201, response.text
    assert response.headers["content-type"] == "application/json"
    entry: dict[str, Any] = response.json()
    return entry


def check_proof(log: Log, entry: dict[str, Any], leaf: bytes) -> None:
    """The answer proves that the leaf is in the tree that its checkpoint is of."""
    proof = entry["inclusionProof"]
    checkpoint = open_checkpoint(proof["checkpoint"]["envelope"].encode(), key=log.vkey)
    assert parse_base64(entry["canonicalizedBody"], what="body") == leaf
    assert (int(proof["treeSize"]), parse_base64(proof["rootHash"], what="root")) == (checkpoint.size, checkpoint.root)
    assert int(proof["logIndex"]) == int(entry["logIndex"])
    verify_inclusion(
        index=int(entry["logIndex"]),
        size=checkpoint.size,
        leaf_hash=hash_leaf(leaf),
        proof=[parse_base64(hash_, what="hash") for hash_ in proof["hashes"]],
        root=checkpoint.root,
    )


@pytest.fixture
async def log(tmp_path: Path) -> Any:
    async with served(tmp_path / "log") as log:
        yield log


@pytest.mark.parametrize("certified", [False, True])
async def test_a_hashedrekord_is_logged_and_proven(log: Log, certified: bool) -> None:
    entry = await post(log, body(hashedrekord_request(certified=certified)))
    check_proof(log, entry, leaf_of(Scheme.P256, MESSAGE, certified=certified))
    assert entry["kindVersion"] == {"kind": "hashedrekord", "version": "0.0.2"}
    assert (entry["integratedTime"], entry["inclusionPromise"]) == ("0", None)


async def test_an_envelope_is_logged_as_the_hashedrekord_over_what_it_signs(log: Log) -> None:
    check_proof(log, await post(log, body(dsse_request())), leaf_of(Scheme.P256, PAE))


async def test_an_entry_again_gets_201_with_the_first_index_and_a_current_proof(log: Log) -> None:
    request = body(hashedrekord_request())
    first = await post(log, request)
    for number in range(5):
        await log.add(b"%d" % number)
    again = await post(log, request)
    assert again["logIndex"] == first["logIndex"] == "0"
    assert (first["inclusionProof"]["treeSize"], again["inclusionProof"]["treeSize"]) == ("1", "6")
    check_proof(log, again, leaf_of(Scheme.P256, MESSAGE))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"", "request"),
        (b"[]", "request"),
        (b"{}", "hashedRekordRequestV002"),
        (b'{"hashedRekordRequestV002": {}}', "hashedRekordRequestV002.digest"),
        (b'{"hashedRekordRequestV002": {"digest": "!"}}', "hashedRekordRequestV002.digest"),
        (
            b'{"hashedRekordRequestV002": {"digest": "AA==", "signature": {}, "surprise": 1}}',
            "hashedRekordRequestV002.surprise",
        ),
    ],
)
async def test_a_bad_request_gets_400_and_the_name_of_the_field(log: Log, request_: bytes, words: str) -> None:
    response = await log.http.post(PATH, content=request_)
    assert response.status_code == 400
    answer = response.json()
    assert (answer["code"], answer["details"]) == (3, [])
    assert words in answer["message"]


@pytest.mark.parametrize("kinds", [SIGNED_KINDS, ALL_KINDS], ids=["signed", "opaque_too"])
@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (hashedrekord_request(), "hashedRekordRequestV002.signature.content"),
        (dsse_request(), "dsseRequestV002.envelope.signatures[0].sig"),
    ],
)
async def test_a_signature_that_does_not_verify_is_refused_by_its_field_in_the_request(
    tmp_path: Path, kinds: frozenset[str], request_: dict[str, Any], field: str
) -> None:
    other = format_base64(sign(Scheme.P256, b"something else"))
    forged = damaged(request_, at(field.replace("[0]", ".0"), other))
    async with served(tmp_path / "log", kinds=kinds) as log:
        response = await log.http.post(PATH, content=forged)
        assert (response.status_code, response.json()["code"]) == (400, 3)
        assert response.json()["message"] == f"field {field}: the signature does not verify"
        assert (await log.checkpoint()).size == 0
        assert (await post(log, body(request_)))["logIndex"] == "0"


async def test_an_enum_by_its_number_makes_the_same_entry(log: Log) -> None:
    request = hashedrekord_request()
    numbered = damaged(request, at("hashedRekordRequestV002.signature.verifier.keyDetails", 5))
    first, again = await post(log, numbered), await post(log, body(request))
    check_proof(log, first, leaf_of(Scheme.P256, MESSAGE))
    assert again["logIndex"] == first["logIndex"]


@pytest.mark.parametrize("content", [b"", b"no request", b"x" * (BODY_BYTES_MAX + 1)], ids=["none", "bad", "too_large"])
@pytest.mark.parametrize("path", [PATH, "/add"])
async def test_a_frozen_log_says_so_whatever_is_sent(tmp_path: Path, path: str, content: bytes) -> None:
    directory = DataDirectory(path=tmp_path / "log")
    create_log(directory, origin=ORIGIN, passphrase=None)
    async with opened_log(directory, passphrase=None) as opened:
        await freeze_log(opened, successor=SUCCESSOR)
    async with served(tmp_path / "log") as log:
        response = await log.http.post(path, content=content)
        assert (response.status_code, response.headers["allow"]) == (405, "")
        assert SUCCESSOR.name in response.text
        face = "add" if path == "/add" else "rekor"
        refusals = f'treehead_log_submissions_total{{face="{face}",outcome="refused"}} 1.0'
        assert refusals in (await log.get("/metrics")).text


async def test_a_request_that_is_too_large_gets_413(log: Log) -> None:
    response = await log.http.post(PATH, content=b'{"' + b" " * 4_194_304)
    assert response.status_code == 413
    assert "4194304" in response.json()["message"]


async def test_large_bodies_that_do_not_end_have_a_bound_and_keep_out_no_small_ones(log: Log) -> None:
    unended = body(dsse_request())[:-1].ljust(BODY_BYTES_MAX - 1)
    fit = Limits().bodies_bytes_max // len(unended)
    async with contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(begun(log, unended)) for _ in range(fit + 1)]
        done, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        (refused,) = (task.result() for task in done)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refused
        assert b'"code":14,"message":"the log is busy: it reads ' in refused
        assert (await post(log, body(hashedrekord_request())))["logIndex"] == "0"
        assert await log.add(b"a" * 65_535) == 1
        assert sum(task.done() for task in held) == 1
    large = body(dsse_request()).ljust(BODY_BYTES_MAX)
    async with asyncio.timeout(30):
        while (response := await log.http.post(PATH, content=large)).status_code == 503:
            assert response.json()["code"] == 14
    assert response.status_code == 201


@contextlib.asynccontextmanager
async def begun(log: Log, sent: bytes) -> AsyncIterator[asyncio.Task[bytes]]:
    """A request of which the last byte is not sent; what comes back for it."""
    host, _, port = log.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST %b HTTP/1.1\r\nhost: log\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(sent) + 1))
    writer.write(sent)
    await writer.drain()
    answer = asyncio.create_task(reader.read(4_096))
    try:
        yield answer
    finally:
        answer.cancel()
        writer.transport.abort()


async def test_a_log_that_takes_no_hashedrekord_has_no_such_face(tmp_path: Path) -> None:
    async with served(tmp_path / "log", rules=AdmissionRules(kinds=frozenset({"attestation"}))) as log:
        assert (await log.http.post(PATH, content=body(hashedrekord_request()))).status_code == 404


async def test_what_a_rule_refuses_gets_403_and_the_name_of_the_rule(tmp_path: Path) -> None:
    async with served(tmp_path / "log", rules=AdmissionRules(signers=frozenset({STRANGER.public}))) as log:
        response = await log.http.post(PATH, content=body(hashedrekord_request()))
        assert response.status_code == 403
        assert (response.json()["code"], "rule admission.signers" in response.json()["message"]) == (7, True)


async def test_another_method_is_refused(log: Log) -> None:
    assert (await log.http.get(PATH)).status_code == 405


async def test_the_answer_is_one_json_object(log: Log) -> None:
    entry = await post(log, body(hashedrekord_request()))
    assert json.loads(json.dumps(entry)) == entry
    assert set(entry) == {
        "logIndex",
        "logId",
        "kindVersion",
        "integratedTime",
        "inclusionPromise",
        "inclusionProof",
        "canonicalizedBody",
    }
