"""Looking after a log, as its operator does: fsck, backup and restore, stats, recover, beside a working server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.attack.desk import ended
from tests.processes import Finished, LogProcess, NotListeningError, create_log, run_module
from tests.unit.library.specimens import hashedrekord_leaf
from tests.unit.logserver.directory import contents, flip_in_row, make
from tests.unit.logserver.directory import grow as grow_directory
from treehead.checkpoint import open_checkpoint
from treehead.encoding import parse_base64
from treehead.keys import parse_vkey
from treehead.merkle import verify_consistency
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead_logserver.highwater import read_mark

ORIGIN = "log.example/operations"
DEADLINE_SECONDS = 30
BACKUPS = 5
LEAVES = [hashedrekord_leaf(b"%d" % number) for number in range(600)]


async def treehead_log(command: str, data: Path, *arguments: str | Path) -> Finished:
    finished = await run_module("treehead_logserver", command, "--data", data, *arguments)
    assert "Traceback" not in finished.stderr
    return finished


def complaint(finished: Finished, *, exit_code: int) -> str:
    """The one line that a command which failed has to say."""
    assert (finished.exit_code, finished.stdout) == (exit_code, ""), finished
    assert finished.stderr.startswith("treehead-log: ")
    assert finished.stderr.count("\n") == 1
    return finished.stderr.strip()


def result(finished: Finished, *, exit_code: int = 0) -> str:
    """What a command that came to its end has to say."""
    assert (finished.exit_code, finished.stderr) == (exit_code, ""), finished
    return finished.stdout


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    await create_log(folder, origin=ORIGIN)
    return folder


async def add(address: str, *leaves: bytes) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = LogStub(channel)
        requests = [log_pb2.AddEntryRequest(leaf=leaf) for leaf in leaves]
        await asyncio.gather(*(stub.AddEntry(request, timeout=DEADLINE_SECONDS) for request in requests))


async def grown(data: Path, *leaves: bytes) -> None:
    """Have the log take some leaves, and stop it."""
    async with LogProcess(data) as log:
        await add(log.address, *leaves)
        assert await log.stop() == 0


@contextlib.asynccontextmanager
async def load(address: str) -> AsyncIterator[None]:
    """Submit, several at a time, as long as the context lasts; at its end all leaves are in the log."""
    waiting = iter(LEAVES)

    async def submit() -> None:
        for leaf in waiting:
            await add(address, leaf)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(submit())
        yield


async def check_prefix(address: str, data: Path, *, size: int, root: bytes) -> None:
    """The log proves that a tree is a prefix of its present one."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = LogStub(channel)
        answer = await stub.GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=DEADLINE_SECONDS)
        newest = open_checkpoint(answer.checkpoint, key=parse_vkey((data / "vkey").read_text().strip()))
        request = log_pb2.GetConsistencyProofRequest(first_size=size, second_size=newest.size)
        proof = await stub.GetConsistencyProof(request, timeout=DEADLINE_SECONDS)
    verify_consistency(size1=size, size2=newest.size, root1=root, root2=newest.root, proof=proof.hashes)


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def put_in_place(copy: Path, data: Path) -> None:
    """Restore a copy as it is documented."""
    shutil.copy(copy, data / "log.sqlite")
    for suffix in ("-wal", "-shm"):
        (data / f"log.sqlite{suffix}").unlink(missing_ok=True)


# --- fsck ------------------------------------------------------------------------------------------------------------


async def test_fsck_says_in_a_line_that_a_log_is_clean(data: Path) -> None:
    await grown(data, *LEAVES[:300])
    said = result(await treehead_log("fsck", data))
    assert said == f"{ORIGIN}: 300 entries, 1 tile, 900 look-up rows: clean\n"
    value = json.loads(result(await treehead_log("fsck", data, "--json")))
    assert (value["origin"], value["size"], value["clean"], value["findings"]) == (ORIGIN, 300, True, [])


