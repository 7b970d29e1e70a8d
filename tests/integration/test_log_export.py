"""A log as static files beside its own HTTP face: exported while it runs, served by others, checked from afar."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import httpx
import pytest

from tests.attack.desk import ended
from tests.processes import Finished, LogProcess, create_log, run_module
from tests.unit.logserver.directory import flip_in_row, flipped
from tests.unit.logserver.parts import random_leaves
from tests.unit.logserver.published import files_in, files_of
from treehead.checkpoint import open_checkpoint
from treehead.keys import VerifierKey, parse_vkey
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS

ORIGIN = "log.example/export"
DEADLINE_SECONDS = 60
SIZES = (0, 1, 255, 256, 257, 1_300, 70_000)
BATCH = 1_000
LEAVES = random_leaves(SIZES[-1], seed=77)


async def treehead_log(*arguments: str | Path) -> Finished:
    finished = await run_module("treehead_logserver", *arguments)
    assert "Traceback" not in finished.stderr
    return finished


def result(finished: Finished, *, exit_code: int = 0) -> str:
    """What a command that came to its end has to say."""
    assert (finished.exit_code, finished.stderr) == (exit_code, ""), finished
    return finished.stdout


def complaint(finished: Finished, *, exit_code: int) -> str:
    """The one line that a command which failed has to say."""
    assert (finished.exit_code, finished.stdout) == (exit_code, ""), finished
    assert finished.stderr.startswith("treehead-log: ")
    assert finished.stderr.count("\n") == 1
    return finished.stderr.strip()


async def add(address: str, leaves: Sequence[bytes]) -> None:
    """Log some leaves, and have them published."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        for at in range(0, len(leaves), BATCH):
            last = at + BATCH >= len(leaves)
            request = log_pb2.AddEntriesRequest(
                leaves=leaves[at : at + BATCH], wait=log_pb2.WAIT_WITNESSED if last else log_pb2.WAIT_INTEGRATED
            )
            await LogStub(channel).AddEntries(request, timeout=DEADLINE_SECONDS)


def vkey_of(data: Path) -> VerifierKey:
    return parse_vkey((data / "vkey").read_text().strip())


def shown_in(folder: Path, data: Path) -> int:
    """The size of the tree that a folder shows; -1 if it shows none."""
    if not (folder / "checkpoint").exists():
        return -1
    return open_checkpoint((folder / "checkpoint").read_bytes(), key=vkey_of(data)).size


async def shows(folder: Path, data: Path, size: int) -> None:
    """Returns when a folder shows a tree of this size."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if shown_in(folder, data) >= size:
                return
            await asyncio.sleep(0.01)


async def has_files(folder: Path, count: int, *, unless_ended: asyncio.subprocess.Process) -> None:
    """Returns when there are so many files in a folder, or a process has ended."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while unless_ended.returncode is None and len(files_in(folder)) < count:  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0.001)


async def check_like_the_log(folder: Path, http: str) -> None:
    """Returns only if the log itself serves every file of a folder, byte for byte."""
    files = files_in(folder)
    async with httpx.AsyncClient(base_url=http, headers={"accept-encoding": "identity"}) as client:
        for path, data in files.items():
            response = await client.get(f"/{path}")
            assert (path, response.status_code, response.content) == (path, 200, data)


