"""Servers under load, each a process of its own on a free loopback port: a log, and gRPC that does nothing."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.rig.process import Usage, usage_of
from treehead.keys import VerifierKey, parse_vkey

ORIGIN = "log.example/bench"
LISTENING = "listening on "
START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60
WAL_SUFFIX = "-wal"


class ServerError(Exception):
    """A server did not start, or ended before it was told to; the message holds what it wrote last."""


class ServerProcess:
    """`python -m MODULE …`, which prints its address when it answers. A context, whose end stops it."""

    def __init__(self, module: str, *arguments: str | Path, stderr: Path) -> None:
        self._command = (sys.executable, "-m", module, *map(str, arguments))
        self._stderr = stderr
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""
        self.start_s = 0.0

    async def __aenter__(self) -> Self:
        """Returns when the server answers; `start_s` is how long that took, from the start of the process on."""
        started = time.perf_counter()
        with self._stderr.open("wb") as stderr:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=stderr
            )
        if process.stdout is None:
            raise ServerError("the server was started without a pipe")
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                line = (await process.stdout.readline()).decode()
        except TimeoutError:
            line = ""
        self.start_s = time.perf_counter() - started
        if not line.startswith(LISTENING):
            await self._kill()
            raise ServerError(f"the server did not start; it wrote: {self._last_words()}")
        self.address = line.removeprefix(LISTENING).strip()
        return self

    async def next_line(self) -> str:
        """The next line that the server prints, of those that it prints when it is ready."""
        if self._process is None or self._process.stdout is None:
            raise ServerError("the server does not run")
        async with asyncio.timeout(START_SECONDS_MAX):
            return (await self._process.stdout.readline()).decode().removesuffix("\n")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            await self._kill()
        else:
            await self._stop()

    def usage(self) -> Usage:
        """What the process has used up to now."""
        if self._process is None or self._process.returncode is not None:
            raise ServerError(f"the server has ended; it wrote: {self._last_words()}")
        return usage_of(self._process.pid)

    async def _stop(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                code = await self._process.wait()
        except TimeoutError:
            await self._kill()
            raise ServerError(f"the server did not stop within {STOP_SECONDS_MAX} s") from None
        if code:
            raise ServerError(f"the server ended with exit code {code}; it wrote: {self._last_words()}")

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _last_words(self) -> str:
        return self._stderr.read_text(encoding="utf-8", errors="replace")[-2_000:]


class LogServer(ServerProcess):
    """`treehead-log serve` on a folder that `create_log` made, for these kinds of entries or for its own choice."""

    def __init__(self, folder: Path, *, kinds: Sequence[str] = ()) -> None:
        where: tuple[str | Path, ...] = ("serve", "--data", folder, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
        chosen = [argument for kind in kinds for argument in ("--kind", kind)]
        super().__init__("treehead_logserver", *where, *chosen, stderr=folder / "stderr.txt")
        self._folder = folder
        self.vkey = read_vkey(folder)
        self.http = ""
        """Where it listens for HTTP: HOST:PORT, as `address` is for gRPC."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.http = (await self.next_line()).removeprefix(f"{LISTENING}http://")
        return self

    def wal_bytes(self) -> int:
        """The size of the write-ahead log, 0 if there is none."""
        path = database(self._folder)
        wal = path.with_name(path.name + WAL_SUFFIX)
        return wal.stat().st_size if wal.exists() else 0


class EchoServer(ServerProcess):
    """gRPC without a log: it answers every call with the same bytes (see `bench.rig.echo`)."""

    def __init__(self, folder: Path, *, answer_bytes: int) -> None:
        super().__init__("bench.rig.echo", str(answer_bytes), stderr=folder / "echo.txt")


class HttpEchoServer(ServerProcess):
    """HTTP without a log: it answers every request with the same bytes (see `bench.rig.httpecho`)."""

    def __init__(self, folder: Path, *, answer_bytes: int) -> None:
        super().__init__("bench.rig.httpecho", str(answer_bytes), stderr=folder / "httpecho.txt")


async def create_log(folder: Path) -> None:
    """Make a log without entries in a folder."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "treehead_logserver", "init", "--data", str(folder), "--origin", ORIGIN),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode:
        raise ServerError(f"no log could be made: {stderr.decode(errors='replace')}")


def read_vkey(folder: Path) -> VerifierKey:
    """The key of the log in a folder."""
    return parse_vkey((folder / "vkey").read_text(encoding="utf-8").removesuffix("\n"))


def database(folder: Path) -> Path:
    """The database of the log in a folder."""
    return folder / "log.sqlite"


def disk_bytes(folder: Path) -> int:
    """What the database of a stopped log takes on disk, with whatever SQLite put beside it."""
    path = database(folder)
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def forget_pages(folder: Path) -> None:
    """Have the operating system drop what it caches of the database of a stopped log, as after a restart."""
    descriptor = os.open(database(folder), os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
