"""The HTTP listener of a running log: tiles, `/add`, what operators look at, and what is turned away."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from tests.unit.library.specimens import attestation_leaf, hashedrekord_leaf
from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.keys import VerifierKey
from treehead.merkle import hash_leaf
from treehead.tile import (
    TILE_WIDTH,
    RightEdge,
    TileId,
    TilePath,
    format_entry_bundle,
    format_tile_path,
    parse_entry_bundle,
)
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS
from treehead_logserver.app import running_log
from treehead_logserver.config import Limits, ServeConfig
from treehead_logserver.datadir import DataDirectory, create_log
from treehead_logserver.kinds import ALL_KINDS, SIGNED_KINDS
from treehead_logserver.quota import Rate, Rates
from treehead_logserver.rules import AdmissionRules

ORIGIN = "log.example/http"
LIMITS = Limits(publish_ms=10, chunk_bytes_max=4_096)
COUNT = 700
"""Entries in the log that only reading tests share: two full tiles and a partial one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A log that runs in this process, and an HTTP client of it."""

    vkey: VerifierKey
    address: str
    grpc: str
    http: httpx.AsyncClient

    async def add(self, leaf: bytes) -> int:
        response = await self.http.post("/add", content=leaf)
        assert response.status_code == 200, response.text
        return int(response.text)

    async def add_all(self, *leaves: bytes) -> None:
        """Add entries in one commit, and publish the tree that they make."""
        request = log_pb2.AddEntriesRequest(leaves=leaves, wait=log_pb2.WAIT_WITNESSED)
        async with grpc.aio.insecure_channel(self.grpc, options=CHANNEL_OPTIONS) as channel:
            await LogStub(channel).AddEntries(request, timeout=30)

    async def published(self, size: int) -> Checkpoint:
        """The published checkpoint, once it is of this size or larger."""
        async with asyncio.timeout(30):
            while (checkpoint := await self.checkpoint()).size < size:  # noqa: ASYNC110 -- of another party, which is asked
                await asyncio.sleep(0)
        return checkpoint

    async def checkpoint(self) -> Checkpoint:
        return open_checkpoint((await self.get("/checkpoint")).content, key=self.vkey)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={"accept-encoding": "identity", **_fields(headers)})


def _fields(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    *,
    kinds: frozenset[str] = ALL_KINDS,
    limits: Limits = LIMITS,
    rules: AdmissionRules | None = None,
    rates: Rates | None = None,
) -> AsyncIterator[Log]:
    directory = DataDirectory(path=folder)
    if not directory.vkey.exists():
        create_log(directory, origin=ORIGIN, passphrase=None)
    config = ServeConfig(
        data=folder,
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        rules=rules or AdmissionRules(kinds=kinds),
        rates=rates or Rates(),
        limits=limits,
    )
    async with (
        running_log(config) as running,
        httpx.AsyncClient(base_url=f"http://{running.http}", trust_env=False, timeout=30) as http,
    ):
        yield Log(vkey=running.vkey, address=running.http, grpc=running.grpc, http=http)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    async with served(tmp_path / "log") as log:
        yield log


def leaves(count: int) -> list[bytes]:
    rng = random.Random(20261128)
    return [b"entry %d " % number + rng.randbytes(rng.randrange(200)) for number in range(count)]


LEAVES = leaves(COUNT)
NO_TILE = "this is not the path of a tile\n"


@pytest.fixture(scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    """A log of `COUNT` entries, added in three parts, each of which was published."""
    async with served(tmp_path_factory.mktemp("filled") / "log") as log:
        for begin, end in ((0, 45), (45, 300), (300, COUNT)):
            await log.add_all(*LEAVES[begin:end])
        yield log


def tile_bytes(leaves: Sequence[bytes], level: int, number: int, width: int) -> bytes:
    """A hash tile, by our own library from the leaves."""
    edge = RightEdge()
    full = edge.append(map(hash_leaf, leaves))
    tiles = {**full, **edge.tiles()}
    return tiles[TileId(level, number)].hashes[: 32 * width]


# --- tiles -----------------------------------------------------------------------------------------------------------


async def test_a_new_log_shows_the_checkpoint_of_the_empty_tree(log: Log) -> None:
    response = await log.get("/checkpoint")
    assert open_checkpoint(response.content, key=log.vkey).size == 0
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "public, max-age=1"


@pytest.mark.parametrize(
    ("level", "number", "width"),
    [(0, 0, 256), (0, 1, 256), (0, 2, COUNT - 512), (1, 0, 2)],
)
async def test_a_tile_has_the_hashes_of_the_tree(filled: Log, level: int, number: int, width: int) -> None:
    path = format_tile_path(TilePath(level, number, width))
    response = await filled.get(f"/{path}")
    assert response.status_code == 200
    assert response.content == tile_bytes(LEAVES, level, number, width)
    assert response.headers["content-type"] == "application/octet-stream"
    assert int(response.headers["content-length"]) == 32 * width


@pytest.mark.parametrize(("number", "width"), [(0, 256), (1, 256), (2, COUNT - 512)])
async def test_a_bundle_has_the_entries(filled: Log, number: int, width: int) -> None:
    response = await filled.get(f"/{format_tile_path(TilePath(None, number, width))}")
    expected = LEAVES[number * TILE_WIDTH : number * TILE_WIDTH + width]
    assert response.content == format_entry_bundle(expected)
    assert response.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/000"])
async def test_what_is_full_never_changes_and_may_be_kept_for_ever(filled: Log, path: str) -> None:
    response = await filled.get(f"/{path}")
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("path", ["tile/0/000.p/45", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000.p/45"])
async def test_what_an_earlier_published_checkpoint_implied_is_still_there(filled: Log, path: str) -> None:
    response = await filled.get(f"/{path}")
    assert response.status_code == 200
    assert "immutable" not in response.headers["cache-control"]
    if path.startswith("tile/entries"):
        assert response.content == format_entry_bundle(LEAVES[:45])


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/000.p/44",  # never the end of a published tree
        "tile/0/002.p/189",
        "tile/0/002.p/187",
        "tile/0/002",
        "tile/0/003.p/1",
        "tile/1/000.p/3",
        "tile/1/000",
        "tile/2/000.p/1",
        "tile/63/000.p/1",
        "tile/64/000",
        "tile/00/000",
        "tile/0/00",
        "tile/0/0",
        "tile/0/x000/000",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/000.p/045",
        "tile/0/%30%30%30",
        "tile/0/000/",
        "tile//000",
        "tile/0/999/999",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/003",
        "tile/8/0/000",
        "tile/0/../0/000",
        "tile/tile/0/000",
        "%74ile/0/000",
        "%74ile/tile/0/000",
        "tile/0/00%30",
        "tile/0/000?a=1",
        "checkpoin%74",
        "%66reeze",
        "api/v2/%74ile/tile/0/000",
        "%61pi/v2/tile/0/000",
        "api/v2/api/v2/tile/0/000",
        "tiles",
        "",
    ],
)
async def test_what_no_published_checkpoint_implies_is_not_found(filled: Log, path: str) -> None:
    status = await raw_status(filled, f"GET /{path} HTTP/1.1")
    assert status == 404


async def raw_status(log: Log, line: str) -> int:
    """The status that a request is answered with, whose first line no client has made prettier."""
    answer = await raw(log, f"{line}\r\nhost: log\r\nconnection: close\r\n\r\n".encode())
    return int(answer.split(b" ", 2)[1])


async def raw(log: Log, request: bytes) -> bytes:
    host, _, port = log.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000", "tile/entries/000"])
async def test_what_the_caller_has_already_is_not_sent_again(filled: Log, path: str) -> None:
    first = await filled.get(f"/{path}")
    again = await filled.get(f"/{path}", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = await filled.get(f"/{path}", if_none_match='"another"')
    assert (other.status_code, other.content) == (200, first.content)


async def test_another_content_has_another_etag(filled: Log) -> None:
    paths = ["tile/0/000", "tile/0/001", "tile/0/000.p/45", "tile/entries/000", "tile/entries/000.p/45", "checkpoint"]
    etags = {(await filled.get(f"/{path}")).headers["etag"] for path in paths}
    assert len(etags) == len(paths)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/000", "tile/entries/002.p/188", "checkpoint"])
@pytest.mark.parametrize(
    "wanted", ["bytes=0-0", "bytes=5-70", "bytes=100-", "bytes=-33", "bytes=-999999", "bytes=0-999999", "bytes=37-38"]
)
async def test_a_range_is_that_part(filled: Log, path: str, wanted: str) -> None:
    whole = (await filled.get(f"/{path}")).content
    part = await filled.get(f"/{path}", range=wanted)
    assert part.status_code == 206
    begin, _, end = part.headers["content-range"].removeprefix("bytes ").partition("/")[0].partition("-")
    assert part.headers["content-range"].endswith(f"/{len(whole)}")
    assert part.content == whole[int(begin) : int(end) + 1]
    expected = {
        "bytes=0-0": whole[:1],
        "bytes=5-70": whole[5:71],
        "bytes=100-": whole[100:],
        "bytes=-33": whole[-33:],
        "bytes=-999999": whole,
        "bytes=0-999999": whole,
        "bytes=37-38": whole[37:39],
    }
    assert part.content == expected[wanted]


async def test_a_range_beyond_the_end_is_refused_with_the_size(filled: Log) -> None:
    response = await filled.get("/tile/0/000", range="bytes=8192-")
    assert (response.status_code, response.headers["content-range"]) == (416, "bytes */8192")


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=0-1", "bytes=x-y", "bytes=5-2", ""])
async def test_a_range_of_another_form_gets_all_of_it(filled: Log, wanted: str) -> None:
    response = await filled.get("/tile/0/000", range=wanted)
    assert (response.status_code, len(response.content)) == (200, 8_192)


async def test_a_range_of_what_is_another_content_by_now_gets_all_of_it(filled: Log) -> None:
    response = await filled.get("/tile/0/000", range="bytes=0-1", if_range='"another"')
    assert (response.status_code, len(response.content)) == (200, 8_192)


async def test_entries_are_compressed_for_who_takes_that(filled: Log) -> None:
    plain = await filled.get("/tile/entries/000")
    async with filled.http.stream("GET", "/tile/entries/000", headers={"accept-encoding": "gzip"}) as response:
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["vary"] == "accept-encoding"
        assert response.headers["etag"] != plain.headers["etag"]
        compressed = b"".join([piece async for piece in response.aiter_raw()])
    assert gzip.decompress(compressed) == plain.content
    assert parse_entry_bundle(plain.content) == tuple(LEAVES[:256])


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br", ""])
async def test_entries_are_not_compressed_for_who_does_not(filled: Log, accepted: str) -> None:
    response = await filled.get("/tile/entries/000", accept_encoding=accepted)
    assert "content-encoding" not in response.headers
    assert len(response.content) == int(response.headers["content-length"])


async def test_nothing_is_sent_in_chunks_to_who_speaks_http_1_0(filled: Log) -> None:
    plain = await filled.get("/tile/entries/000")
    answer = await raw(filled, b"GET /tile/entries/000 HTTP/1.0\r\naccept-encoding: gzip\r\n\r\n")
    head, _, content = answer.partition(b"\r\n\r\n")
    assert content == plain.content
    fields = head.lower().split(b"\r\n")[1:]
    assert b"content-length: %d" % len(plain.content) in fields
    assert not any(field.startswith((b"transfer-encoding", b"content-encoding")) for field in fields)


async def test_what_is_known_in_either_coding_is_not_sent_again(filled: Log) -> None:
    first = await filled.get("/tile/entries/000")
    compressed = await filled.get("/tile/entries/000", accept_encoding="gzip")
    for known in (first, compressed):
        again = await filled.get("/tile/entries/000", accept_encoding="gzip", if_none_match=known.headers["etag"])
        assert (again.status_code, again.headers["etag"]) == (304, known.headers["etag"])
    other = await filled.get("/tile/entries/000", if_none_match=compressed.headers["etag"])
    assert (other.status_code, other.content) == (200, first.content)


async def test_who_has_answers_compressed_and_does_not_take_them_keeps_no_one_waiting(tmp_path: Path) -> None:
    rng = random.Random(2)
    count = 120  # 8 MB, of which the two ends of a connection keep half
    async with served(tmp_path / "log") as log:
        for _ in range(4):
            await log.add_all(*(rng.randbytes(65_535) for _ in range(count // 4)))
        path = f"/tile/entries/000.p/{count}"
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                head = await stack.enter_async_context(unread(log, path, accept_encoding="gzip"))
                assert b"content-encoding: gzip" in head
            response = await log.get(path, accept_encoding="gzip")
            assert "content-encoding" not in response.headers
            assert len(response.content) == int(response.headers["content-length"]) == count * 65_537
        async with asyncio.timeout(30):
            while not await has_compressed(log, path):  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def unread(log: Log, path: str, **headers: str) -> AsyncIterator[bytes]:
    """The head of an answer of which nothing more is read."""
    host, _, port = log.address.rpartition(":")
    loop = asyncio.get_running_loop()
    fields = "".join(f"{name}: {value}\r\n" for name, value in _fields(headers).items())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.setblocking(False)
        async with asyncio.timeout(30):
            await loop.sock_connect(connection, (host, int(port)))
            await loop.sock_sendall(connection, f"GET {path} HTTP/1.1\r\nhost: log\r\n{fields}\r\n".encode())
            yield await loop.sock_recv(connection, 1_024)


async def has_compressed(log: Log, path: str) -> bool:
    """Whether the log compresses this for us now."""
    response = await log.http.head(path, headers={"accept-encoding": "gzip"})
    return "content-encoding" in response.headers


async def test_hashes_are_never_compressed(filled: Log) -> None:
    response = await filled.get("/tile/0/000", accept_encoding="gzip")
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000", "tile/entries/001"])
async def test_head_is_get_without_the_body(filled: Log, path: str) -> None:
    got = await filled.get(f"/{path}")
    head = await filled.http.head(f"/{path}", headers={"accept-encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/entries/002.p/188"])
async def test_head_of_what_would_be_compressed_says_no_length(filled: Log, path: str) -> None:
    async with filled.http.stream("GET", f"/{path}", headers={"accept-encoding": "gzip"}) as got:
        assert got.headers["content-encoding"] == "gzip"
    head = await filled.http.head(f"/{path}", headers={"accept-encoding": "gzip"})
    assert (head.status_code, head.content) == (200, b"")
    framing = ("date", "content-length", "transfer-encoding")
    assert {name for name in framing if name in head.headers} == {"date"}
    assert {name: value for name, value in got.headers.items() if name not in framing} == {
        name: value for name, value in head.headers.items() if name != "date"
    }


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000", "tile/entries/001"])
async def test_head_has_no_ranges(filled: Log, path: str) -> None:
    whole = await filled.http.head(f"/{path}", headers={"accept-encoding": "identity"})
    for wanted in ("bytes=0-9", "bytes=999999-"):
        head = await filled.http.head(f"/{path}", headers={"accept-encoding": "identity", "range": wanted})
        assert head.status_code == 200
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}


async def test_a_tile_of_another_method_is_refused(filled: Log) -> None:
    response = await filled.http.post("/tile/0/000")
    assert response.status_code == 405


async def test_what_rekors_clients_ask_for_under_their_prefix_is_the_same(filled: Log) -> None:
    for path in ("checkpoint", "tile/0/000", "tile/entries/002.p/188"):
        assert (await filled.get(f"/api/v2/{path}")).content == (await filled.get(f"/{path}")).content


async def test_partial_tiles_are_there_after_a_restart(tmp_path: Path) -> None:
    async with served(tmp_path / "log") as log:
        for leaf in LEAVES[:3]:
            await log.add(leaf)
        await log.published(3)
        for leaf in LEAVES[3:9]:
            await log.add(leaf)
        await log.published(9)
    async with served(tmp_path / "log") as log:
        assert (await log.get("/tile/0/000.p/3")).content == tile_bytes(LEAVES[:9], 0, 0, 3)
        assert (await log.get("/tile/0/000.p/9")).content == tile_bytes(LEAVES[:9], 0, 0, 9)
        assert (await log.get("/tile/0/000.p/10")).status_code == 404


async def test_large_entries_come_in_pieces_and_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    large = [rng.randbytes(size) for size in (65_535, 0, 1, 65_535, 4_096, 30_000)]
    async with served(tmp_path / "log") as log:
        for leaf in large:
            await log.add(leaf)
        await log.published(len(large))
        response = await log.get(f"/tile/entries/000.p/{len(large)}")
        assert response.content == format_entry_bundle(large)
        part = await log.get(f"/tile/entries/000.p/{len(large)}", range="bytes=65530-65560")
        assert part.content == response.content[65_530:65_561]
        assert (await log.http.get(f"/tile/entries/000.p/{len(large)}")).content == response.content


# --- /add ------------------------------------------------------------------------------------------------------------


async def test_any_bytes_become_an_entry_and_the_answer_is_their_index(log: Log) -> None:
    responses = [await log.http.post("/add", content=leaf) for leaf in (b"", b"\x00", b"{}", b"x" * 65_535)]
    assert [(response.status_code, response.text) for response in responses] == [
        (200, "0"),
        (200, "1"),
        (200, "2"),
        (200, "3"),
    ]
    again = await log.http.post("/add", content=b"{}")
    assert (again.status_code, again.text) == (200, "2")


async def test_what_is_too_large_is_refused_with_the_limit(log: Log) -> None:
    response = await log.http.post("/add", content=b"x" * 65_536)
    assert response.status_code == 413
    assert "65535" in response.text
    assert await log.add(b"next") == 0


async def test_what_is_too_large_and_says_not_how_large_is_refused(log: Log) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 4_096

    response = await log.http.post("/add", content=endless())
    assert response.status_code == 413


async def test_a_compressed_body_is_refused(log: Log) -> None:
    response = await log.http.post("/add", content=gzip.compress(b"x"), headers={"content-encoding": "gzip"})
    assert (response.status_code, "Content-Encoding" in response.text) == (415, True)


async def test_a_length_may_have_leading_zeros(log: Log) -> None:
    answer = await raw(log, b"POST /add HTTP/1.1\r\nhost: log\r\nconnection: close\r\ncontent-length: 06\r\n\r\nabcdef")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n0")


async def test_there_is_no_add_where_the_log_takes_no_opaque_entries(tmp_path: Path) -> None:
    async with served(tmp_path / "log", kinds=SIGNED_KINDS) as log:
        assert (await log.http.post("/add", content=b"x")).status_code == 404


async def test_a_log_that_is_busy_says_when_to_come_again(tmp_path: Path) -> None:
    async with served(tmp_path / "log", limits=Limits(queue_bytes_max=10, retry_ms=1_500)) as log:
        response = await log.http.post("/add", content=b"more than there is room for")
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert "busy" in response.text


# --- operations ------------------------------------------------------------------------------------------------------


async def test_a_log_that_does_what_it_is_for_is_healthy(log: Log) -> None:
    response = await log.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"healthy": True, "problems": [], "warnings": []})


async def test_metrics_count_what_happened(log: Log) -> None:
    await log.add(b"a")
    await log.add(b"a")
    await log.http.post("/add", content=b"x" * 65_536)
    await log.published(1)
    text = (await log.get("/metrics")).text
    for line in (
        'treehead_log_submissions_total{face="add",outcome="added"} 1.0',
        'treehead_log_submissions_total{face="add",outcome="duplicate"} 1.0',
        'treehead_log_http_requests_total{face="add",status="413"} 1.0',
        "treehead_log_entries 1.0",
        "treehead_log_published_entries 1.0",
        "treehead_log_commit_seconds_count 2.0",
        "treehead_log_frozen 0.0",
        f'treehead_log_info{{origin="{ORIGIN}",version="0.1.0"}} 1.0',
    ):
        assert line in text.splitlines(), line


async def test_a_request_that_fails_is_told_its_id(log: Log) -> None:
    given = await log.get("/tile/0/001", x_request_id="abc-1")
    assert given.headers["x-request-id"] == "abc-1"
    made = await log.get("/tile/0/001", x_request_id="not one")
    assert len(made.headers["x-request-id"]) == 16


async def test_what_is_nowhere_is_counted_and_told_its_id(log: Log) -> None:
    nowhere, method = await log.get("/nowhere"), await log.http.delete("/add")
    assert (nowhere.status_code, nowhere.text) == (404, "there is nothing at this path\n")
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    for response in (nowhere, method):
        assert len(response.headers["x-request-id"]) == 16
        line = f'treehead_log_http_requests_total{{face="none",status="{response.status_code}"}} 1.0'
        assert line in (await log.get("/metrics")).text


async def test_what_is_nowhere_is_charged_as_any_request(tmp_path: Path) -> None:
    async with served(tmp_path / "log", rates=Rates(requests=Rate(entries=2, unit="h"))) as log:
        assert (await log.get("/nowhere")).status_code == 404
        assert (await log.http.delete("/checkpoint")).status_code == 405
        response = await log.get("/nowhere")
        assert (response.status_code, "rule admission.rates.requests" in response.text) == (429, True)
        assert int(response.headers["retry-after"]) > 1_000
        assert len(response.headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    "path",
    ["/checkpoint/", "/add/", "/tile/0/000/", "/freeze/", "/healthz/", "/metrics/", "/api/v2/log/entries/", "/tile"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_is_sent_elsewhere(filled: Log, method: str, path: str) -> None:
    response = await filled.http.request(method, path, headers={"host": "elsewhere.example"}, follow_redirects=False)
    assert response.status_code in (404, 405)
    assert "location" not in response.headers
    assert response.text in ("there is nothing at this path\n", "this path has other methods\n", NO_TILE)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/tile/0/003", {}, 404),
        ("GET", "/freeze", {}, 404),
        ("POST", "/checkpoint", {}, 405),
        ("GET", "/checkpoint", {"range": "bytes=9999-"}, 416),
        ("POST", "/add", {"content-encoding": "gzip"}, 415),
        ("POST", "/add", {"content-length": "65536"}, 413),
        ("POST", "/api/v2/log/entries", {}, 400),
    ],
)
async def test_what_went_wrong_is_kept_by_no_cache(
    filled: Log, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    body = bytes(int(headers.get("content-length", "0")))
    response = await filled.http.request(method, path, headers=headers, content=body)
    assert (response.status_code, response.headers["cache-control"]) == (status, "no-store")


# --- what is turned away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbroken header\r\n\r\n", 400),
        (b"GET /checkpoint HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /checkpoint HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET /checkpoint HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000, 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST /add HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST /add HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /add HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_what_is_no_request_ends_the_connection(log: Log, request_: bytes, status: int) -> None:
    answer = await raw(log, request_)
    assert int(answer.split(b" ", 2)[1]) == status
    assert b"connection: close" in answer.lower()
    assert (await log.get("/healthz")).status_code == 200


async def test_requests_that_pile_up_on_one_connection_are_not_all_kept(log: Log) -> None:
    answer = await raw(log, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 1_000)
    assert 0 < answer.count(b"HTTP/1.1 200") < 100
    ended = 'treehead_log_http_connections_ended_total{reason="malformed"} 1.0'
    assert ended in (await log.get("/metrics")).text


async def test_metrics_count_who_was_turned_away(log: Log) -> None:
    await raw(log, b"nonsense\r\n\r\n")
    assert 'treehead_log_http_connections_ended_total{reason="malformed"} 1.0' in (await log.get("/metrics")).text


# --- signed entries --------------------------------------------------------------------------------------------------


async def test_a_signed_entry_may_come_by_add_as_well(log: Log) -> None:
    for index, leaf in enumerate((attestation_leaf(), hashedrekord_leaf(b"content"))):
        assert await log.add(leaf) == index
    response = await log.http.post("/add", content=json.dumps({"kind": "attestation"}).encode())
    assert response.status_code == 200
