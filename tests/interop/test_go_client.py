"""The Go project's own transparency log code, and torchwood's client, read our log over HTTP and verify all of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.entries import HASTY, mixed_leaves, publish
from tests.interop.mirror import mirrored
from tests.interop.programs import run
from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import private_key
from treehead.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from treehead.keys import NoteKeyType, format_vkey, parse_vkey
from treehead.privatekey import parse_private_key

ORIGIN = "log.example/interop"
EARLIER_SIZE = 300
SIZE = 700
OPAQUE_SIZE = 65_536 + 300
PROOFS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A log that is read here and not written to any more."""

    url: str
    vkey: str
    earlier: Path
    data: Path


@pytest.fixture(scope="module")
async def log(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    """Entries of both kinds that a log takes by itself, and a checkpoint from before it had all of them."""
    folder = tmp_path_factory.mktemp("log")
    vkey = await create_log(folder / "log", origin=ORIGIN)
    (folder / "log" / "log.toml").write_text(HASTY)
    leaves = mixed_leaves(SIZE)
    async with LogProcess(folder / "log") as process:
        (folder / "earlier").write_bytes(await publish(process.address, leaves[:EARLIER_SIZE]))
        await publish(process.address, leaves[EARLIER_SIZE:])
        yield Log(url=process.http, vkey=vkey, earlier=folder / "earlier", data=folder / "log")


async def verified(reader: Path, log: Log, *arguments: str | Path) -> dict[str, Any]:
    """What the Go program says that it has verified."""
    done = await run(reader, "-url", log.url, "-vkey", log.vkey, "-proofs", str(PROOFS), *arguments)
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


async def refused(reader: Path, *arguments: str | Path) -> str:
    """Why the Go program does not take a log."""
    done = await run(reader, *arguments)
    assert (done.exit_code, done.stdout) == (1, ""), done
    return done.stderr


async def test_go_verifies_entries_root_and_consistency_of_a_log_that_it_reads_over_http(
    reader: Path, log: Log
) -> None:
    told = await verified(reader, log, "-earlier", log.earlier)
    checkpoint = open_checkpoint(log.earlier.read_bytes(), key=parse_vkey(log.vkey))
    assert told["origin"] == ORIGIN
    assert told["size"] == told["entries"] == SIZE
    assert told["proofs"] == PROOFS
    assert told["consistent_from"] == checkpoint.size == EARLIER_SIZE
    assert {"tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/002.p/188"} <= set(told["paths"])
    assert told["gzip_bodies"] == len([path for path in told["paths"] if path.startswith("tile/entries/")])


async def test_go_verifies_a_log_with_three_levels_of_tiles(reader: Path, tmp_path: Path) -> None:
    vkey = await create_log(tmp_path / "log", origin=ORIGIN)
    (tmp_path / "log" / "log.toml").write_text(HASTY)
    async with LogProcess(tmp_path / "log", "--kind", "opaque") as process:
        await publish(process.address, [b"entry %d" % number for number in range(OPAQUE_SIZE)])
        log = Log(url=process.http, vkey=vkey, earlier=tmp_path, data=tmp_path / "log")
        told = await verified(reader, log)
    assert told["size"] == told["entries"] == OPAQUE_SIZE
    assert told["proofs"] == PROOFS
    assert {"tile/2/000.p/1", "tile/1/000", "tile/1/001.p/1", "tile/0/257.p/44"} <= set(told["paths"])


# --- what it does not take, which shows that the above can fail ------------------------------------------------------


async def test_go_refuses_a_log_under_another_key(reader: Path, log: Log) -> None:
    other = private_key("another log").verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519)
    assert "no verifiable signatures" in await refused(reader, "-url", log.url, "-vkey", format_vkey(other))


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        pytest.param("checkpoint", b"\n700\n", b"\n699\n", "invalid signature", id="size_of_the_checkpoint"),
        pytest.param("tile/0/001", None, None, "is not in the tree", id="hash_of_a_tile"),
        pytest.param("tile/1/000.p/2", None, None, "the tiles", id="hash_of_the_right_edge"),
        pytest.param("tile/entries/001", b"hashedrekord", b"hashedrecord", "is not in the tree", id="entry"),
        pytest.param("tile/entries/001", b"kind", b"kin", "is not in the tree", id="entry_of_another_length"),
    ],
)
async def test_go_refuses_what_somebody_changed_on_the_way(
    reader: Path, log: Log, path: str, old: bytes | None, new: bytes | None, complaint: str
) -> None:
    changed = 0

    def change(asked: str, body: bytes) -> bytes:
        nonlocal changed
        if asked != path:
            return body
        changed += 1
        if old is None or new is None:
            return bytes([body[0] ^ 1]) + body[1:]
        assert old in body
        return body.replace(old, new)

    async with mirrored(log.url, change) as url:
        said = await refused(reader, "-url", url, "-vkey", log.vkey, "-proofs", str(PROOFS))
    assert complaint in said
    assert changed


async def test_go_takes_what_a_mirror_hands_on_as_it_is(reader: Path, log: Log) -> None:
    async with mirrored(log.url, lambda _, body: body) as url:
        done = await run(reader, "-url", url, "-vkey", log.vkey)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["entries"] == SIZE


async def test_go_refuses_a_log_that_contradicts_what_it_signed_before(reader: Path, log: Log, tmp_path: Path) -> None:
    key = parse_private_key((log.data / "key.pem").read_bytes(), passphrase=None)
    forked = Checkpoint(origin=ORIGIN, size=EARLIER_SIZE, root=b"\x01" * 32)
    (tmp_path / "forked").write_bytes(sign_checkpoint(forked, key=key))
    said = await refused(reader, "-url", log.url, "-vkey", log.vkey, "-earlier", tmp_path / "forked")
    assert f"does not go on from size {EARLIER_SIZE}" in said
