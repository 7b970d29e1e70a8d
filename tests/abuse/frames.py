"""HTTP/2 in frames: as little of it as it takes to speak gRPC, and to speak it badly (RFC 9113, RFC 7541).

gRPC's own client can neither come from another address nor break a rule, so those who abuse a log write these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
FRAME_BYTES_MAX = 16_384
WINDOW_BYTES = 65_535
WINDOW_BYTES_MAX = 2**31 - 1
INITIAL_WINDOW_SIZE = 4
CANCEL = 8

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8


class FrameType(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it arrived."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def format_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Print a frame; nothing keeps it from being nonsense."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(*, window_bytes: int = WINDOW_BYTES) -> bytes:
    """A SETTINGS frame that says how much may be sent to us on each stream."""
    return format_frame(
        FrameType.SETTINGS, 0, 0, INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window_bytes.to_bytes(4, "big")
    )


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return format_frame(FrameType.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int) -> bytes:
    """A RST_STREAM frame that cancels a call."""
    return format_frame(FrameType.RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))


class FrameReader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def read(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with this."""
        received = self._received
        received += data
        at = 0
        while len(received) >= at + HEAD_BYTES:
            length = int.from_bytes(received[at : at + 3], "big")
            end = at + HEAD_BYTES + length
            if len(received) < end:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + HEAD_BYTES], "big") & WINDOW_BYTES_MAX
            yield Frame(kind, flags, stream, bytes(received[at + HEAD_BYTES : end]))
            at = end
        del received[:at]


# --- fields and messages ---------------------------------------------------------------------------------------------


def _string(octets: bytes) -> bytes:
    """A string of HPACK, without Huffman's code."""
    length = len(octets)
    if length < 127:
        return bytes((length,)) + octets
    prefix = bytearray((127,))
    length -= 127
    while length >= 128:
        prefix.append(length % 128 + 128)
        length //= 128
    prefix.append(length)
    return bytes(prefix) + octets


def field(name: bytes, value: bytes) -> bytes:
    """A header field of HPACK, literal and not indexed."""
    return b"\x00" + _string(name) + _string(value)


def indexed_field(name: bytes, value: bytes) -> bytes:
    """A header field of HPACK, literal, which the receiver has to keep; it is then the newest in the table, 62."""
    return b"\x40" + _string(name) + _string(value)


def call_head(path: bytes, *fields: bytes) -> bytes:
    """The header block of a call: POST, http, the path, and whatever else."""
    return b"".join(
        (
            b"\x83\x86",
            field(b":path", path),
            field(b":authority", b"log.example"),
            field(b"content-type", b"application/grpc"),
            field(b"te", b"trailers"),
            *fields,
        )
    )


def method_path(method: str) -> bytes:
    """The path of a method of the log."""
    return f"/treehead.v1.Log/{method}".encode()


def grpc_message(data: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC puts it into a stream."""
    return bytes((compressed,)) + len(data).to_bytes(4, "big") + data


def parse_messages(data: bytes) -> list[bytes]:
    """The messages in what came of a stream, of which none is compressed; one that is cut short is left out."""
    messages, at = [], 0
    while len(data) >= at + 5:
        begin, end = at + 5, at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
        if len(data) < end:
            break
        messages.append(data[begin:end])
        at = end
    return messages
