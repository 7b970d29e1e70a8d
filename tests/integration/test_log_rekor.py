"""The Rekor v2 write face of a running log: what Sigstore's clients post, and what they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_log_http import Log, served
from tests.unit.library.specimens import STRANGER
from tests.unit.logserver.rekor_requests import MESSAGE, PAE, body, dsse_request, hashedrekord_request, leaf_of
from treehead.checkpoint import open_checkpoint
from treehead.encoding import parse_base64
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.publickey import Scheme
from treehead_logserver.rules import AdmissionRules

PATH = "/api/v2/log/entries"


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


async def test_a_signature_that_does_not_verify_gets_400_and_is_not_logged(log: Log) -> None:
    request = hashedrekord_request()
    other = hashedrekord_request(Scheme.P384)
    request["hashedRekordRequestV002"]["signature"]["content"] = other["hashedRekordRequestV002"]["signature"][
        "content"
    ]
    response = await log.http.post(PATH, content=body(request))
    assert response.status_code == 400
    assert "signature.content" in response.json()["message"]
    assert await log.add(b"next") == 0


async def test_a_request_that_is_too_large_gets_413(log: Log) -> None:
    response = await log.http.post(PATH, content=b'{"' + b" " * 4_194_304)
    assert response.status_code == 413
    assert "4194304" in response.json()["message"]


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
