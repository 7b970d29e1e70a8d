"""Web servers that others wrote, each serving a folder on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

START_SECONDS_MAX = 20

FileServer = Callable[[Path, Path], AbstractAsyncContextManager[str]]
"""Serves the first folder, and may write into the second; gives the URL."""

_SERVING = re.compile(rb"port (\d+)")

_NGINX = """\
daemon off;
master_process off;
{user}
pid {scratch}/pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder};
    }}
}}
"""


@contextlib.asynccontextmanager
async def python_http_server(folder: Path, scratch: Path) -> AsyncIterator[str]:
    """The http.server of Python."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), "0"]
    async with _server(command, says=b"Serving HTTP") as line:
        match = _SERVING.search(line)
        assert match is not None, line
        yield f"http://127.0.0.1:{match[1].decode()}"


@contextlib.asynccontextmanager
async def nginx(folder: Path, scratch: Path) -> AsyncIterator[str]:
    """nginx, with nothing configured but the folder."""
    program = shutil.which("nginx")
    assert program is not None
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""  # else it gives up being root, and cannot read our folders
    file = scratch / "nginx.conf"
    file.write_text(_NGINX.format(user=user, scratch=scratch, port=port, folder=folder), encoding="utf-8")
    async with _server([program, "-p", str(scratch), "-c", str(file)], says=b"using the"):
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def _server(command: Sequence[str], *, says: bytes) -> AsyncIterator[bytes]:
    """Run a server; gives the line of its output that says that it listens."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            line = await process.stdout.readline()
            while says not in line:
                assert line, f"{command[0]} has ended"
                line = await process.stdout.readline()
        draining = asyncio.create_task(process.stdout.read())  # it logs what it is asked, and must not wait for us
        try:
            yield line
        finally:
            process.kill()
            await draining
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