async def test_fsck_names_what_it_finds_and_ends_with_exit_code_1(data: Path) -> None:
    await grown(data, *LEAVES[:300])
    flip_in_row(data / "log.sqlite", "entries", "leaf", "leaf_index = 42", 77)
    said = result(await treehead_log("fsck", data), exit_code=1)
    assert said.splitlines() == [
        "entry 42: does not hash to what tile 0/0 has for it",
        f"{ORIGIN}: 300 entries, 1 tile, 900 look-up rows: 1 finding",
    ]
    value = json.loads(result(await treehead_log("fsck", data, "--json"), exit_code=1))
    assert value["findings"] == [{"where": "entry 42", "what": "does not hash to what tile 0/0 has for it"}]


async def test_a_log_that_was_killed_is_clean_before_and_after_it_is_started_again(data: Path) -> None:
    async with LogProcess(data) as log:
        await add(log.address, *LEAVES[:200])
        await log.kill()
        wal = (data / "log.sqlite-wal").read_bytes()
        assert wal
        assert result(await treehead_log("fsck", data)).endswith("200 entries, 0 tiles, 600 look-up rows: clean\n")
        assert (data / "log.sqlite-wal").read_bytes() == wal
        await log.start()
        assert await log.stop() == 0
    assert result(await treehead_log("fsck", data)).endswith(": clean\n")


async def test_a_log_that_serves_is_not_checked_but_a_copy_of_it_is(data: Path, tmp_path: Path) -> None:
    async with LogProcess(data) as log:
        await add(log.address, *LEAVES[:10])
        refused = complaint(await treehead_log("fsck", data), exit_code=1)
        assert "in use by another process" in refused
        assert "--file" in refused
        await treehead_log("backup", data, "--to", tmp_path / "copy")
        await add(log.address, *LEAVES[10:20])
        said = result(await treehead_log("fsck", data, "--file", tmp_path / "copy"))
        assert said.splitlines() == [
            "of size 10, where the log has signed a tree of size 20",
            f"{ORIGIN}: 10 entries, 0 tiles, 30 look-up rows: clean",
        ]


async def test_what_cannot_be_read_at_all_is_exit_code_1(data: Path, tmp_path: Path) -> None:
    missing = complaint(await treehead_log("fsck", data, "--file", tmp_path / "none"), exit_code=1)
    assert f"cannot open the database {tmp_path / 'none'}" in missing
    (data / "log.sqlite").write_bytes(b"no database at all" * 1_000)
    for arguments in ([], ["--json"]):
        assert "log.sqlite" in complaint(await treehead_log("fsck", data, *arguments), exit_code=1)


@pytest.mark.parametrize("command", [["fsck"], ["backup", "--to", "copy"], ["stats"], ["recover"]])
async def test_a_directory_without_a_log_is_a_mistake_of_the_caller(tmp_path: Path, command: list[str]) -> None:
    refused = await treehead_log(command[0], tmp_path / "none", *command[1:])
    assert f"{tmp_path / 'none'} holds no log" in complaint(refused, exit_code=2)


# --- backup and restore ----------------------------------------------------------------------------------------------


async def test_copies_made_under_load_are_in_order_and_the_log_grows_out_of_each(data: Path, tmp_path: Path) -> None:
    copies = [tmp_path / f"copy {number}" for number in range(BACKUPS)]
    roots: dict[int, bytes] = {}
    async with LogProcess(data, "--kind", "hashedrekord") as log:
        async with load(log.address):
            for copy in copies:
                said = result(await treehead_log("backup", data, "--to", copy))
                value = json.loads(result(await treehead_log("fsck", data, "--file", copy, "--json")))
                assert (value["clean"], value["findings"]) == (True, [])
                assert said == f"{copy}: {value['size']} entries, root {value['root']}\n"
                roots[value["size"]] = parse_base64(value["root"], what="root")
        for size, root in roots.items():
            await check_prefix(log.address, data, size=size, root=root)
        assert await log.stop() == 0
    assert names(tmp_path) == [*(copy.name for copy in copies), "log"]
    assert result(await treehead_log("fsck", data)).endswith(": clean\n")


