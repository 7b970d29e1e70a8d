"""The abusers' own HTTP/2: what they mean to send is what arrives, or what arrives broken is broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rig.server import EchoServer
from tests.abuse.caller import calling
from tests.abuse.frames import (
    END_STREAM,
    Frame,
    FrameReader,
    FrameType,
    field,
    format_frame,
    grpc_message,
    parse_messages,
)
from tests.abuse.record import Record
from tests.abuse.scene import Scene

ANSWER_BYTES = 800


@pytest.mark.parametrize("piece_bytes", [1, 10, 1_000])
def test_frames_are_read_as_they_were_printed_however_they_arrive(piece_bytes: int) -> None:
    frames = [
        Frame(FrameType.DATA, END_STREAM, 7, b"x" * 30),
        Frame(FrameType.PING, 0, 0, bytes(8)),
        Frame(255, 9, 1, b""),
    ]
    data = b"".join(format_frame(frame.kind, frame.flags, frame.stream, frame.payload) for frame in frames)
    reader = FrameReader()
    read = [frame for at in range(0, len(data), piece_bytes) for frame in reader.read(data[at : at + piece_bytes])]
    assert read == frames


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        (0, b"\x00"),
        (126, b"\x7e"),
        (127, b"\x7f\x00"),
        (254, b"\x7f\x7f"),
        (255, b"\x7f\x80\x01"),
        (1_337, b"\x7f\xba\x09"),
    ],
)
def test_lengths_are_those_of_hpack(length: int, prefix: bytes) -> None:
    assert field(b"x", b"y" * length) == b"\x00\x01x" + prefix + b"y" * length


def test_messages_are_read_as_they_were_printed_and_a_part_of_one_is_none() -> None:
    data = grpc_message(b"one") + grpc_message(b"") + grpc_message(b"three")
    assert parse_messages(data) == [b"one", b"", b"three"]
    assert parse_messages(data[:-1]) == [b"one", b""]


async def test_a_caller_is_answered_even_if_it_sends_more_than_fits_into_a_window(tmp_path: Path) -> None:
    async with EchoServer(tmp_path, answer_bytes=ANSWER_BYTES) as server:
        host, _, port = server.address.rpartition(":")
        address = (host, int(port))
        with Record(tmp_path / "record") as record:
            scene = Scene(grpc=address, http=address, sources=["127.0.0.2"], seed="frames", record=record)
            async with calling(scene) as caller:
                for request_bytes in (0, 300, 1_000_000):
                    assert await caller.call("AddEntry", bytes(request_bytes)) == [bytes(ANSWER_BYTES)]
                assert await caller.call("AddEntry", bytes(9_000_000)) == []
