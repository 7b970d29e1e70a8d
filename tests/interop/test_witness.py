"""litewitness cosigns our log's checkpoints, and they are published with that or, failing closed, not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from tests.interop.entries import HASTY, mixed_leaves, publish
from tests.interop.litewitness import NAME, Litewitness, running_litewitness
from tests.interop.programs import run
from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import WITNESS_KEYS
from treehead.checkpoint import open_checkpoint
from treehead.cosignature import verify_cosignature
from treehead.keys import VerifierKey, format_vkey, parse_vkey
from treehead.note import parse_note
from treehead.policy import parse_policy
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS
from treehead_logserver.app import running_log
from treehead_logserver.config import Limits, ServeConfig
from treehead_logserver.configfile import Witnessing

ORIGIN = "log.example/witnessed"
DEADLINE_SECONDS = 30
CLOCK_SECONDS_MAX = 120
"""How far the witness's time may be from ours; both are of one machine, which may be busy."""
SIZES = (1, 2, 255, 256, 600)


@pytest.fixture
async def witness(litewitness: Path) -> AsyncIterator[Litewitness]:
    """A witness that knows no log yet."""
    with tempfile.TemporaryDirectory(prefix="lite-") as folder:
        async with running_litewitness(litewitness, Path(folder)) as witness:
            yield witness


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_SECONDS) as client:
        yield client


def check_cosigned(checkpoint: bytes, *, log: VerifierKey, witness: VerifierKey) -> int:
    """The size of a checkpoint that both have signed, the witness just now."""
    size = open_checkpoint(checkpoint, key=log).size
    assert abs(verify_cosignature(parse_note(checkpoint), key=witness) - time.time()) < CLOCK_SECONDS_MAX
    return size


async def witnessing(address: str) -> log_pb2.Witnessing:
    """How the log says that it stands with its witnesses."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        info = await LogStub(channel).GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=DEADLINE_SECONDS)
        return info.witnessing


async def becomes(client: httpx.AsyncClient, url: str, status: int) -> httpx.Response:
    """The answer of a URL, once it has this status."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            response = await client.get(url)
            if response.status_code == status:
                return response


async def test_litewitness_cosigns_every_growth_over_a_restart_of_the_log(
    witness: Litewitness, reader: Path, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    log = parse_vkey(await create_log(tmp_path / "log", origin=ORIGIN))
    witness.learn(log)
    (tmp_path / "log" / "witnesses.policy").write_text(witness.policy)
    (tmp_path / "log" / "log.toml").write_text(f'[witnesses]\npolicy = "witnesses.policy"\nfail = "closed"\n{HASTY}')
    leaves, before, earlier = mixed_leaves(SIZES[-1]), 0, tmp_path / "earlier"
    process = LogProcess(tmp_path / "log")
    for sizes in (SIZES[:3], SIZES[3:]):
        async with process:
            for size in sizes:
                answered = await publish(process.address, leaves[before:size])
                assert check_cosigned(answered, log=log, witness=witness.vkey) == size
                shown = (await http.get(f"{process.http}/checkpoint")).content
                assert check_cosigned(shown, log=log, witness=witness.vkey) == size
                assert witness.remembered_size(log) == size
                before = size
            # The notes of golang.org/x/mod, and the cosignatures of transparency-dev/formats.
            asked: list[str | Path] = ["-url", process.http, "-vkey", format_vkey(log), "-witness"]
            since = ("-earlier", earlier) if earlier.exists() else ()
            read = await run(reader, *asked, format_vkey(witness.vkey), *since)
            assert read.exit_code == 0, read.stderr
            told = json.loads(read.stdout)
            assert told["size"] == told["entries"] == before
            assert [line["name"] for line in told["cosignatures"]] == [NAME]
            assert told["consistent_from"] == (SIZES[2] if since else 0)
            assert (await run(reader, *asked, format_vkey(WITNESS_KEYS["w1"]))).exit_code == 1
            earlier.write_bytes((await http.get(f"{process.http}/checkpoint")).content)
            assert await process.stop() == 0


@contextlib.asynccontextmanager
async def _serving(folder: Path, witness: Litewitness) -> AsyncIterator[tuple[str, str]]:
    """The log in a folder, in this process so that it can be told to be impatient; where it listens."""
    config = ServeConfig(
        data=folder,
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        witnessing=Witnessing(policy=parse_policy(witness.policy.encode()), fail_open=False),
        limits=Limits(publish_ms=100, stall_ms=200),
    )
    async with running_log(config) as running:
        yield running.grpc, f"http://{running.http}"


async def test_without_litewitness_entries_are_logged_and_none_published_until_it_is_back(
    witness: Litewitness, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    log = parse_vkey(await create_log(tmp_path / "log", origin=ORIGIN))
    witness.learn(log)
    async with _serving(tmp_path / "log", witness) as (grpc_address, http_url):
        await becomes(http, f"{http_url}/healthz", 200)
        await publish(grpc_address, mixed_leaves(3))
        await witness.stop()

        async with grpc.aio.insecure_channel(grpc_address, options=CHANNEL_OPTIONS) as channel:
            for number, leaf in enumerate(mixed_leaves(10)[3:], 3):
                request = log_pb2.AddEntryRequest(leaf=leaf)
                added = await LogStub(channel).AddEntry(request, timeout=DEADLINE_SECONDS)
                assert added.proof.leaf_index == number

        problems = (await becomes(http, f"{http_url}/healthz", 503)).json()["problems"]
        assert any("no checkpoint has been published" in problem for problem in problems), problems
        state = await witnessing(grpc_address)
        assert "is not published" in state.problem
        assert "witness lite" in state.problem
        assert state.published_size == 3
        shown = (await http.get(f"{http_url}/checkpoint")).content
        assert check_cosigned(shown, log=log, witness=witness.vkey) == 3

        await witness.start()
        assert check_cosigned(await publish(grpc_address, mixed_leaves(11)[10:]), log=log, witness=witness.vkey) == 11

        await becomes(http, f"{http_url}/healthz", 200)
        state = await witnessing(grpc_address)
        assert (state.quorum_met, state.problem, state.published_size) == (True, "", 11)


async def test_nothing_is_published_before_litewitness_knows_the_log(
    witness: Litewitness, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    log = parse_vkey(await create_log(tmp_path / "log", origin=ORIGIN))
    async with _serving(tmp_path / "log", witness) as (grpc_address, http_url):
        problems = (await becomes(http, f"{http_url}/healthz", 503)).json()["problems"]
        assert any("unknown log" in problem for problem in problems), problems
        state = await witnessing(grpc_address)
        assert (state.quorum_met, state.published_size) == (False, 0)
        assert "answers 403 (it says: unknown log)" in state.problem
        assert (await http.get(f"{http_url}/checkpoint")).status_code == 503
        witness.learn(log)
        assert check_cosigned(await publish(grpc_address, mixed_leaves(2)), log=log, witness=witness.vkey) == 2