async def test_a_copy_is_restored_as_long_as_the_log_has_signed_nothing_since(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with LogProcess(data) as log:
        await add(log.address, *LEAVES[:30])
        result(await treehead_log("backup", data, "--to", copy))
        assert await log.stop() == 0
    (data / "log.sqlite").unlink()
    put_in_place(copy, data)
    assert "All is well" in result(await treehead_log("recover", data))
    await grown(data, *LEAVES[20:40])
    assert result(await treehead_log("fsck", data)).endswith(": 40 entries, 0 tiles, 120 look-up rows: clean\n")


async def test_an_older_copy_is_not_continued_and_the_newest_one_is(data: Path, tmp_path: Path) -> None:
    copy, newest = tmp_path / "copy", tmp_path / "newest"
    async with LogProcess(data) as log:
        await add(log.address, *LEAVES[:30])
        result(await treehead_log("backup", data, "--to", copy))
        await add(log.address, *LEAVES[30:50])
        assert await log.stop() == 0
    shutil.copy(data / "log.sqlite", newest)
    put_in_place(copy, data)
    refused = LogProcess(data)
    with pytest.raises(NotListeningError) as caught:
        await refused.start()
    assert caught.value.exit_code == 1
    assert "has signed a tree of 50: an older copy was put back" in refused.stderr
    assert f"treehead-log recover --data {data} says what to do" in refused.stderr
    explained = result(await treehead_log("recover", data), exit_code=1)
    assert "Entries 30 to 49 are missing" in explained
    assert "has signed a tree of size 50" in result(await treehead_log("fsck", data), exit_code=1)
    put_in_place(newest, data)
    result(await treehead_log("recover", data))
    await grown(data, LEAVES[51])


async def test_a_copy_is_not_put_over_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("precious")
    refused = complaint(await treehead_log("backup", data, "--to", tmp_path / "copy"), exit_code=2)
    assert f"--to {tmp_path / 'copy'} exists already" in refused
    assert (tmp_path / "copy").read_text() == "precious"


# --- stats -----------------------------------------------------------------------------------------------------------


async def test_stats_are_told_while_the_log_serves_and_while_it_does_not(data: Path) -> None:
    async with LogProcess(data) as log:
        await add(log.address, *LEAVES[:20])
        value = json.loads(result(await treehead_log("stats", data, "--json")))
        assert (value["origin"], value["size"], value["mark_size"]) == (ORIGIN, 20, 20)
        assert value["leaf_bytes"] == sum(map(len, LEAVES[:20]))
        await add(log.address, *LEAVES[20:30])
        assert await log.stop() == 0
    before = contents(data)
    table = result(await treehead_log("stats", data))
    assert "entries                 30\n" in table
    assert contents(data) == before


# --- recover ---------------------------------------------------------------------------------------------------------


async def test_a_log_that_serves_needs_no_recovery(data: Path) -> None:
    async with LogProcess(data):
        assert "in use by another process" in complaint(await treehead_log("recover", data), exit_code=1)


async def test_a_lost_mark_is_written_anew_from_a_checkpoint_that_somebody_kept(data: Path, tmp_path: Path) -> None:
    async with LogProcess(data) as log:
        await add(log.address, *LEAVES[:20])
        async with grpc.aio.insecure_channel(log.address) as channel:
            kept = await LogStub(channel).GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=DEADLINE_SECONDS)
        await add(log.address, *LEAVES[20:30])
        assert await log.stop() == 0
    (data / "high-water").unlink()
    with pytest.raises(NotListeningError, match=r"no high-water mark .* recover"):
        await LogProcess(data).start()
    assert "--newest FILE" in result(await treehead_log("recover", data), exit_code=1)
    (tmp_path / "newest").write_bytes(kept.checkpoint)
    assert "written anew" in result(await treehead_log("recover", data, "--newest", tmp_path / "newest"))
    assert read_mark(data / "high-water", vkey=parse_vkey((data / "vkey").read_text().strip())).size == 30
    await grown(data, LEAVES[30])


