"""log.toml at work: what its rules and rates refuse, over gRPC and HTTP, by name and with when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tests.integration.test_log_service import retry_delay_ms
from tests.processes import LogProcess, NotListeningError, create_log
from tests.unit.library.signers import CURVES, certificate, key_of, public_of, sign
from tests.unit.library.specimens import PUBLISHER, STRANGER, attestation_leaf, hashedrekord_leaf
from treehead.entry import hashedrekord
from treehead.publickey import Scheme, format_public_key
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS

RULES = f"""
[admission]
kinds = ["attestation", "opaque"]
entry_bytes_max = 2000

[[admission.owner]]
match = "pypi:acme-*"
signers = ["{format_public_key(PUBLISHER.public)}"]
"""


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield http


async def log_with(folder: Path, config: str, *arguments: str) -> LogProcess:
    await create_log(folder / "log", origin="log.example/admission")
    (folder / "log" / "log.toml").write_text(config)
    return LogProcess(folder / "log", *arguments)


async def refused(log: LogProcess, leaf: bytes) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(log.address, options=CHANNEL_OPTIONS) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await LogStub(channel).AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=30)
    return caught.value


async def add(log: LogProcess, leaf: bytes) -> int:
    async with grpc.aio.insecure_channel(log.address, options=CHANNEL_OPTIONS) as channel:
        answer = await LogStub(channel).AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=30)
        return answer.proof.leaf_index


async def test_a_rule_refuses_by_its_name_over_every_face(tmp_path: Path, http: httpx.AsyncClient) -> None:
    async with await log_with(tmp_path, RULES) as log:
        stranger = attestation_leaf(signer=STRANGER)
        error = await refused(log, stranger)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert 'rule admission.owner "pypi:acme-*"' in (error.details() or "")
        response = await http.post(f"{log.http}/add", content=stranger)
        assert (response.status_code, 'rule admission.owner "pypi:acme-*"' in response.text) == (403, True)
        response = await http.post(f"{log.http}/add", content=b"nobody signed this")
        assert (response.status_code, "rule admission.owner" in response.text) == (403, True)
        response = await http.post(f"{log.http}/add", content=b"x" * 2_001)
        assert (response.status_code, "rule admission.entry_bytes_max" in response.text) == (413, True)
        async with grpc.aio.insecure_channel(log.address, options=CHANNEL_OPTIONS) as channel:
            stub = LogStub(channel)
            answer = await stub.AddEntries(log_pb2.AddEntriesRequest(leaves=[stranger, attestation_leaf()]), timeout=30)
            assert "rule admission.owner" in answer.results[0].refused.reason
            assert answer.results[1].added.leaf_index == 0
            info = await stub.GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=30)
            assert (info.entry_bytes_max, sorted(info.kinds)) == (2_000, ["attestation/0.0.1", "opaque"])


async def test_an_option_comes_before_the_file(tmp_path: Path) -> None:
    async with await log_with(tmp_path, RULES, "--kind", "hashedrekord") as log:
        error = await refused(log, attestation_leaf())
        assert (error.code(), "rule admission.kinds" in (error.details() or "")) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )


async def test_another_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[admission]\nkinds = ['hashedrekord']\n")
    async with await log_with(tmp_path, RULES, "--config", str(tmp_path / "other.toml")) as log:
        assert await add(log, hashedrekord_leaf()) == 0


async def test_an_address_that_sends_too_much_is_told_when_to_come_again(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    config = '[admission]\nkinds = ["opaque"]\n[admission.rates]\naddress = "3/h"\n'
    async with await log_with(tmp_path, config) as log:
        for number in range(3):
            assert (await http.post(f"{log.http}/add", content=b"%d" % number)).status_code == 200
        response = await http.post(f"{log.http}/add", content=b"3")
        assert response.status_code == 429
        assert 1_000 < int(response.headers["retry-after"]) <= 1_200
        assert "rule admission.rates.address: more than 3/h from 127.0.0.1" in response.text
        error = await refused(log, b"4")
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_delay_ms(error) > 1_000_000
        assert (await http.get(f"{log.http}/checkpoint")).status_code == 200


async def test_a_signer_has_a_quota_that_others_cannot_use_up(tmp_path: Path) -> None:
    config = '[admission.rates]\nsigner = "2/h"\n'
    async with await log_with(tmp_path, config) as log:
        forged = hashedrekord_leaf(b"1").replace(b'"content":"', b'"content":"AAAA')
        for _ in range(3):
            assert (await refused(log, forged)).code() is grpc.StatusCode.INVALID_ARGUMENT
        for number in range(2):
            assert await add(log, hashedrekord_leaf(b"%d" % number)) == number
        error = await refused(log, hashedrekord_leaf(b"2"))
        assert "rule admission.rates.signer" in (error.details() or "")
        assert await add(log, hashedrekord_leaf(b"1")) == 1
        assert await add(log, attestation_leaf()) == 2


async def test_a_stranger_neither_gets_past_the_list_of_signers_nor_uses_up_their_rate(tmp_path: Path) -> None:
    """All that a stranger has is what the log shows everyone: an entry, with a key and a signature in it."""
    scheme = Scheme.P256

    def rekord(content: bytes, *, certified_by: bytes | None = None) -> bytes:
        signature, signer = sign(scheme, content), public_of(scheme)
        digest = sha256(content).digest()
        return hashedrekord.format_leaf(digest=digest, signature=signature, signer=signer, certificate=certified_by)

    config = f'[admission]\nsigners = ["{format_public_key(public_of(scheme))}"]\n[admission.rates]\nsigner = "2/h"\n'
    async with await log_with(tmp_path, config) as log:
        leaf = rekord(b"first")
        added = await asyncio.gather(*(add(log, leaf) for _ in range(10)))
        assert added == [0] * 10
        for serial in range(1, 4):
            error = await refused(log, rekord(b"first", certified_by=certificate(key_of(scheme), serial=serial)))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "rule admission.signers" in (error.details() or "")
        r, s = decode_dss_signature(sign(scheme, b"first"))
        twin = encode_dss_signature(r, CURVES[scheme].group_order - s)
        digest = sha256(b"first").digest()
        assert await add(log, hashedrekord.format_leaf(digest=digest, signature=twin, signer=public_of(scheme))) == 1
        assert await add(log, rekord(b"second")) == 2
        assert "rule admission.rates.signer" in ((await refused(log, rekord(b"third"))).details() or "")


async def test_requests_of_any_kind_have_a_rate_over_both_faces(tmp_path: Path, http: httpx.AsyncClient) -> None:
    async with await log_with(tmp_path, '[admission.rates]\nrequests = "4/h"\n') as log:
        for path in ("healthz", "metrics", "healthz", "metrics"):  # not counted: they are needed most in a flood
            assert (await http.get(f"{log.http}/{path}")).status_code == 200
        for path in ("checkpoint", "freeze", "tile/0/000"):
            assert (await http.get(f"{log.http}/{path}")).status_code != 429
        assert await add(log, attestation_leaf()) == 0
        response = await http.get(f"{log.http}/checkpoint")
        assert (response.status_code, "rule admission.rates.requests" in response.text) == (429, True)
        assert (await refused(log, attestation_leaf())).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("config", "words"),
    [("surprise = 1", "surprise"), ("[witnesses]\npolicy = 'absent'\nfail = 'closed'", "absent")],
)
async def test_a_file_that_is_not_understood_starts_nothing(tmp_path: Path, config: str, words: str) -> None:
    log = await log_with(tmp_path, config)
    with pytest.raises(NotListeningError) as caught:
        await log.start()
    assert caught.value.exit_code == 2
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)
