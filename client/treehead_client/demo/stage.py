"""Where the demonstration plays: a temporary folder, and the processes in it. Nothing of either outlives it."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from treehead.errors import UnavailableError

_MODULES = {"treehead": "treehead_client", "treehead-log": "treehead_logserver", "treehead-monitor": "treehead_monitor"}
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READY_LINE = "listening on "
_READY_S_MAX = 30.0
_COMMAND_S_MAX = 60.0
_STOP_S_MAX = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command came to. `output` is what it printed, first on stdout and then on stderr."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        """Everything that it printed."""
        return self.stdout + self.stderr


class Server:
    """A running server, and the address on which it listens."""

    def __init__(self, process: subprocess.Popen[str], *, address: str) -> None:
        self._process = process
        self.address = address

    def stop(self) -> None:
        """The server is gone, of its own accord if it obeys in time."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Stage:
    """A context; leaving it stops every server and removes the folder, whatever happened."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="treehead-demo-"))
        self._servers: list[Server] = []
        # State of its own, and keys without passphrase, whatever its user has set.
        ours = {"TREEHEAD_STATE": "state"}
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TREEHEAD_")
        } | ours

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Clearing up is quick; a second Ctrl-C must not leave half of it.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _INTERRUPTS}
        try:
            for server in self._servers:
                server.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def run(self, program: str, *arguments: str) -> Finished:
        """Run a command in the folder to its end.

        Raises:
            UnavailableError: it does not end.
        """
        began = time.perf_counter()
        try:
            done = subprocess.run(
                _command(program, *arguments),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_COMMAND_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise UnavailableError(f"{program} {arguments[0]} did not end within {_COMMAND_S_MAX:.0f} s") from exc
        return Finished(
            exit_code=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            seconds=time.perf_counter() - began,
        )

    def serve(self, program: str, *arguments: str) -> Server:
        """Start a server in the folder; returns when it listens.

        Raises:
            UnavailableError: it does not; the message ends with what it said last.
        """
        said = self.folder / f"{program}-{len(self._servers)}.stderr"
        with said.open("wb") as stderr:
            process = subprocess.Popen(
                _command(program, *arguments),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C is for us, who stop the servers in order
            )
        server = Server(process, address="")
        self._servers.append(server)
        line = _first_line(process)
        if not line.startswith(_READY_LINE):
            last = said.read_text(errors="replace").strip().rpartition("\n")[2]
            raise UnavailableError(f"{program} did not start: {last or 'it said nothing'}")
        server.address = line.removeprefix(_READY_LINE).strip()
        return server


def _command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", _MODULES[program], *arguments]


def _first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints, or nothing if it ends or takes too long."""
    if process.stdout is None:
        return ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout=_READY_S_MAX) else ""