async def test_a_file_that_is_no_checkpoint_is_a_mistake_of_the_caller(data: Path) -> None:
    refused = complaint(await treehead_log("recover", data, "--newest", data / "vkey"), exit_code=2)
    assert f"--newest {data / 'vkey'} is no checkpoint by {ORIGIN}" in refused


# --- at a terminal ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose check takes a second or so."""
    directory = make(tmp_path_factory.mktemp("slow") / "log")
    await grow_directory(directory, [hashedrekord_leaf(b"slow %d" % number) for number in range(6_000)])
    return directory.path


def _heed_signals() -> None:
    """Whoever runs these tests may ignore some, which is inherited: nohup does, and shells in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextlib.asynccontextmanager
async def at_a_terminal(*arguments: str | Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A command with its stderr on a terminal, whose other end is the number."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "treehead_logserver",
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=theirs,
            preexec_fn=_heed_signals,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        async with ended(process, seconds_max=DEADLINE_SECONDS):
            yield process, ours
    finally:
        os.close(ours)


async def shown(terminal: int) -> str:
    """What is shown next; nothing once the command has ended."""
    with contextlib.suppress(OSError):  # which is how Linux says so
        return (await asyncio.to_thread(os.read, terminal, 65_536)).decode(errors="replace")
    return ""


async def all_shown(terminal: int) -> str:
    text = ""
    while more := await shown(terminal):
        text += more
    return text


async def test_at_a_terminal_progress_is_shown_and_the_result_is_not_mixed_with_it(slow: Path) -> None:
    async with at_a_terminal("fsck", "--data", slow) as (process, terminal):
        text = await all_shown(terminal)
        assert process.stdout is not None
        stdout = (await process.stdout.read()).decode()
        assert await process.wait() == 0
    assert "━" in text
    assert "6000" in text
    assert "/s" in text
    assert stdout.endswith(": 6000 entries, 23 tiles, 18000 look-up rows: clean\n")
    assert stdout.count("\n") == 1


@pytest.mark.parametrize("command", [["backup", "--to"], ["stats"]])
async def test_other_long_commands_show_progress_too(slow: Path, tmp_path: Path, command: list[str]) -> None:
    arguments = [tmp_path / "copy"] if command[1:] else []
    async with at_a_terminal(command[0], "--data", slow, *command[1:], *arguments) as (process, terminal):
        assert "━" in await all_shown(terminal)
        assert await process.wait() == 0


async def test_where_there_is_no_terminal_there_is_no_progress(slow: Path, tmp_path: Path) -> None:
    for command in (["fsck"], ["backup", "--to", tmp_path / "copy"], ["stats"], ["recover"]):
        said = result(await treehead_log(str(command[0]), slow, *command[1:]))
        assert "━" not in said
        assert "\x1b" not in said


async def test_rich_is_needed_at_a_terminal_only(slow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError(name='rich')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    result(await treehead_log("stats", slow))
    async with at_a_terminal("stats", "--data", slow) as (process, terminal):
        assert "rich is not installed: install treehead[log]" in await all_shown(terminal)
        assert await process.wait() == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_command_that_is_interrupted_says_so_in_a_sentence(slow: Path, number: signal.Signals) -> None:
    async with at_a_terminal("fsck", "--data", slow) as (process, terminal):
        text = await shown(terminal)  # it has begun
        process.send_signal(number)
        text += await all_shown(terminal)
        assert process.stdout is not None
        assert await process.stdout.read() == b""
        assert await process.wait() == 1
    assert text.rstrip().endswith("treehead-log: interrupted")
    assert "Traceback" not in text
