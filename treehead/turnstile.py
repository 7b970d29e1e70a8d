"""An ASGI application whose requests begin a few at a time, and those of every address in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from treehead.peer import address_of

BEGUN_PER_TURN = 2


class Turnstile:
    """Has few requests begin in one turn of the event loop, and no address before others that wait.

    One turn reads what every connection has sent. Were all of it worked on at once, whatever else is served in the loop
    would wait for a request of each connection. Were it worked on as it came, who has one request would wait for all of
    those of who has many.
    """

    def __init__(self, application: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._application = application
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By address, the one whose turn is next first; none is empty."""
        self._is_turning = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request when it is its turn."""
        loop = asyncio.get_running_loop()
        begun = loop.create_future()
        client = scope["client"]
        self._waiting.setdefault(address_of(client[0] if client else ""), deque()).append(begun)
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn, loop)
        await begun
        await self._application(scope, receive, send)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(BEGUN_PER_TURN):
            if not self._waiting:
                break
            address = next(iter(self._waiting))
            queue = self._waiting.pop(address)
            begun = queue.popleft()
            if queue:
                self._waiting[address] = queue  # behind the others
            if not begun.done():  # else it was given up
                begun.set_result(None)
        self._is_turning = bool(self._waiting)
        if self._is_turning:
            loop.call_soon(self._turn, loop)
