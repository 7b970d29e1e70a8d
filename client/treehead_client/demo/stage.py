"""Where the demonstration plays: a temporary folder, and the processes in it. Nothing of either outlives it."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

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
        """The server is gone."""
        _stop(self._process)


class Stage:
    """A context; leaving it stops every process and removes the folder, whatever happened."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="treehead-demo-"))
        self._processes: list[subprocess.Popen[str]] = []
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
        with _uninterrupted():
            for process in self._processes:
                _stop(process)
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, program: str, *arguments: str) -> Finished:
        """Run a command in the folder to its end.

        Raises:
            UnavailableError: it does not end.
        """
        process = self._spawn(program, *arguments, stderr=subprocess.PIPE)
        try:
            stdout, stderr = process.communicate(timeout=_COMMAND_S_MAX)
        except subprocess.TimeoutExpired as exc:
            raise UnavailableError(f"{program} {arguments[0]} did not end within {_COMMAND_S_MAX:.0f} s") from exc
        self._processes.remove(process)
        return Finished(exit_code=process.returncode, stdout=stdout, stderr=stderr)

    def serve(self, program: str, *arguments: str) -> Server:
        """Start a server in the folder; returns when it listens.

        Raises:
            UnavailableError: it does not; the message ends with what it said last.
        """
        said = self.folder / f"{program}-{len(self._processes)}.stderr"
        with said.open("wb") as stderr:
            process = self._spawn(program, *arguments, stderr=stderr)
        line = _first_line(process)
        if not line.startswith(_READY_LINE):
            last = said.read_text(errors="replace").strip().rpartition("\n")[2]
            raise UnavailableError(f"{program} did not start: {last or 'it said nothing'}")
        return Server(process, address=line.removeprefix(_READY_LINE).strip())

    def _spawn(self, program: str, *arguments: str, stderr: int | IO[bytes]) -> subprocess.Popen[str]:
        """Start a process; from then on it is ours to stop, even if we are interrupted while it starts."""
        with _uninterrupted():
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULES[program], *arguments],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C is for us, who stop the others in order
            )
            self._processes.append(process)
        return process


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A signal that would interrupt the block does so after it."""
    pending: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: pending.append(number)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if pending:
        raise KeyboardInterrupt


def _stop(process: subprocess.Popen[str]) -> None:
    """The process is gone, of its own accord if it obeys in time."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints, or nothing if it ends or takes too long."""
    if process.stdout is None:
        return ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout=_READY_S_MAX) else ""
