"""The README's tour: every command that it tells a newcomer to type does what it says there.

The commands run one after the other in one shell, in a copy of the checkout. `…` in the shown output stands for
whatever differs from machine to machine, such as keys and times.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

TOUR_SECONDS_MAX = 120
MARK = "--- tour step"
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "tests", "tour", "dist")


class Step(NamedTuple):
    """A command of the tour, and the lines that it is shown to print."""

    command: str
    shown: list[str]


def tour(readme: str) -> list[Step]:
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line.removeprefix("$ "), []))
            else:
                steps[-1].shown.append(line)
    return steps


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in sockets]


def script(steps: list[Step]) -> str:
    """The tour for bash. A server that goes into the background is waited for until it has printed its lines."""
    lines = []
    for number, step in enumerate(steps):
        command = step.command
        if command == "make dev":
            command = ":"  # the tests run in the environment that it made
        elif command == ". .venv/bin/activate":
            command = f'PATH="{Path(sys.executable).parent}:$PATH"'
        elif command.endswith(" &"):
            pipe = f"pipe{number}"
            command = f"mkfifo {pipe}; {command.removesuffix(' &')} >{pipe} & exec {number + 10}<{pipe}\n"
            command += f'read -r -t 30 line <&{number + 10}; echo "$line"\n' * len(step.shown)
        lines += [f"echo '{MARK} {number}'", command]
    return "\n".join(lines) + "\n"


def test_the_tour_prints_what_the_readme_shows(root: Path, tmp_path: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    ports = sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", text)))
    for shown, free in zip(ports, free_ports(len(ports)), strict=True):
        text = text.replace(f":{shown}", f":{free}")
    steps = tour(text)
    assert len(steps) > 20, "the tour has shrunk, or its blocks are no longer marked as console"
    checkout = tmp_path / "checkout"
    shutil.copytree(root, checkout, ignore=LEFT_BEHIND)
    shell = subprocess.Popen(
        ["/bin/bash", "-c", script(steps)],
        cwd=checkout,
        env={**os.environ, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=TOUR_SECONDS_MAX)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the servers, had the tour not got to its end
    printed = re.split(rf"{MARK} \d+\n", output)[1:]
    assert len(printed) == len(steps), output
    for step, lines in zip(steps, printed, strict=True):
        expected = ".*".join(map(re.escape, "".join(f"{line}\n" for line in step.shown).split("…")))
        assert re.fullmatch(expected, lines), f"$ {step.command}\n{lines}instead of\n{''.join(step.shown)}"
