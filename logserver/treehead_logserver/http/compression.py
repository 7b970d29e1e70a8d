"""gzip for answers: off the event loop, in one thread, and for a few answers at a time.

To compress takes the thread some hundred times as long as to send, so who asks for much of it would have all others
wait who ask for it, too. An answer for which there is no place goes out as it is, which every client takes.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

_GZIP_WBITS = 31
_GZIP_LEVEL = 6


class Compression:
    """The places of answers that are being compressed. Whoever enters leaves, however the answer ended.

    For one event loop. Its thread ends with it.
    """

    def __init__(self, *, answers_max: int) -> None:
        self._answers_max = answers_max
        self._answers = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gzip")

    @property
    def has_place(self) -> bool:
        """Whether one more answer can be compressed."""
        return self._answers < self._answers_max

    def enter(self) -> None:
        """Take a place, of which there has to be one."""
        self._answers += 1

    def leave(self) -> None:
        """Give it back."""
        self._answers -= 1

    async def compressed(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces as one gzip stream, in pieces of their own."""
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
        loop = asyncio.get_running_loop()
        async for piece in pieces:
            if data := await loop.run_in_executor(self._thread, compressor.compress, piece):
                yield data
        yield compressor.flush()
