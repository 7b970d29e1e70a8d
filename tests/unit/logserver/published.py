"""Logs that have published their tree, and that tree as files, derived from the leaves alone and served over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tests.unit.library.specimens import LOG_KEY
from tests.unit.logserver.directory import make
from tests.unit.logserver.parts import SIGNER, candidate, parts, random_leaves
from treehead.merkle import HASH_BYTES, hash_leaf
from treehead.tile import TILE_WIDTH, RightEdge, TilePath, format_entry_bundle, format_tile_path
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.highwater import HighWaterMark
from treehead_logserver.progress import Progress

BATCH = 5_000
MANY = 66_000
"""Entries of a tree with a full tile of level 1."""


class Steps(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.steps: list[int] = []

    def begin(self, what: str, *, total: int | None = None) -> None:
        self.total = total

    def reach(self, done: int) -> None:
        self.steps.append(done)


async def published(path: Path, *sizes: int, seed: int = 1) -> DataDirectory:
    """The directory of a log that has published its tree at some sizes, and holds the first of the leaves of a seed."""
    directory = make(path)
    await publish(directory, *sizes, seed=seed)
    return directory


async def publish(directory: DataDirectory, *sizes: int, seed: int = 1) -> None:
    """Have the log grow to a size, and publish its tree; and so on."""
    leaves = random_leaves(max(sizes), seed=seed)
    mark = HighWaterMark.open(directory.mark, vkey=LOG_KEY)
    with contextlib.closing(mark):
        async with parts(directory.database, settle=lambda state: mark.raise_to(state.size, state.checkpoint)) as log:
            for size in sizes:
                while (there := log.heads.size) < size:
                    batch = leaves[there : min(there + BATCH, size)]
                    await log.sequencer.submit([candidate(leaf) for leaf in batch])
                await log.storage.publish(log.heads.newest.checkpoint, size=size)


def set_note(directory: DataDirectory, name: str, note: bytes) -> None:
    """Change a note behind the log's back."""
    with contextlib.closing(sqlite3.connect(directory.database, isolation_level=None)) as connection:
        connection.execute("insert or replace into notes values (?, ?)", (name, note))


def files_of(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """The tree of some leaves as C2SP tlog-tiles has it, with its signed checkpoint."""
    edge = RightEdge()
    full = edge.append(map(hash_leaf, leaves))
    tiles = {TilePath(*tile, TILE_WIDTH): expanded.hashes for tile, expanded in full.items()}
    for tile, expanded in edge.tiles().items():
        tiles[TilePath(*tile, len(expanded.hashes) // HASH_BYTES)] = expanded.hashes
    for first in range(0, len(leaves), TILE_WIDTH):
        bundle = leaves[first : first + TILE_WIDTH]
        tiles[TilePath(None, first // TILE_WIDTH, len(bundle))] = format_entry_bundle(bundle)
    files = {format_tile_path(path): data for path, data in tiles.items()}
    return {"checkpoint": SIGNER.state_of(edge).checkpoint, **files}


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but those whose names begin with a dot."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# --- served over HTTP ------------------------------------------------------------------------------------------------

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes a whole HTTP response, or what is left of one."""


class FileServer:
    """Serves files as a web server does, unless it is told to answer in some other way."""

    def __init__(self, files: Mapping[str, bytes], answers: Mapping[str, Answer] | None = None) -> None:
        self.files = dict(files)
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self.at_once_max = 0
        self.url = ""
        self._at_once = 0

    @contextlib.asynccontextmanager
    async def serving(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FileServer]:
        """Serve on a free port of this machine."""
        connections: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                await self._serve(reader, writer)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        host, port = server.sockets[0].getsockname()
        self.url = f"{'http' if tls is None else 'https'}://{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in list(connections):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            while await reader.readline() not in {b"\r\n", b""}:
                pass
            path = request.split()[1].decode().removeprefix("/")
            self.asked.append(path)
            self._at_once += 1
            self.at_once_max = max(self.at_once_max, self._at_once)
            try:
                await asyncio.sleep(0)
                await self._answer(path)(writer)
                await writer.drain()
            finally:
                self._at_once -= 1

    def _answer(self, path: str) -> Answer:
        if path in self.answers:
            return self.answers[path]
        if path in self.files:
            return answer(200, self.files[path])
        return answer(404, b"there is no such file\n")


def answer(status: int, body: bytes = b"", **fields: str | None) -> Answer:
    """A response; a field that is None is left out."""
    named = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in fields.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value is not None)

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} So\r\n{head}\r\n".encode() + body)
        if fields.get("connection") == "close":
            await writer.drain()
            writer.close()

    return write


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other, and the last one from then on."""
    left = list(answers)

    async def write(writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(writer)

    return write
