"""The check of a tree that somebody serves: our log, an export of it, another program's (C2SP tlog-tiles).

    1. the checkpoint   signed by the log whose key is given
    2. the edge         the tiles that are not full: what the root is made of
    3. the rest         from left to right, each tile before those below it, and each bundle of entries after its tile

It streams: several resources are asked for ahead, judged in their order, and forgotten. That the network or the server
fails is no finding. Then the check ends, and the report says so beside what was found until then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import islice

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, UnavailableError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.merkle import HASH_BYTES
from treehead.note import NOTE_BYTES_MAX
from treehead.tile import (
    ENTRY_BYTES_MAX,
    TILE_WIDTH,
    TileId,
    TilePath,
    format_tile_path,
    parse_entry_bundle,
)
from treehead.tls import ClientTls
from treehead_logserver.fsck.findings import Findings
from treehead_logserver.fsck.remote.server import Bounds, Defect, Server
from treehead_logserver.fsck.remote.tree import ServedTree, edge_of, resources_of
from treehead_logserver.fsck.report import Report
from treehead_logserver.progress import Progress

_LENGTH_BYTES = 2

_Resource = bytes | tuple[bytes, ...]
"""A tile's hashes, or a bundle's entries."""


async def check_url(
    url: str, *, vkey: VerifierKey, tls: ClientTls, progress: Progress, bounds: Bounds | None = None
) -> Report:
    """Check the tree that is served under a URL, against the log's key.

    Not checked: cosignatures, and whether this is what others are shown.

    Raises:
        UsageError: the URL or a file of `tls` cannot be used, or signatures of the key's type cannot be verified.
        UnavailableError: there was no answer to the first request.
    """
    if vkey.key_type is not NoteKeyType.ED25519:
        raise UsageError(
            f"the log's key is of signature type 0x{vkey.key_type:02x}, and signatures of type 0x01 (Ed25519) only can "
            "be verified here"
        )
    bounds = bounds or Bounds()
    async with Server(url, tls=tls, bounds=bounds) as server:
        return await _Check(url, server, vkey=vkey, in_flight=bounds.in_flight, progress=progress).run()


class _Check:
    """One check of one server."""

    def __init__(self, url: str, server: Server, *, vkey: VerifierKey, in_flight: int, progress: Progress) -> None:
        self._url = url
        self._server = server
        self._vkey = vkey
        self._in_flight = in_flight
        self._progress = progress
        self._findings = Findings()
        self._began = time.monotonic()
        self._entries = 0
        self._tiles = 0

    async def run(self) -> Report:
        checkpoint = await self._fetch_checkpoint()
        unchecked = None
        if checkpoint is not None:
            try:
                await self._check_tree(checkpoint)
            except UnavailableError as exc:
                unchecked = str(exc)
        is_clean = not self._findings and unchecked is None
        return Report(
            origin=self._vkey.name,
            url=self._url,
            size=None if checkpoint is None else checkpoint.size,
            root=checkpoint.root if checkpoint is not None and is_clean else None,
            entries=self._entries,
            tiles=self._tiles,
            lookups=None,
            mark_size=None,
            findings=self._findings.kept,
            findings_more=self._findings.more,
            unchecked=unchecked,
            seconds=time.monotonic() - self._began,
        )

    async def _fetch_checkpoint(self) -> Checkpoint | None:
        data = await self._server.get("checkpoint", bytes_max=NOTE_BYTES_MAX)
        if isinstance(data, Defect):
            self._findings.add("checkpoint", data.what)
            return None
        try:
            return open_checkpoint(data, key=self._vkey)
        except (MalformedError, SignatureError) as exc:
            self._findings.add("checkpoint", f"is not by {self._vkey.name}: {exc}")
            return None

    async def _check_tree(self, checkpoint: Checkpoint) -> None:
        size = checkpoint.size
        self._progress.begin("entries", total=size)
        edge: dict[TilePath, bytes | None] = dict.fromkeys(edge_of(size))
        async with aclosing(self._fetched(edge)) as fetched:
            async for path, found in fetched:
                if isinstance(found, bytes):
                    edge[path] = found
        tree = ServedTree(size, checkpoint.root, edge, self._findings)
        async with aclosing(self._fetched(resources_of(size))) as fetched:
            async for path, found in fetched:
                if path.level is None:
                    tree.append(found if isinstance(found, tuple) else None)
                    self._progress.reach(path.number * TILE_WIDTH + path.width)
                elif isinstance(found, bytes):
                    tree.hold(TileId(path.level, path.number), found)
        tree.finish()

    async def _fetched(self, paths: Iterable[TilePath]) -> AsyncGenerator[tuple[TilePath, _Resource | None]]:
        """Some resources, in their order; several are asked for ahead. One that is not as it has to be is a finding."""
        asked: deque[tuple[TilePath, asyncio.Task[_Resource | Defect]]] = deque()
        left = iter(paths)
        try:
            while True:
                for path in islice(left, self._in_flight - len(asked)):
                    asked.append((path, asyncio.create_task(self._fetch(path))))
                if not asked:
                    return
                path, task = asked[0]
                found = await task
                asked.popleft()
                yield path, self._noted(path, found)
        finally:
            for _, task in asked:
                task.cancel()
            await asyncio.gather(*(task for _, task in asked), return_exceptions=True)

    def _noted(self, path: TilePath, found: _Resource | Defect) -> _Resource | None:
        if isinstance(found, Defect):
            self._findings.add(format_tile_path(path), found.what)
            return None
        if isinstance(found, bytes):
            self._tiles += 1
        else:
            self._entries += len(found)
        return found

    async def _fetch(self, path: TilePath) -> _Resource | Defect:
        """A resource, or what was found for it. The full tile will do where a partial one is not there any more."""
        found = await self._fetch_as_named(path)
        if path.width == TILE_WIDTH or not isinstance(found, Defect) or not found.is_missing:
            return found
        full = await self._fetch_as_named(path._replace(width=TILE_WIDTH))
        if isinstance(full, Defect):
            return Defect(f"{found.what}, and the full one {full.what}")
        return full[: path.width * HASH_BYTES] if isinstance(full, bytes) else full[: path.width]

    async def _fetch_as_named(self, path: TilePath) -> _Resource | Defect:
        name = format_tile_path(path)
        if path.level is not None:
            length = path.width * HASH_BYTES
            return await self._server.get(name, bytes_max=length, length=length)
        data = await self._server.get(name, bytes_max=path.width * (_LENGTH_BYTES + ENTRY_BYTES_MAX), may_be_gzip=True)
        if isinstance(data, Defect):
            return data
        try:
            entries = parse_entry_bundle(data)
        except MalformedError as exc:
            return Defect(f"is no bundle of entries: {exc}")
        if len(entries) != path.width:
            return Defect(f"has {len(entries)} entries, and must have {path.width}")
        return entries
