"""The witness that stands in for real ones in tests: as strict as they are, and a process like any other."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.library.specimens import (
    LOG_KEY,
    NOW,
    ORIGIN,
    OTHER_LOG,
    Tree,
    forked_trees,
    head_of,
    signed_checkpoint,
)
from tests.witness_server import LISTENING, StandInWitness, witness_key
from tests.witnesses import WitnessProcess
from treehead.keys import format_vkey
from treehead.merkle import EMPTY_ROOT
from treehead.note import Note, format_note
from treehead.policy import parse_policy
from treehead.tls import ClientTls
from treehead.witness import (
    SIZE_CONTENT_TYPE,
    AddCheckpoint,
    format_add_checkpoint,
    parse_cosignatures,
    verify_cosignatures,
)
from treehead_logserver.witness.client import WitnessClient
from treehead_logserver.witness.exchange import witness_transport

TREE, FORK = forked_trees(12, 5)


def body(note: Note, *, old: int = 0, proof: tuple[bytes, ...] = ()) -> bytes:
    return format_add_checkpoint(AddCheckpoint(old_size=old, proof=proof, checkpoint=format_note(note)))


def at(size: int, tree: Tree = TREE) -> Note:
    return head_of(tree, size=size, cosigned={})


def witness(*, holds: int = 0, state: Path | None = None) -> StandInWitness:
    made = StandInWitness(key=witness_key(1), name="w1.example", logs=(LOG_KEY,), state=state, now=lambda: NOW)
    if holds:
        assert made.answer(body(at(holds))).status == 200
    return made


FORGED = replace(at(9), signatures=(replace(at(9).signatures[0], signature=bytes(64)),))
PROOF = TREE.consistency(6, 9)


@pytest.mark.parametrize(
    ("holds", "request_body", "status"),
    [
        pytest.param(0, body(at(9)), 200, id="first"),
        pytest.param(6, body(at(9), old=6, proof=PROOF), 200, id="next"),
        pytest.param(9, body(at(9), old=9), 200, id="again"),
        pytest.param(0, body(signed_checkpoint(0, EMPTY_ROOT)), 200, id="empty_log"),
        pytest.param(6, b"old 06\n\n" + format_note(at(9)), 400, id="malformed_before_all"),
        pytest.param(6, b"old 6\n\ntext\n", 400, id="no_note"),
        pytest.param(6, body(Note(text="text\n", signatures=at(9).signatures), old=6), 400, id="no_checkpoint"),
        pytest.param(6, body(signed_checkpoint(9, bytes(32), origin="x"), old=99), 404, id="unknown_before_signature"),
        pytest.param(6, body(signed_checkpoint(9, bytes(32), log=OTHER_LOG), old=99), 403, id="other_key_before_sizes"),
        pytest.param(6, body(FORGED, old=99), 403, id="forged_before_sizes"),
        pytest.param(6, body(at(9), old=10), 400, id="old_beyond_size_before_conflict"),
        pytest.param(6, body(at(9), old=5, proof=(bytes(32),)), 409, id="conflict_before_proof"),
        pytest.param(6, body(at(5), old=5), 409, id="smaller"),
        pytest.param(6, body(at(9)), 409, id="size_not_known"),
        pytest.param(0, body(signed_checkpoint(0, bytes(32))), 422, id="empty_log_with_a_root"),
        pytest.param(0, body(at(9), proof=(bytes(32),)), 422, id="proof_from_nothing"),
        pytest.param(6, body(at(9), old=6), 422, id="no_proof"),
        pytest.param(6, body(at(9), old=6, proof=(*PROOF[:-1], bytes(32))), 422, id="wrong_proof"),
        pytest.param(6, body(at(9, FORK), old=6, proof=FORK.consistency(6, 9)), 422, id="fork"),
        pytest.param(9, body(at(9, FORK), old=9), 422, id="fork_of_the_same_size"),
        pytest.param(9, body(at(9), old=9, proof=(bytes(32),)), 422, id="proof_to_the_same_size"),
    ],
)
def test_it_checks_what_the_specification_says_in_that_order(holds: int, request_body: bytes, status: int) -> None:
    made = witness(holds=holds)
    before = made.latest(ORIGIN)
    reply = made.answer(request_body)
    assert reply.status == status
    if status == 409:
        assert (reply.body, reply.content_type) == (b"%d\n" % holds, SIZE_CONTENT_TYPE)
    if status != 200:
        assert made.latest(ORIGIN) == before


def test_it_answers_with_its_cosignature() -> None:
    reply = witness(holds=6).answer(body(at(9), old=6, proof=PROOF))
    line, timestamp = verify_cosignatures(parse_cosignatures(reply.body), note=at(9), key=witness().vkey)
    assert (line.name, timestamp) == ("w1.example", NOW)


def test_it_remembers_in_its_file(tmp_path: Path) -> None:
    witness(holds=6, state=tmp_path / "state")
    assert witness(state=tmp_path / "state").latest(ORIGIN).size == 6


async def cosign(process: WitnessProcess, size: int, *, log_size: int | None = None) -> str:
    """Ask it as a log does, for one checkpoint; its state afterwards, or nothing if that is well."""

    async def prove(size1: int, size2: int) -> tuple[bytes, ...]:
        return TREE.consistency(size1, size2)

    (listed,) = parse_policy(f"{process.policy_line}\nquorum none\n".encode()).witnesses
    async with witness_transport(ClientTls()) as transport:
        client = WitnessClient(
            listed,
            transport=transport,
            timeout_ms=20_000,
            log_size=lambda: size if log_size is None else log_size,
            now=lambda: 2**40,
        )
        await client.cosign(at(size), size=size, prove=prove)
    return client.state.problem


async def test_as_a_process_it_cosigns_for_a_log_and_remembers(tmp_path: Path) -> None:
    process = WitnessProcess("w1", log=LOG_KEY, key_seed=3, state=tmp_path / "state")
    async with process:
        assert await cosign(process, 6) == ""
        address = process.address
        assert await process.stop() == 0
        await process.start()
        assert process.address == address
        assert "of size 6, and the log has 5 entries" in await cosign(process, 5)
        assert await cosign(process, 9) == ""


async def test_as_a_process_it_misbehaves_when_told_to() -> None:
    async with WitnessProcess("w1", log=LOG_KEY, misbehave="refuse:404") as process:
        assert "does not know this log" in await cosign(process, 6)


async def test_it_says_where_it_listens_and_by_what_key_and_ends_with_its_stdin() -> None:
    arguments = ("--key-seed", "5", "--name", "w1.example", "--log", format_vkey(LOG_KEY))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.witness_server",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    key = replace(witness().vkey, public_key=witness_key(5).public.spki[-32:])
    async with asyncio.timeout(30):
        assert (await process.stdout.readline()).startswith(LISTENING.encode())
        assert await process.stdout.readline() == f"vkey {format_vkey(key)}\n".encode()
        process.stdin.close()
        assert await process.wait() == 0
