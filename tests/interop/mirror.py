"""A mirror of a log over HTTP that may lie: what a reader is shown by somebody between it and the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx

HEAD_SECONDS_MAX = 10

Change = Callable[[str, bytes], bytes]
"""Makes what is shown for a path (without the slash before it) of what the log has there."""


@contextlib.asynccontextmanager
async def mirrored(log: str, change: Change) -> AsyncIterator[str]:
    """Serve on a loopback port what is at the URL `log`, changed; gives the URL."""
    connections: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(base_url=log, timeout=HEAD_SECONDS_MAX) as client:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                async with asyncio.timeout(HEAD_SECONDS_MAX):
                    head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode().removeprefix("/")
                got = await client.get(f"/{path}")
                body = change(path, got.content) if got.is_success else got.content
                first = f"HTTP/1.1 {got.status_code} Mirrored\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
                writer.write(f"{first}\r\n".encode() + body)
                await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass  # the reader is gone
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await asyncio.gather(*connections, return_exceptions=True)
