"""A caller of gRPC over one HTTP/2 connection of our own making: many calls at once, each to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.abuse.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_MAX,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    WINDOW_BYTES,
    WINDOW_BYTES_MAX,
    Frame,
    FrameReader,
    FrameType,
    call_head,
    format_frame,
    grpc_message,
    method_path,
    parse_messages,
    settings,
    window_update,
)
from tests.abuse.scene import Scene

ANSWER_BYTES_MAX = 65_536
"""How much is kept of an answer; what is longer is taken, and thrown away."""

_READ_BYTES = 262_144
_GRANT_BYTES = 2**29


@dataclass(slots=True, kw_only=True)
class _Stream:
    """One call: what has come of its answer, and how much may be sent yet."""

    window: int
    received: bytearray = field(default_factory=bytearray)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Caller:
    """Calls methods of a log. Its windows are as wide as can be, and those of the server are respected."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._window = WINDOW_BYTES
        self._stream_window = WINDOW_BYTES
        self._wider = asyncio.Event()
        self._ungranted = 0
        self._ended = False
        writer.write(PREFACE + settings(window_bytes=WINDOW_BYTES_MAX))
        writer.write(window_update(0, WINDOW_BYTES_MAX - WINDOW_BYTES))

    async def call(self, method: str, request: bytes, *, compressed: bool = False, fields: bytes = b"") -> list[bytes]:
        """The messages of the answer, of one that is long the first; none if the call failed, for whatever reason.

        Raises:
            ConnectionError: the connection ended.
        """
        if self._ended:
            raise ConnectionResetError("the server has ended the connection")
        body = grpc_message(request, compressed=compressed)
        stream, number = _Stream(window=self._stream_window), self._next
        self._next += 2
        self._streams[number] = stream
        head = call_head(method_path(method), fields)
        try:
            self._writer.write(format_frame(FrameType.HEADERS, END_HEADERS, number, head))
            await self._send(number, stream, body)
            await stream.done
        finally:
            self._streams.pop(number, None)
        return parse_messages(bytes(stream.received))

    async def _send(self, number: int, stream: _Stream, body: bytes) -> None:
        at = 0
        while at < len(body) and not stream.done.done():
            end = min(len(body), at + min(FRAME_BYTES_MAX, self._window, stream.window))
            if end <= at:
                self._wider.clear()
                waiting = asyncio.ensure_future(self._wider.wait())
                await asyncio.wait((waiting, stream.done), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                continue
            flags = END_STREAM if end == len(body) else 0
            self._writer.write(format_frame(FrameType.DATA, flags, number, body[at:end]))
            self._window -= end - at
            stream.window -= end - at
            at = end

    async def read(self) -> None:
        """Take what the server sends, until it ends the connection."""
        frames = FrameReader()
        try:
            while data := await self._reader.read(_READ_BYTES):
                for frame in frames.read(data):
                    self._take(frame)
        except OSError:
            pass
        finally:
            self._ended = True
            for stream in self._streams.values():
                if not stream.done.done():
                    stream.done.set_exception(ConnectionResetError("the server ended the connection"))

    def _take(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        match frame.kind:
            case FrameType.DATA:
                self._ungranted += len(frame.payload)
                if self._ungranted > _GRANT_BYTES:
                    self._writer.write(window_update(0, self._ungranted))
                    self._ungranted = 0
                if stream is not None and len(stream.received) < ANSWER_BYTES_MAX:
                    stream.received += frame.payload
            case FrameType.SETTINGS if not frame.flags & ACK:
                self._take_settings(frame.payload)
                self._writer.write(format_frame(FrameType.SETTINGS, ACK, 0))
            case FrameType.PING if not frame.flags & ACK:
                self._writer.write(format_frame(FrameType.PING, ACK, 0, frame.payload))
            case FrameType.WINDOW_UPDATE:
                increment = int.from_bytes(frame.payload, "big")
                if not frame.stream:
                    self._window += increment
                elif stream is not None:
                    stream.window += increment
                self._wider.set()
            case _:
                pass
        is_end = frame.kind == FrameType.RST_STREAM or (
            frame.kind in (FrameType.DATA, FrameType.HEADERS) and frame.flags & END_STREAM
        )
        if is_end and stream is not None and not stream.done.done():
            stream.done.set_result(None)

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            if int.from_bytes(payload[at : at + 2], "big") == INITIAL_WINDOW_SIZE:
                window = int.from_bytes(payload[at + 2 : at + 6], "big")
                for stream in self._streams.values():
                    stream.window += window - self._stream_window
                self._stream_window = window
                self._wider.set()


@asynccontextmanager
async def calling(scene: Scene) -> AsyncIterator[Caller]:
    """A caller from one of the addresses of the scene."""
    async with scene.opened(scene.grpc) as (reader, writer):
        caller = Caller(reader, writer)
        reading = asyncio.create_task(caller.read())
        try:
            yield caller
        finally:
            reading.cancel()
            # Were the task awaited itself, its cancellation could not be told from ours.
            await asyncio.wait((reading,))
