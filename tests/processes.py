"""Our programs as real processes: run to their end, or started as servers, found ready, stopped and killed.

A server says `listening on HOST:PORT` on stdout when it is ready; that line is what a test waits for, never a time.
Every wait here has a deadline, after which the test fails with what the process wrote to stderr.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

READY_SECONDS_MAX = 30
EXIT_SECONDS_MAX = 30
SAYS_SECONDS_MAX = 20
STDERR_BYTES_MAX = 1_048_576
LISTENING = "listening on "


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A process that came to its end."""

    exit_code: int
    stdout: str
    stderr: str


async def run_module(module: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Finished:
    """Run `python -m module arguments…` to its end; `environment` adds to ours."""
    process = await _spawn(module, *arguments, environment=environment)
    try:
        async with asyncio.timeout(EXIT_SECONDS_MAX):
            stdout, stderr = await process.communicate()
    except TimeoutError as exc:
        process.kill()
        _, stderr = await process.communicate()
        raise AssertionError(f"{module} did not end in {EXIT_SECONDS_MAX} s; it wrote: {stderr.decode()}") from exc
    assert process.returncode is not None
    return Finished(exit_code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


async def _spawn(
    module: str, *arguments: str | Path, environment: Mapping[str, str] | None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )


class NotListeningError(AssertionError):
    """A server did not start. `exit_code` is negative if a signal ended it, which may have been ours."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServerProcess:
    """One server, started with `async with` or `start`, and again after `stop` or `kill`.

    Leaving the context kills what is still running.
    """

    def __init__(self, module: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> None:
        self.module = module
        self.arguments = arguments
        self.environment = environment
        self.address = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._stderr = bytearray()
        self._heard = asyncio.Event()

    async def start(self) -> Self:
        """Returns when the server listens on `address`.

        Raises:
            NotListeningError: it ended instead, or did not listen in time.
        """
        assert self._process is None, "it runs already"
        self._stderr.clear()
        self._process = process = await _spawn(self.module, *self.arguments, environment=self.environment)
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = asyncio.create_task(self._read_stderr(process.stderr))
        line: bytes | None = None
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                line = await process.stdout.readline()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            process.kill()  # nobody will: to whoever cancels, it was never started
            raise
        if line is None or not line.startswith(LISTENING.encode()):
            # Who closes stdout without a word is about to end, and may do so in its own way.
            code = await self.wait() if line == b"" else await self.signal(signal.SIGKILL)
            raise NotListeningError(
                code, f"{self.module} printed {line!r} instead of its address, and wrote: {self.stderr}"
            )
        self.address = line.decode().removeprefix(LISTENING).strip()
        return self

    async def next_address(self) -> str:
        """The next address that the server says it listens on."""
        assert self._process is not None, "it does not run"
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_SECONDS_MAX):
            line = await self._process.stdout.readline()
        assert line.startswith(LISTENING.encode()), line
        return line.decode().removeprefix(LISTENING).strip()

    async def _read_stderr(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65_536):
            self._stderr += data
            del self._stderr[:-STDERR_BYTES_MAX]
            self._heard.set()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What the server wrote to stderr since it was started last; complete once it ended."""
        return self._stderr.decode(errors="replace")

    async def says(self, text: str) -> None:
        """Returns when the server, since it was started last, has written this text to stderr."""
        try:
            async with asyncio.timeout(SAYS_SECONDS_MAX):
                while text not in self.stderr:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"{self.module} did not say {text!r} but: {self.stderr}") from None

    async def wait(self) -> int:
        """Wait for the server to end by itself; returns its exit code (negative: the signal that ended it)."""
        process, reading = self._process, self._reading
        assert process is not None, "it does not run"
        assert reading is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(EXIT_SECONDS_MAX):
                await process.stdout.read()
                await reading
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"{self.module} did not end; it wrote: {self.stderr}") from None
        finally:
            self._process = self._reading = None
        return code

    async def stop(self) -> int:
        """Ask the server to end, as an operator does (SIGTERM); returns its exit code."""
        return await self.signal(signal.SIGTERM)

    async def kill(self) -> None:
        """End the server at once, as a power cut does (SIGKILL)."""
        await self.signal(signal.SIGKILL)

    async def signal(self, number: signal.Signals) -> int:
        """Send a signal and wait for the server to end; returns its exit code."""
        assert self._process is not None, "it does not run"
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self.kill()


class LogProcess(ServerProcess):
    """`treehead-log serve` on a data directory that `create_log` made, on a free loopback port."""

    def __init__(self, data: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(
            "treehead_logserver",
            "serve",
            *("--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            *arguments,
            environment=environment,
        )
        self.data = data
        self.http = ""
        """Where it listens for HTTP, as the beginning of URLs."""

    async def start(self) -> Self:
        await super().start()
        self.http = await self.next_address()
        return self


async def create_log(data: Path, *, origin: str, environment: Mapping[str, str] | None = None) -> str:
    """Run `treehead-log init`; returns the new log's vkey."""
    finished = await run_module(
        "treehead_logserver", "init", "--data", data, "--origin", origin, environment=environment
    )
    assert finished.exit_code == 0, finished.stderr
    return finished.stdout.strip()
