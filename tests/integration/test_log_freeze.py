"""A frozen log: what it signs last and still answers, and that every face refuses entries and names the successor."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from tests.processes import Finished, LogProcess, create_log, run_module
from tests.unit.library.specimens import OTHER_LOG, WITNESS_KEYS
from tests.unit.logserver.rekor_requests import body, hashedrekord_request
from treehead.checkpoint import open_checkpoint
from treehead.keys import NoteKeyType, format_vkey, parse_vkey
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS

ORIGIN = "log.example/2026"
DEADLINE_SECONDS = 60
SUCCESSOR = OTHER_LOG.verifier_key(name="log.example/2027", key_type=NoteKeyType.ED25519)


async def freeze(data: Path, successor: str = format_vkey(SUCCESSOR)) -> Finished:
    return await run_module("treehead_logserver", "freeze", "--data", data, "--successor", successor)


@pytest.fixture
async def frozen(tmp_path: Path) -> AsyncIterator[LogProcess]:
    """A log of two entries, frozen, and started again."""
    data = tmp_path / "log"
    await create_log(data, origin=ORIGIN)
    kinds = ("--kind", "opaque", "--kind", "hashedrekord")
    async with LogProcess(data, *kinds) as log, httpx.AsyncClient(trust_env=False) as http:
        for leaf in (b"a", b"b"):
            assert (await http.post(f"{log.http}/add", content=leaf)).status_code == 200
        await log.stop()
        finished = await freeze(data)
        assert finished.exit_code == 0, finished.stderr
        (tmp_path / "note").write_text(finished.stdout)
        await log.start()
        yield log


async def test_the_last_word_is_the_last_checkpoint_with_the_successor(frozen: LogProcess, tmp_path: Path) -> None:
    vkey = parse_vkey((frozen.data / "vkey").read_text().strip())
    note = (tmp_path / "note").read_bytes()
    last = open_checkpoint(note, key=vkey)
    assert (last.origin, last.size) == (ORIGIN, 2)
    assert last.extensions == ("frozen", f"successor {format_vkey(SUCCESSOR)}")
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(f"{frozen.http}/freeze")
        assert (response.status_code, response.content) == (200, note)
        shown = open_checkpoint((await http.get(f"{frozen.http}/checkpoint")).content, key=vkey)
        assert (shown.size, shown.root, shown.extensions) == (last.size, last.root, ())
        assert "treehead_log_frozen 1.0" in (await http.get(f"{frozen.http}/metrics")).text
    async with grpc.aio.insecure_channel(frozen.address, options=CHANNEL_OPTIONS) as channel:
        assert (await LogStub(channel).GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=DEADLINE_SECONDS)).freeze == note


async def test_every_face_refuses_entries_and_names_the_successor(frozen: LogProcess) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for path, content in (("/add", b"c"), ("/add", b"a"), ("/api/v2/log/entries", body(hashedrekord_request()))):
            response = await http.post(f"{frozen.http}{path}", content=content)
            assert (response.status_code, response.headers["allow"]) == (405, "")
            assert format_vkey(SUCCESSOR) in response.text
    async with grpc.aio.insecure_channel(frozen.address, options=CHANNEL_OPTIONS) as channel:
        stub = LogStub(channel)
        for call in (
            stub.AddEntry(log_pb2.AddEntryRequest(leaf=b"c"), timeout=DEADLINE_SECONDS),
            stub.AddEntries(log_pb2.AddEntriesRequest(leaves=[b"c"]), timeout=DEADLINE_SECONDS),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert format_vkey(SUCCESSOR) in (caught.value.details() or "")


async def test_what_was_logged_is_still_read_and_proven(frozen: LogProcess) -> None:
    async with grpc.aio.insecure_channel(frozen.address, options=CHANNEL_OPTIONS) as channel:
        stub = LogStub(channel)
        answer = await stub.GetInclusionProof(log_pb2.GetInclusionProofRequest(leaf_index=1), timeout=DEADLINE_SECONDS)
        assert answer.tree_size == 2
        entries = stub.GetEntries(log_pb2.GetEntriesRequest(), timeout=DEADLINE_SECONDS)
        (message,) = [message async for message in entries]
        assert list(message.leaves) == [b"a", b"b"]


async def test_a_log_is_frozen_once(frozen: LogProcess) -> None:
    await frozen.stop()
    again = await freeze(frozen.data)
    assert again.exit_code == 2
    assert "frozen at 2 entries" in again.stderr
    assert format_vkey(SUCCESSOR) in again.stderr


async def test_a_backup_from_before_does_not_undo_the_end(tmp_path: Path) -> None:
    data = tmp_path / "log"
    await create_log(data, origin=ORIGIN)
    async with LogProcess(data, "--kind", "opaque") as log, httpx.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{log.http}/add", content=b"a")).status_code == 200
        backup = await run_module("treehead_logserver", "backup", "--data", data, "--to", tmp_path / "copy")
        assert backup.exit_code == 0, backup.stderr
        await log.stop()
        finished = await freeze(data)
        shutil.copy(tmp_path / "copy", data / "log.sqlite")
        fsck = await run_module("treehead_logserver", "fsck", "--data", data)
        assert (fsck.exit_code, "freeze note: is missing" in fsck.stdout) == (1, True), fsck
        recover = await run_module("treehead_logserver", "recover", "--data", data)
        assert (recover.exit_code, "the log is frozen as before" in recover.stdout) == (0, True), recover
        await log.start()
        assert (await http.get(f"{log.http}/freeze")).text == finished.stdout
        assert (await http.post(f"{log.http}/add", content=b"b")).status_code == 405
        await log.says("a copy from before that")
        await log.stop()
        assert (await run_module("treehead_logserver", "fsck", "--data", data)).exit_code == 0


KILLED = """
import os, signal, sys
from treehead_logserver.highwater import HighWaterMark
from treehead_logserver.cli import main
from treehead_logserver.storage.sqlite import SqliteStorage
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "mark":
    HighWaterMark.freeze = kill
