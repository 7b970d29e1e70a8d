"""What `treehead-log export` writes is a log wherever a web server that others wrote serves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interop.entries import HASTY, mixed_leaves, publish
from tests.interop.file_servers import FileServer, nginx, python_http_server
from tests.interop.programs import run
from tests.processes import LogProcess, create_log, run_module

ORIGIN = "log.example/exported"
SIZES = (300, 700)

SERVERS = [
    pytest.param(python_http_server, id="python"),
    pytest.param(
        nginx, id="nginx", marks=pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx on PATH")
    ),
]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[LogProcess]:
    await create_log(tmp_path / "log", origin=ORIGIN)
    (tmp_path / "log" / "log.toml").write_text(HASTY)
    async with LogProcess(tmp_path / "log") as log:
        yield log


async def export(log: LogProcess, folder: Path) -> None:
    """Write what the log has published to a folder, while the log serves."""
    done = await run_module("treehead_logserver", "export", "--data", log.data, "--to", folder, "--once")
    assert done.exit_code == 0, done.stderr


async def check(log: LogProcess, url: str) -> dict[str, object]:
    """What our own check says of a tree that is served at a URL."""
    done = await run_module("treehead_logserver", "fsck", "--data", log.data, "--url", url, "--json")
    assert done.exit_code == 0, done
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("serve", SERVERS)
async def test_an_export_that_is_served_is_clean_and_stays_so_as_it_grows(
    serve: FileServer, log: LogProcess, tmp_path: Path
) -> None:
    folder, scratch = tmp_path / "export", tmp_path / "scratch"
    scratch.mkdir()
    leaves, before = mixed_leaves(SIZES[-1]), 0
    await export(log, folder)
    async with serve(folder, scratch) as url:
        for size in SIZES:
            await publish(log.address, leaves[before:size])
            await export(log, folder)
            assert (await check(log, url))["size"] == size
            before = size
        damaged = folder / "tile" / "0" / "001"
        damaged.write_bytes(bytes(damaged.stat().st_size))
        found = await run_module("treehead_logserver", "fsck", "--data", log.data, "--url", url)
        assert found.exit_code == 1, found
        assert "tile/0/001" in found.stdout


@pytest.mark.parametrize("serve", SERVERS)
async def test_go_verifies_an_export_that_is_served(
    serve: FileServer, reader: Path, log: LogProcess, tmp_path: Path
) -> None:
    folder, scratch = tmp_path / "export", tmp_path / "scratch"
    scratch.mkdir()
    earlier = tmp_path / "earlier"
    leaves = mixed_leaves(SIZES[-1])
    earlier.write_bytes(await publish(log.address, leaves[: SIZES[0]]))
    await publish(log.address, leaves[SIZES[0] :])
    await export(log, folder)
    vkey = await run_module("treehead_logserver", "vkey", "--data", log.data)
    async with serve(folder, scratch) as url:
        done = await run(reader, "-url", url, "-vkey", vkey.stdout.strip(), "-earlier", earlier)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["size"] == told["entries"] == SIZES[-1]
    assert told["consistent_from"] == SIZES[0]
    assert {"tile/1/000.p/2", "tile/entries/002.p/188"} <= set(told["paths"])


async def test_our_own_listener_is_clean(log: LogProcess) -> None:
    await publish(log.address, mixed_leaves(SIZES[-1]))
    assert (await check(log, log.http))["size"] == SIZES[-1]
