"""HTTP/1.1 as whole requests, and answers read as far as it takes to go on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a length."""

    status: int
    body: bytes

    def __str__(self) -> str:
        return str(self.status)


def format_request(method: str, target: str, body: bytes = b"", *lines: str, length: str | None = None) -> bytes:
    """Print a request with its length, or with another one."""
    head = [f"{method} {target} HTTP/1.1", "host: log.example", *lines]
    if method == "POST":
        head.append(f"content-length: {len(body) if length is None else length}")
    return "".join(f"{line}\r\n" for line in (*head, "")).encode("latin-1") + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read an answer to its end.

    Raises:
        EOFError: there is none.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(fields.get("content-length", "0"))
    return Answer(int(first.split(" ")[1]), await reader.readexactly(length))
