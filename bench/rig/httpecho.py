"""HTTP without a log, to compare with: `python -m bench.rig.httpecho BYTES`.

It answers every request at once with the same bytes, with the protocol, the bounds and the event loop of our servers.
What a log takes beyond this is the log; what this takes is HTTP in Python.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from treehead.httpserver import HttpBounds, HttpServer
from treehead.server import loop_factory, stop_requested

DRAIN_MS = 1_000

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class _Echo:
    """The application: it reads the body, and answers."""

    def __init__(self, answer: bytes) -> None:
        length = b"%d" % len(answer)
        headers = [(b"content-length", length), (b"content-type", b"text/plain; charset=utf-8")]
        self._start = {"type": "http.response.start", "status": 200, "headers": headers}
        self._body = {"type": "http.response.body", "body": answer}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send(self._start)
        await send(self._body)


async def _serve(answer: bytes) -> None:
    stop = stop_requested()
    server = HttpServer(_Echo(answer), bounds=HttpBounds(), drain_ms=DRAIN_MS)
    print(f"listening on {await server.start('127.0.0.1:0')}", flush=True)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(bytes(int(sys.argv[1]))))