@contextlib.asynccontextmanager
async def exporting(data: Path, to: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """An export that goes on; it has shown something when the context begins."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "treehead_logserver", "export", "--data", data, "--to", to),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    async with ended(process, seconds_max=DEADLINE_SECONDS):
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS)).decode()
        assert line.startswith(f"{to}: "), line
        yield process


@contextlib.asynccontextmanager
async def file_server(folder: Path) -> AsyncIterator[str]:
    """Python's own file server, as a process of its own; the beginning of its URLs.

    It is to keep connections open, and to send an answer in one piece: the second would wait for 40 ms (RFC 896).
    """
    code = (
        "import functools, http.server as h, sys\n"
        "h.SimpleHTTPRequestHandler.protocol_version = 'HTTP/1.1'\n"
        "h.SimpleHTTPRequestHandler.wbufsize = 65_536\n"
        "handler = functools.partial(h.SimpleHTTPRequestHandler, directory=sys.argv[1])\n"
        "handler.log_message = None\n"
        "server = h.ThreadingHTTPServer(('127.0.0.1', 0), handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, folder), stdout=PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    async with ended(process, seconds_max=DEADLINE_SECONDS):
        assert process.stdout is not None
        port = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS)).decode().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    await create_log(folder, origin=ORIGIN)
    return folder


@pytest.fixture(scope="module")
async def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a log at rest, with 70,000 entries."""
    data = tmp_path_factory.mktemp("grown") / "log"
    await create_log(data, origin=ORIGIN)
    async with LogProcess(data, "--kind", "opaque") as log:
        await add(log.address, LEAVES)
        assert await log.stop() == 0
    return data


@pytest.fixture
def at_rest(grown: Path, tmp_path: Path) -> Path:
    shutil.copytree(grown, tmp_path / "log")
    return tmp_path / "log"


# --- export ----------------------------------------------------------------------------------------------------------


async def test_what_is_exported_is_what_the_log_serves_and_checks_out_wherever_it_is_served(
    data: Path, tmp_path: Path
) -> None:
    to = tmp_path / "www"
    async with LogProcess(data, "--kind", "opaque") as log, file_server(tmp_path) as files:
        before = 0
        for size in SIZES:
            if size:
                await add(log.address, LEAVES[before:size])
            said = result(await treehead_log("export", "--data", data, "--to", to, "--once"))
            assert said.startswith(f"{to}: {size} entr"), said
            assert {path: data for path, data in files_of(LEAVES[:size]).items() if path != "checkpoint"}.items() <= (
                files_in(to).items()
            )
            await check_like_the_log(to, log.http)
            before = size
        for url in (log.http, f"{files}/www"):
            said = result(await treehead_log("fsck", "--url", url, "--data", data))
            assert said == f"{ORIGIN} at {url}: 70000 entries, 277 tiles: clean\n"


async def test_an_export_that_goes_on_shows_what_the_log_publishes_and_ends_when_told(
    data: Path, tmp_path: Path
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        to = tmp_path / f"www-{number}"
        async with LogProcess(data, "--kind", "opaque") as log:
            async with exporting(data, to) as export:
                for size in (300, 301, 700):
                    await add(log.address, LEAVES[:size])
                    await shows(to, data, size)
                    await check_like_the_log(to, log.http)
                export.send_signal(number)
                stdout, stderr = await export.communicate()
                assert (export.returncode, stdout, stderr) == (0, b"", b"")
            assert await log.stop() == 0


async def test_the_log_may_stop_and_start_beneath_an_export(data: Path, tmp_path: Path) -> None:
    to = tmp_path / "www"
    log = LogProcess(data, "--kind", "opaque")
    async with log:
        await add(log.address, LEAVES[:10])
        async with exporting(data, to) as export:
            for size in (20, 30):
                assert await log.stop() == 0
                await log.start()
                await add(log.address, LEAVES[:size])
                await shows(to, data, size)
            await log.kill()
            await log.start()
            await add(log.address, LEAVES[:40])
            await shows(to, data, 40)
            export.terminate()
            assert await export.wait() == 0


async def test_an_export_that_is_killed_anywhere_is_continued_by_the_next(at_rest: Path, tmp_path: Path) -> None:
    to, kills = tmp_path / "www", 0
    expected = {path: data for path, data in files_of(LEAVES).items() if path != "checkpoint"}
    for count in (1, 100, 200, 300, 400, 500):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "treehead_logserver", "export", "--data", at_rest, "--to", to, "--once"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with ended(process, seconds_max=DEADLINE_SECONDS):
            await has_files(to, count, unless_ended=process)
            if process.returncode is None:
                process.kill()
                kills += 1
            await process.wait()
        there = files_in(to)
        there.pop("checkpoint", None)
        assert there.items() <= expected.items(), "a file is not whole"
        if shown_in(to, at_rest) >= 0:
            assert there == expected
            shutil.rmtree(to)
    assert kills > 2, "it was over each time before it could be killed"
    result(await treehead_log("export", "--data", at_rest, "--to", to, "--once"))
    assert {path: data for path, data in files_in(to).items() if path != "checkpoint"} == expected
    assert not list(to.glob(".treehead-tile*"))


async def test_a_damaged_database_is_not_exported(at_rest: Path, tmp_path: Path) -> None:
    flip_in_row(at_rest / "log.sqlite", "entries", "leaf", "leaf_index = 60000", 7)
    refused = await treehead_log("export", "--data", at_rest, "--to", tmp_path / "www", "--once")
    assert "entry 60000 does not hash to what tile 0/234 has for it" in complaint(refused, exit_code=1)
    assert not (tmp_path / "www" / "checkpoint").exists()


async def test_a_folder_of_another_log_is_a_mistake_of_the_caller(at_rest: Path, tmp_path: Path) -> None:
    other, to = tmp_path / "other", tmp_path / "www"
    await create_log(other, origin="other.example/log")
    async with LogProcess(other):
        pass
    result(await treehead_log("export", "--data", other, "--to", to, "--once"))
    refused = await treehead_log("export", "--data", at_rest, "--to", to, "--once")
    assert f"{to / 'checkpoint'} is not a checkpoint by {ORIGIN}" in complaint(refused, exit_code=2)


@pytest.mark.parametrize(
    ("options", "exit_code", "said"), [((), 0, b""), (("--once",), 1, b"treehead-log: interrupted\n")]
)
async def test_an_export_that_is_told_to_stop_in_the_middle_shows_nothing(
    at_rest: Path, tmp_path: Path, options: tuple[str, ...], exit_code: int, said: bytes
) -> None:
    """It did what it was asked for, unless that was to be done once."""
    to = tmp_path / "www"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "treehead_logserver", "export", "--data", str(at_rest), "--to", str(to), *options),
        stdout=PIPE,
        stderr=PIPE,
    )
    async with ended(process, seconds_max=DEADLINE_SECONDS):
        await has_files(to, 1, unless_ended=process)
        process.terminate()
        stdout, stderr = await process.communicate()
    assert (process.returncode, stdout, stderr) == (exit_code, b"", said)
    assert not (to / "checkpoint").exists()


