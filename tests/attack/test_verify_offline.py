"""An offline verification opens no socket, and does not even load what could."""

import asyncio
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.attack.desk import Desk, ended
from tests.processes import run_module

# Any event of the socket module ends the process.
GUARDED = """
import os, sys

def refuse(event, arguments):
    if event.startswith("socket."):
        print("touched the network:", event, file=sys.stderr)
        os._exit(77)

sys.addaudithook(refuse)
from treehead_client.cli import main
main()
"""

FORBIDDEN = (
    "_asyncio",
    "_socket",
    "_ssl",
    "aiosqlite",
    "asyncio",
    "google",
    "grpc",
    "http",
    "socket",
    "sqlite3",
    "ssl",
)
COSTLY = (
    "cryptography.x509",
    "packageurl",
    "packaging",
    "pathlib",
    "shutil",
    "subprocess",
    "tempfile",
    "treehead.view",
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def guarded(*arguments: str | Path) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GUARDED, *map(str, arguments), stdout=PIPE, stderr=PIPE
    )
    async with ended(process):
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_an_offline_verification_touches_no_socket(desk: Desk) -> None:
    code, stdout, stderr = await guarded(*desk.arguments())
    assert (code, stderr) == (0, "")
    assert stdout.startswith("verified ")


async def test_the_guard_sees_a_verification_that_asks_a_monitor(desk: Desk) -> None:
    code, _, stderr = await guarded(*desk.arguments(), "--monitor", "127.0.0.1:9")
    assert code == 77
    assert "touched the network" in stderr


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_sees_no_socket_either(desk: Desk, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=%network", "-o", str(trace), sys.executable, "-m", "treehead_client"]
    done = subprocess.run(
        [*command, *map(str, desk.arguments())], capture_output=True, text=True, timeout=60, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("this machine does not let processes be traced")
    assert done.stdout.startswith("verified ")
    assert [line for line in trace.read_text().splitlines() if "(" in line] == []


def imported(importtime: str) -> set[str]:
    """The modules in the output of `python -X importtime`."""
    return {line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:")}


async def test_an_offline_verification_loads_only_what_it_needs(desk: Desk) -> None:
    environment = {"PYTHONPROFILEIMPORTTIME": "1"}
    assert (await desk.verify()).exit_code == 0, "so that the head is remembered already"
    done = await run_module("treehead_client", *desk.arguments(), environment=environment)
    assert done.stdout.startswith("verified ")
    modules = imported(done.stderr)
    assert "treehead.verify" in modules
    for name in (*FORBIDDEN, *COSTLY):
        assert [module for module in modules if module == name or module.startswith(f"{name}.")] == []


async def test_the_first_verification_loads_no_network_library_either(desk: Desk) -> None:
    done = await run_module("treehead_client", *desk.arguments(), environment={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.stdout.startswith("verified ")
    for name in FORBIDDEN:
        found = [module for module in imported(done.stderr) if module == name or module.startswith(f"{name}.")]
        assert found == []