else:
    SqliteStorage._freeze = kill
main()
"""


@pytest.mark.parametrize(("at", "is_frozen"), [("database", False), ("mark", True)])
async def test_a_freeze_that_is_killed_has_frozen_the_log_as_soon_as_the_database_says_so(
    tmp_path: Path, at: str, is_frozen: bool
) -> None:
    data = tmp_path / "log"
    await create_log(data, origin=ORIGIN)
    arguments = ("freeze", "--data", data, "--successor", format_vkey(SUCCESSOR))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, at, *arguments, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        stdout, _ = await process.communicate()
    assert (process.returncode, stdout) == (-signal.SIGKILL, b""), "nobody was shown anything"
    shutil.copy(data / "high-water", tmp_path / "before")
    async with LogProcess(data, "--kind", "opaque") as log, httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{log.http}/freeze")).status_code == (200 if is_frozen else 404)
        assert (await http.post(f"{log.http}/add", content=b"a")).status_code == (405 if is_frozen else 200)
    assert (b"\nfrozen\n" in (data / "high-water").read_bytes()) == is_frozen
    assert b"\nfrozen\n" not in (tmp_path / "before").read_bytes()
    again = await freeze(data)
    assert (again.exit_code, "frozen at 0 entries" in again.stderr) == ((2, True) if is_frozen else (0, False))


async def test_a_log_that_runs_is_not_frozen(frozen: LogProcess) -> None:
    refused = await freeze(frozen.data)
    assert refused.exit_code == 1
    assert "in use by another process" in refused.stderr


@pytest.mark.parametrize(
    ("successor", "words"),
    [
        ("nonsense", "--successor"),
        (format_vkey(WITNESS_KEYS["w1"]), "cannot be a log's"),
        (format_vkey(OTHER_LOG.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519)), "succeed itself"),
    ],
)
async def test_a_successor_that_cannot_be_one_is_refused(tmp_path: Path, successor: str, words: str) -> None:
    await create_log(tmp_path / "log", origin=ORIGIN)
    refused = await freeze(tmp_path / "log", successor)
    assert refused.exit_code == 2
    assert words in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