async def test_a_log_that_has_published_nothing_cannot_be_exported_once(data: Path, tmp_path: Path) -> None:
    refused = await treehead_log("export", "--data", data, "--to", tmp_path / "www", "--once")
    assert "has not published a checkpoint yet" in complaint(refused, exit_code=1)


# --- fsck --url ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def exported(at_rest: Path, tmp_path: Path) -> Path:
    to = tmp_path / "www"
    result(await treehead_log("export", "--data", at_rest, "--to", to, "--once"))
    return to


async def test_a_damaged_file_of_an_export_is_named(exported: Path, at_rest: Path) -> None:
    vkey = (at_rest / "vkey").read_text().strip()
    async with file_server(exported) as url:
        for path in ("tile/entries/100", "tile/0/100", "tile/1/000", "tile/2/000.p/1", "checkpoint"):
            data = (exported / path).read_bytes()
            (exported / path).write_bytes(flipped(data, 20))
            said = result(await treehead_log("fsck", "--url", url, "--vkey", vkey, "--json"), exit_code=1)
            value = json.loads(said)
            assert [finding["where"] for finding in value["findings"]] == [path]
            assert (value["origin"], value["url"], value["unchecked"]) == (ORIGIN, url, None)
            (exported / path).write_bytes(data)
        (exported / "tile" / "0" / "100").unlink()
        said = result(await treehead_log("fsck", "--url", url, "--vkey", vkey), exit_code=1)
        assert said.splitlines() == [
            "tile/0/100: is missing (HTTP 404)",
            f"{ORIGIN} at {url}: 70000 entries, 276 tiles: 1 finding",
        ]


async def test_a_server_that_is_down_is_no_damage(at_rest: Path, exported: Path) -> None:
    async with file_server(exported) as url:
        pass
    refused = await treehead_log("fsck", "--url", url, "--data", at_rest)
    assert "checkpoint could not be checked: there is no answer: " in complaint(refused, exit_code=1)


VKEY = "log.example+f9f9cfd4+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABA=="


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "fsck needs --data DIR, or --url URL and --vkey VKEY"),
        (["--vkey", VKEY], "fsck needs --data DIR, or --url URL"),
        (["--data", "DIR", "--vkey", VKEY], "--vkey and --tls-ca are for a tree that is served: give --url"),
        (["--data", "DIR", "--tls-ca", "FILE"], "--vkey and --tls-ca are for a tree that is served: give --url"),
        (["--url", "http://127.0.0.1:1"], "--url needs the log's key"),
        (["--url", "http://127.0.0.1:1", "--data", "DIR", "--vkey", VKEY], "--url needs the log's key"),
        (["--url", "http://127.0.0.1:1", "--data", "DIR", "--file", "FILE"], "--file is a copy of a database"),
        (["--url", "http://127.0.0.1:1", "--vkey", "key"], "--vkey: not a verifier key"),
        (["--url", "127.0.0.1:1", "--data", "DIR"], "--url 127.0.0.1:1 is not the address of a log"),
        (["--url", "http://127.0.0.1:1", "--data", "DIR", "--tls-ca", "FILE"], "--tls-ca is of use with an https://"),
        (["--url", "https://127.0.0.1:1", "--data", "DIR", "--tls-ca", "FILE"], "cannot read --tls-ca FILE"),
    ],
)
async def test_a_command_line_that_makes_no_sense_is_said_in_a_sentence(
    data: Path, arguments: list[str], said: str
) -> None:
    finished = await treehead_log("fsck", *(str(data) if word == "DIR" else word for word in arguments))
    assert said in complaint(finished, exit_code=2)
