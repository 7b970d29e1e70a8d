"""`treehead demo` plays to its end, and leaves nothing behind however it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.attack.desk import ended

DEMO_S_MAX = 60


def processes_in(folder: Path) -> list[str]:
    """The running processes whose working directory is in a folder."""
    if not Path("/proc/self/cwd").exists():
        pytest.skip("this system does not tell where its processes run")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink().is_relative_to(folder):
                found.append(process.joinpath("cmdline").read_text())
        except OSError:  # it ended, or is not ours
            continue
    return found


def check_nothing_left(folder: Path) -> None:
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


async def start(temporary: Path, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "treehead_client",
        "demo",
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
    )


async def test_the_demonstration_plays_to_its_end(tmp_path: Path) -> None:
    process = await start(tmp_path)
    async with ended(process, seconds_max=DEMO_S_MAX):
        output, errors = await process.communicate()
    assert process.returncode == 0, output.decode() + errors.decode()
    assert errors == b""
    text = output.decode()
    steps = re.findall(r"^ ?(\d+)\. ", text, flags=re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)]
    assert f"All {len(steps)} steps went as they should" in text
    for begins in ("verified", "refused", "undecided", "log misbehaved", "proven: log"):
        assert f"\n    {begins} " in text
    check_nothing_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demonstration_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it is in a shell's background job, and inherited
    try:
        process = await start(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    async with ended(process, seconds_max=DEMO_S_MAX):
        # The log and a monitor are running when the second server says that it listens.
        listening = 0
        while listening < 2:
            line = await process.stdout.readline()
            assert line, "it ended before it was interrupted"
            listening += b"listening on " in line
        assert len(processes_in(tmp_path)) >= 2
        process.send_signal(number)
        _, errors = await process.communicate()
    assert process.returncode == 130
    assert errors == b""
    check_nothing_left(tmp_path)


async def test_a_step_that_goes_wrong_ends_the_demonstration(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "treehead_monitor.py").write_text("raise SystemExit('no monitor today')\n")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = os.pathsep.join(filter(None, [str(broken), os.environ.get("PYTHONPATH")]))
    process = await start(temporary, PYTHONPATH=path)
    async with ended(process, seconds_max=DEMO_S_MAX):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode() == "treehead: step 2 of the demonstration went wrong: expected exit code 0\n"
    check_nothing_left(temporary)
