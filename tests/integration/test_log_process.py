"""treehead-log as its operator meets it: commands, exit codes, and what start, stop and a second server look like."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contracts.version_1 import create_version_1
from tests.processes import Finished, LogProcess, ServerProcess, create_log, run_module
from tests.unit.library.specimens import P256_PUBLISHER, hashedrekord_leaf
from treehead.checkpoint import open_checkpoint
from treehead.keys import parse_vkey
from treehead.privatekey import parse_private_key
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead_logserver.highwater import read_mark
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Term

ORIGIN = "log.example/process"
DEADLINE_SECONDS = 30


async def treehead_log(*arguments: str | Path, **environment: str) -> Finished:
    return await run_module("treehead_logserver", *arguments, environment=environment)


def complaint(finished: Finished, *, exit_code: int) -> str:
    """The one line that a command which failed has to say."""
    assert finished.exit_code == exit_code, finished
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    return finished.stderr.strip()


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    await create_log(folder, origin=ORIGIN)
    return folder


@pytest.fixture
async def log(data: Path) -> AsyncIterator[LogProcess]:
    async with LogProcess(data) as log:
        yield log


async def add(address: str, *leaves: bytes) -> list[log_pb2.AddEntryResponse]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = LogStub(channel)
        requests = [log_pb2.AddEntryRequest(leaf=leaf) for leaf in leaves]
        return list(await asyncio.gather(*(stub.AddEntry(request, timeout=DEADLINE_SECONDS) for request in requests)))


# --- init and vkey ---------------------------------------------------------------------------------------------------


async def test_init_prints_the_vkey_alone_and_vkey_prints_it_again(tmp_path: Path) -> None:
    made = await treehead_log("init", "--data", tmp_path / "log", "--origin", ORIGIN)
    assert (made.exit_code, made.stderr) == (0, "")
    assert parse_vkey(made.stdout.removesuffix("\n")).name == ORIGIN
    shown = await treehead_log("vkey", "--data", tmp_path / "log")
    assert shown == made


async def test_init_refuses_a_log_that_is_there(data: Path) -> None:
    refused = await treehead_log("init", "--data", data, "--origin", ORIGIN)
    assert complaint(refused, exit_code=2) == f"treehead-log: {data} holds a log already; it was not touched"


async def test_init_refuses_an_origin_with_a_space(tmp_path: Path) -> None:
    refused = await treehead_log("init", "--data", tmp_path / "log", "--origin", "log example")
    assert "--origin" in complaint(refused, exit_code=2)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("command", [["vkey"], ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]])
async def test_a_directory_without_a_log_is_a_mistake_of_the_caller(tmp_path: Path, command: list[str]) -> None:
    refused = await treehead_log(command[0], "--data", tmp_path / "none", *command[1:])
    assert f"{tmp_path / 'none'} holds no log" in complaint(refused, exit_code=2)


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["init", "--data", "x"], ["nonsense"], ["serve", "--data", "x", "--grpc"]]
)
async def test_a_command_line_that_makes_no_sense_is_exit_code_2(arguments: list[str]) -> None:
    refused = await treehead_log(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "usage: treehead-log" in refused.stderr


async def test_the_version_is_told() -> None:
    told = await treehead_log("--version")
    assert told.exit_code == 0
    assert told.stdout.startswith("treehead-log ")


async def test_help_lists_the_exit_codes() -> None:
    told = await treehead_log("--help")
    assert [line.split()[0] for line in told.stdout.partition("exit codes:\n")[2].splitlines()] == ["0", "1", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
async def test_a_result_that_cannot_be_written_is_a_failure_in_one_line(data: Path) -> None:
    command = f'"{sys.executable}" -m treehead_logserver vkey --data "{data}" >/dev/full'
    done = await asyncio.create_subprocess_shell(command, stderr=asyncio.subprocess.PIPE)
    _, complaint = await asyncio.wait_for(done.communicate(), 30)
    assert (done.returncode, complaint.count(b"\n")) == (1, 1)
    assert b"cannot write the result" in complaint


@pytest.mark.parametrize(("module", "extra"), [("treehead_logserver", "log"), ("treehead_monitor", "monitor")])
async def test_without_the_extra_the_command_says_which_one_it_needs(tmp_path: Path, module: str, extra: str) -> None:
    (tmp_path / "aiosqlite.py").write_text("raise ModuleNotFoundError(name='aiosqlite')")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    make = ("init", "--data", tmp_path / "data", "--origin" if extra == "log" else "--name", "example.org")
    refused = await run_module(module, *make, environment={"PYTHONPATH": path})
    assert f"install treehead[{extra}]" in complaint(refused, exit_code=2)


# --- serve -----------------------------------------------------------------------------------------------------------


async def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    (tmp_path / "passphrase").touch(mode=0o600)
    (tmp_path / "passphrase").write_text("secret\n")
    data, option = tmp_path / "log", ("--passphrase-file", tmp_path / "passphrase")
    made = await treehead_log("init", "--data", data, "--origin", ORIGIN, *option)
    assert made.exit_code == 0
    async with LogProcess(data, *option) as log:
        await add(log.address, hashedrekord_leaf())
        assert "secret" not in log.stderr
    async with LogProcess(data, environment={"TREEHEAD_PASSPHRASE": "secret"}):
        pass
    without = await treehead_log("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert "passphrase" in complaint(without, exit_code=2)
    wrong = await treehead_log(
        "serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", TREEHEAD_PASSPHRASE="wrong"
    )
    assert "passphrase" in complaint(wrong, exit_code=2)
    assert (await treehead_log("vkey", "--data", data)).stdout == made.stdout


async def test_a_key_that_others_can_read_is_not_used(data: Path) -> None:
    (data / "key.pem").chmod(0o640)
    refused = await treehead_log("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert "chmod 600" in complaint(refused, exit_code=2)


async def test_an_address_that_others_reach_needs_insecure(data: Path) -> None:
    refused = await treehead_log("serve", "--data", data, "--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0")
    assert "--insecure" in complaint(refused, exit_code=2)


async def test_a_second_server_on_the_same_data_is_refused(log: LogProcess) -> None:
    second = await treehead_log("serve", "--data", log.data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert "in use by another process" in complaint(second, exit_code=1)
    assert (await add(log.address, hashedrekord_leaf()))[0].proof.leaf_index == 0


async def test_a_second_server_on_the_same_port_is_refused(log: LogProcess, tmp_path: Path) -> None:
    await create_log(tmp_path / "second", origin=ORIGIN)
    second = await treehead_log("serve", "--data", tmp_path / "second", "--grpc", log.address, "--http", "127.0.0.1:0")
    (last,) = [line for line in complaint(second, exit_code=1).splitlines() if line.startswith("treehead-log: ")]
    assert f"cannot listen on {log.address}" in last
    assert (await add(log.address, hashedrekord_leaf()))[0].proof.leaf_index == 0


async def test_a_damaged_log_is_not_served(data: Path) -> None:
    (data / "log.sqlite").write_bytes(b"no database at all" * 1_000)
    refused = await treehead_log("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert "log.sqlite" in complaint(refused, exit_code=1)


async def test_another_logs_key_is_not_used(data: Path, tmp_path: Path) -> None:
    await create_log(tmp_path / "other", origin=ORIGIN)
    (tmp_path / "other" / "key.pem").replace(data / "key.pem")
    refused = await treehead_log("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert "is not the key that" in complaint(refused, exit_code=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_log_with_exit_code_0(log: LogProcess, number: signal.Signals) -> None:
    assert await log.signal(number) == 0
    assert "Traceback" not in log.stderr
    assert not list(log.data.glob("log.sqlite-*")), "the database was not closed"


async def test_a_stopping_log_answers_what_it_took_and_ends_its_watches(log: LogProcess) -> None:
    leaves = [hashedrekord_leaf(b"%d" % number) for number in range(200)]
    async with grpc.aio.insecure_channel(log.address) as channel:
        stub = LogStub(channel)
        watch = stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest(), timeout=DEADLINE_SECONDS)
        sizes = aiter(watch)
        await anext(sizes)
        calls = [
            asyncio.ensure_future(stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=DEADLINE_SECONDS))
            for leaf in leaves
        ]
        await anext(sizes)  # commits are under way
        exit_code = await log.stop()
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            async for _ in sizes:
                pass
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert exit_code == 0
    answered = {
        outcome.proof.leaf_index: leaf
        for leaf, outcome in zip(leaves, outcomes, strict=True)
        if isinstance(outcome, log_pb2.AddEntryResponse)
    }
    assert answered
    # Calls that had arrived, but that the log had not begun, are cancelled by gRPC itself.
    codes = {outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)}
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    async with log:
        again = await add(log.address, *answered.values())
        assert {response.proof.leaf_index for response in again} == set(answered)
        assert all(response.duplicate for response in again)


async def test_health_says_not_serving_while_the_log_stops(log: LogProcess) -> None:
    async with grpc.aio.insecure_channel(log.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        statuses = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="treehead.v1.Log"), timeout=DEADLINE_SECONDS))
        assert (await anext(statuses)).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(log.stop())
        assert (await anext(statuses)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await channel.close()
        assert await stopping == 0


async def test_a_log_says_at_start_what_it_serves_and_with_which_sqlite(log: LogProcess) -> None:
    (response,) = await add(log.address, hashedrekord_leaf())
    vkey = parse_vkey((await treehead_log("vkey", "--data", log.data)).stdout.strip())
    assert open_checkpoint(response.proof.checkpoint, key=vkey).size == 1
    await log.stop()
    assert f"log {ORIGIN} is of size 0 (SQLite 3." in log.stderr


# --- the high-water mark and earlier versions ------------------------------------------------------------------------


async def test_a_database_that_was_put_back_is_not_served(data: Path, tmp_path: Path) -> None:
    leaves = [hashedrekord_leaf(b"%d" % number) for number in range(4)]
    async with LogProcess(data) as log:
        await add(log.address, *leaves[:2])
        assert await log.stop() == 0
    shutil.copy(data / "log.sqlite", tmp_path / "older")
    async with LogProcess(data) as log:
        await add(log.address, *leaves[2:])
        assert await log.stop() == 0
    shutil.copy(data / "log.sqlite", tmp_path / "newer")

    shutil.copy(tmp_path / "older", data / "log.sqlite")
    refused = await treehead_log("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    said = complaint(refused, exit_code=1).splitlines()[-1]
    assert "has 2 entries, but this log has signed a tree of 4" in said
    assert said.endswith(f"treehead-log recover --data {data} says what to do")

    shutil.copy(tmp_path / "newer", data / "log.sqlite")
    async with LogProcess(data) as log:
        assert [response.duplicate for response in await add(log.address, *leaves)] == [True] * 4


async def test_a_log_without_its_mark_is_not_served(data: Path) -> None:
    (data / "high-water").unlink()
    refused = await treehead_log("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    said = complaint(refused, exit_code=1).splitlines()[-1]
    assert f"there is no high-water mark {data / 'high-water'}" in said
    assert said.endswith(f"treehead-log recover --data {data} says what to do")
    assert not (data / "high-water").exists()


async def test_a_log_of_version_1_is_served_and_has_a_mark_from_then_on(data: Path) -> None:
    key = parse_private_key((data / "key.pem").read_bytes(), passphrase=None)
    leaves = [hashedrekord_leaf(b"%d" % number) for number in range(300)]
    for path in (data / "log.sqlite", data / "high-water"):
        path.unlink()
    terms = [Term("sha256", sha256(b"%d" % number).digest()) for number in range(300)]
    create_version_1(
        data / "log.sqlite",
        signer=Signer(key=key, origin=ORIGIN),
        entries=[(leaf, [term]) for leaf, term in zip(leaves, terms, strict=True)],
    )
    for _ in range(2):
        async with LogProcess(data) as log:
            (response,) = await add(log.address, leaves[217])
            assert (response.proof.leaf_index, response.duplicate) == (217, True)
            async with grpc.aio.insecure_channel(log.address) as channel:
                request = log_pb2.FindEntriesRequest(digest=log_pb2.Digest(algorithm="sha256", value=terms[5].value))
                by_digest = await LogStub(channel).FindEntries(request, timeout=DEADLINE_SECONDS)
                request = log_pb2.FindEntriesRequest(signer=P256_PUBLISHER.public.spki, first_index=280)
                by_signer = await LogStub(channel).FindEntries(request, timeout=DEADLINE_SECONDS)
            assert [entry.leaf_index for entry in by_digest.entries] == [5]
            assert [entry.leaf_index for entry in by_signer.entries] == list(range(280, 300))
            assert await log.stop() == 0
    assert read_mark(data / "high-water", vkey=parse_vkey((data / "vkey").read_text().strip())).size == 300


# --- kinds -----------------------------------------------------------------------------------------------------------


async def test_a_log_takes_the_kinds_that_are_switched_on(data: Path) -> None:
    async def info(address: str) -> list[str]:
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await LogStub(channel).GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=DEADLINE_SECONDS)
            return list(answer.kinds)

    async with LogProcess(data) as log:
        assert await info(log.address) == ["attestation/0.0.1", "hashedrekord/0.0.2"]
        with pytest.raises(grpc.aio.AioRpcError, match="leaf: entry is not JSON"):
            await add(log.address, b"any bytes")
    async with LogProcess(data, "--kind", "attestation") as log:
        assert await info(log.address) == ["attestation/0.0.1"]
        with pytest.raises(grpc.aio.AioRpcError, match="does not take hashedrekord"):
            await add(log.address, hashedrekord_leaf())
    async with LogProcess(data, "--kind", "opaque") as log:
        assert await info(log.address) == ["opaque"]
        first, again = await add(log.address, b"any bytes", hashedrekord_leaf())
        assert {first.proof.leaf_index, again.proof.leaf_index} == {0, 1}


async def test_a_kind_that_is_not_known_is_refused(data: Path) -> None:
    refused = await treehead_log(
        "serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--kind", "opake"
    )
    assert refused.exit_code == 2
    assert "argument --kind: invalid choice: 'opake'" in refused.stderr


@pytest.mark.parametrize("option", ["--passphrase=secret", "--passphrase-f=secret"])
async def test_an_option_is_not_abbreviated_so_that_no_secret_is_taken_for_a_file(data: Path, option: str) -> None:
    refused = await treehead_log("serve", "--data", data, option)
    assert refused.exit_code == 2
    assert "unrecognized arguments" in refused.stderr


async def test_a_publication_of_unknown_outcome_ends_the_process_with_a_sentence_and_exit_code_1(data: Path) -> None:
    where = ("--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    async with ServerProcess("tests.integration.failing_server", "serve", *where) as log:
        await add(log.address, hashedrekord_leaf())
        assert await log.wait() == 1
        assert "treehead-log: the commit failed (as it was told to), and its outcome is unknown" in log.stderr
        assert "Traceback" not in log.stderr
