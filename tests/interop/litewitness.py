"""litewitness, a witness that others run in earnest, as a process with an ssh-agent of its own that holds its key."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sqlite3
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from treehead.keys import VerifierKey, format_vkey, parse_vkey
from treehead.merkle import EMPTY_ROOT

START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 10
DATABASE_SECONDS_MAX = 10
NAME = "witness.example/lite"

_VKEY = re.compile(r'vkey="?([^"\s]+)"?')


@dataclass(slots=True, kw_only=True)
class Litewitness:
    """One witness, which comes back to its port, its key and what it remembers when it is started again."""

    program: Path
    folder: Path
    agent: Path
    fingerprint: str
    port: int
    _process: asyncio.subprocess.Process | None = None
    _reading: asyncio.Task[None] | None = None
    _stderr: list[str] = field(default_factory=list)
    _listens: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Its submission prefix."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def vkey(self) -> VerifierKey:
        """What it says that its key is."""
        (found,) = {match[1] for line in self._stderr if (match := _VKEY.search(line))}
        return parse_vkey(found)

    @property
    def policy(self) -> str:
        """A policy that wants its cosignature."""
        return f"witness lite {format_vkey(self.vkey)} {self.url}\nquorum lite\n"

    async def start(self) -> None:
        """Returns when it listens."""
        assert self._process is None, "it runs already"
        self._stderr.clear()
        self._listens.clear()
        self._process = process = await asyncio.create_subprocess_exec(
            self.program,
            *("-name", NAME, "-db", self.folder / "witness.sqlite", "-key", self.fingerprint),
            *("-ssh-agent", self.agent, "-listen", f"127.0.0.1:{self.port}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        self._reading = asyncio.create_task(self._read(process.stderr))
        async with asyncio.timeout(START_SECONDS_MAX):
            await self._listens.wait()
        assert process.returncode is None, self._stderr

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self._stderr.append(line.decode(errors="replace"))
            if "msg=listening" in self._stderr[-1]:
                self._listens.set()
        self._listens.set()  # it will not any more

    async def stop(self) -> None:
        """Returns when it has ended, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        assert self._reading is not None
        await self._reading

    def learn(self, log: VerifierKey) -> None:
        """Have it know a log, as its operator does while it runs.

        The tool for that, witnessctl, needs a module that is not to be had everywhere; this writes what it writes.
        """
        with (
            contextlib.closing(
                sqlite3.connect(self.folder / "witness.sqlite", timeout=DATABASE_SECONDS_MAX)
            ) as database,
            database,
        ):
            empty = b64encode(EMPTY_ROOT).decode()
            database.execute("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", (log.name, empty))
            database.execute("INSERT INTO key (origin, key) VALUES (?, ?)", (log.name, format_vkey(log)))

    def remembered_size(self, log: VerifierKey) -> int:
        """The size of the checkpoint of a log that it cosigned last."""
        with contextlib.closing(
            sqlite3.connect(self.folder / "witness.sqlite", timeout=DATABASE_SECONDS_MAX)
        ) as database:
            ((size,),) = database.execute("SELECT tree_size FROM log WHERE origin = ?", (log.name,))
        assert isinstance(size, int)
        return size


@contextlib.asynccontextmanager
async def running_litewitness(program: Path, folder: Path) -> AsyncIterator[Litewitness]:
    """A witness with a new key, which knows no log yet. `folder` has a short name: sockets want that."""
    key, agent = folder / "key", folder / "agent"
    await _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    fingerprint = (await _run("ssh-keygen", "-l", "-f", key)).split()[1]
    async with _ssh_agent(agent):
        await _run("env", f"SSH_AUTH_SOCK={agent}", "ssh-add", "-q", key)
        witness = Litewitness(program=program, folder=folder, agent=agent, fingerprint=fingerprint, port=_free_port())
        try:
            await witness.start()
            yield witness
        finally:
            await witness.stop()


@contextlib.asynccontextmanager
async def _ssh_agent(path: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *("ssh-agent", "-D", "-a", path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS_MAX):
            assert await process.stdout.readline(), "ssh-agent does not start"  # where it listens, and so that it does
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _run(*command: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(START_SECONDS_MAX):
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port
