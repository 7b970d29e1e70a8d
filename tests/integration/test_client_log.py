"""The client and a real log: signing, verifying and finding; a log that is down; a log that lies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import grpc
import pytest

from tests.attack.desk import babbling
from tests.processes import EXIT_SECONDS_MAX, Finished, LogProcess, create_log, run_module
from tests.unit.library.specimens import (
    LOG_KEY,
    ORIGIN,
    OTHER_LOG,
    PUBLISHER,
    Tree,
    attestation_leaf,
    head_of,
    statement,
)
from treehead.checkpoint import parse_checkpoint
from treehead.errors import TreeheadError
from treehead.keys import NoteKeyType, format_vkey
from treehead.note import format_note, parse_note
from treehead.privatekey import format_private_key
from treehead.publickey import parse_public_key
from treehead.tlogproof import TlogProof, parse_proof
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogServicer, LogStub, add_LogServicer_to_server
from treehead.wire import CHANNEL_OPTIONS, SERVER_OPTIONS

WHEEL = "acme_tool-1.0-py3-none-any.whl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Someone with a key, a log and files to publish."""

    folder: Path
    log: str

    async def treehead(self, *arguments: str | Path) -> Finished:
        return await run_module("treehead_client", *arguments)

    async def sign(self, *files: Path, more: tuple[str, ...] = ()) -> Finished:
        options: list[str | Path] = [
            "--key",
            self.folder / "key",
            "--log",
            self.log,
            "--policy",
            self.folder / "policy",
            *more,
        ]
        return await self.treehead("sign", *files, *options)

    async def verify(self, *files: Path) -> Finished:
        options: list[str | Path] = [
            "--policy",
            self.folder / "policy",
            "--trust",
            self.folder / "trust",
            "--state",
            self.folder / "state",
        ]
        return await self.treehead("verify", *files, *options)

    async def find(self, query: str, *more: str) -> Finished:
        return await self.treehead("find", query, "--log", self.log, "--policy", self.folder / "policy", *more)

    async def wait_until_published(self, *files: Path) -> None:
        """Returns when the log shows to everyone a tree with the entries of these files, which are signed."""
        request = log_pb2.AddEntriesRequest(
            leaves=[proof_beside(file).extra or b"" for file in files], wait=log_pb2.WAIT_WITNESSED
        )
        async with grpc.aio.insecure_channel(self.log, options=CHANNEL_OPTIONS) as channel:
            await LogStub(channel).AddEntries(request, timeout=EXIT_SECONDS_MAX)

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def furnish(folder: Path, *, vkey: str, log: str) -> Publisher:
    """A publisher with a key, and rules by which the signatures of that key at this log count."""
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(format_private_key(PUBLISHER, passphrase=None))
    (folder / "policy").write_text(f"log {vkey}\nquorum none\n")
    rules = [
        f'[[namespace]]\nmatch = "{match}"\nsigners = ["{PUBLISHER.public}"]\n' for match in ("pypi:*", "generic:*")
    ]
    (folder / "trust").write_text("".join(rules))
    return Publisher(folder=folder, log=log)


def proof_beside(file: Path) -> TlogProof:
    return parse_proof(Path(f"{file}.tlog-proof").read_bytes())


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    vkey = await create_log(tmp_path / "log", origin=ORIGIN)
    async with LogProcess(tmp_path / "log") as log:
        yield furnish(tmp_path, vkey=vkey, log=log.address)


async def test_what_was_signed_is_verified_and_found(publisher: Publisher) -> None:
    wheel, model = publisher.file(WHEEL, b"wheel"), publisher.file("model.bin", b"model")
    signed = await publisher.sign(wheel, model)
    assert (signed.exit_code, signed.stderr) == (0, "")
    lines = signed.stdout.splitlines()
    assert lines[0].startswith(f"signed {wheel} (pypi:acme-tool 1.0, log {ORIGIN} index ")
    assert lines[1].startswith(f"signed {model} (generic:model.bin, log {ORIGIN} index ")
    verified = await publisher.verify(wheel, model)
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert [line.split()[0] for line in verified.stdout.splitlines()] == ["verified", "verified"]
    await publisher.wait_until_published(wheel, model)
    index = proof_beside(wheel).index
    line = f"{index} attestation/0.0.1 pkg:pypi/acme-tool@1.0 signer {PUBLISHER.public}\n"
    complete = f"treehead: log {publisher.log} says that these are all up to size 2\n"
    for query in (
        f"sha256:{sha256(b'wheel').hexdigest()}",
        f"name:{WHEEL}",
        "pkg:pypi/acme-tool@1.0",
        "pkg:pypi/acme-tool",
    ):
        found = await publisher.find(query)
        assert (found.exit_code, found.stdout, found.stderr) == (0, line, complete)
    found = await publisher.find(str(PUBLISHER.public), "--json")
    assert (found.exit_code, found.stderr) == (0, complete)
    *entries, end = map(json.loads, found.stdout.splitlines())
    assert {entry["name"] for entry in entries} == {"pkg:pypi/acme-tool@1.0", "pkg:generic/model.bin"}
    assert {entry["signer"] for entry in entries} == {str(PUBLISHER.public)}
    assert end == {"entries": 2, "all_up_to_size": 2}
    unchecked = await publisher.treehead("find", "pkg:pypi/acme-tool", "--log", publisher.log)
    assert unchecked.stdout == line
    assert "without --policy" in unchecked.stderr


async def test_signing_again_keeps_the_index_and_renews_the_proof(publisher: Publisher) -> None:
    wheel = publisher.file(WHEEL, b"wheel")
    assert (await publisher.sign(wheel)).exit_code == 0
    first = proof_beside(wheel)
    assert (await publisher.sign(publisher.file("other.bin", b"other"))).exit_code == 0
    again = await publisher.sign(wheel)
    assert again.exit_code == 0
    assert again.stdout.endswith("index 0 of size 2, logged before)\n")
    assert again.stderr == f"treehead: {wheel}.tlog-proof is replaced\n"
    second = proof_beside(wheel)
    assert (second.index, second.extra) == (first.index, first.extra)
    assert second.checkpoint != first.checkpoint
    assert (await publisher.verify(wheel)).exit_code == 0


async def test_every_entry_of_a_file_is_found_page_by_page(publisher: Publisher) -> None:
    files = [publisher.file(f"copy-{number}.bin", b"same bytes") for number in range(70)]
    assert (await publisher.sign(*files)).exit_code == 0
    await publisher.wait_until_published(*files)
    for query in (f"sha256:{sha256(b'same bytes').hexdigest()}", str(PUBLISHER.public)):
        found = await publisher.find(query)
        assert found.exit_code == 0
        assert [line.split()[0] for line in found.stdout.splitlines()] == [str(index) for index in range(70)]


async def test_nothing_found_is_no_answer(publisher: Publisher) -> None:
    for query in (f"sha256:{'0' * 64}", "md5:00", "name:other", "pkg:pypi/other", str(OTHER_LOG.public)):
        found = await publisher.find(query)
        assert (found.exit_code, found.stdout) == (3, "")
        assert "says that no entry up to size 0 is found" in found.stderr
        assert "which proves nothing" in found.stderr
    found = await publisher.find("md5:00", "--json")
    assert (found.exit_code, json.loads(found.stdout)) == (3, {"entries": 0, "all_up_to_size": 0})


@pytest.mark.parametrize("query", ["", "sha256", "sha256:00", "name:", "pkg:pypi/Acme_Tool", "ed25519:AA", "\x1b:00"])
async def test_a_query_that_is_none_is_a_usage_error(query: str) -> None:
    found = await run_module("treehead_client", "find", query, "--log", "127.0.0.1:9")
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1


async def test_a_policy_that_demands_witnesses_is_said_to_be_unmet(publisher: Publisher) -> None:
    key = PUBLISHER.verifier_key(name="w1.example", key_type=NoteKeyType.COSIGNATURE_ED25519)
    policy = publisher.folder / "policy"
    policy.write_text(policy.read_text().replace("quorum none", f"witness w1 {format_vkey(key)}\nquorum w1"))
    signed = await publisher.sign(publisher.file(WHEEL, b"wheel"))
    assert signed.exit_code == 0
    assert "warning" in signed.stderr
    assert "quorum 'w1' is not met" in signed.stderr
    assert (await publisher.verify(publisher.folder / WHEEL)).exit_code == 1


async def test_an_encrypted_key_needs_its_passphrase(publisher: Publisher) -> None:
    key, passphrase = publisher.folder / "key", publisher.folder / "passphrase"
    key.unlink()
    passphrase.touch(mode=0o600)
    passphrase.write_text("correct horse\n")
    made = await publisher.treehead("keygen", "--out", key, "--type", "p256", "--passphrase-file", passphrase)
    assert (made.exit_code, made.stderr) == (0, "")
    parse_public_key(made.stdout.removesuffix("\n"))
    assert key.stat().st_mode & 0o777 == 0o600
    wheel = publisher.file(WHEEL, b"wheel")
    refused = await publisher.sign(wheel)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"treehead: {key}: private key is encrypted: give its passphrase\n"
    assert (await publisher.sign(wheel, more=("--passphrase-file", str(passphrase)))).exit_code == 0
    passphrase.write_text("wrong\n")
    wrong = await publisher.sign(wheel, more=("--passphrase-file", str(passphrase)))
    assert wrong.exit_code == 2
    assert "wrong passphrase" in wrong.stderr


async def test_keygen_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    made = await run_module("treehead_client", "keygen", "--out", key)
    assert made.exit_code == 0
    assert "is not encrypted" in made.stderr
    pem = key.read_bytes()
    again = await run_module("treehead_client", "keygen", "--out", key)
    assert (again.exit_code, again.stdout) == (2, "")
    assert key.read_bytes() == pem


async def test_a_key_that_others_can_read_is_refused(publisher: Publisher) -> None:
    (publisher.folder / "key").chmod(0o644)
    signed = await publisher.sign(publisher.file(WHEEL, b"wheel"))
    assert signed.exit_code == 2
    assert "chmod 600" in signed.stderr


async def test_a_log_that_is_down_is_no_refusal(tmp_path: Path) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log="127.0.0.1:9")
    wheel = publisher.file(WHEEL, b"wheel")
    signed = await publisher.sign(wheel)
    assert (signed.exit_code, signed.stdout) == (3, "")
    assert "log 127.0.0.1:9 gave no answer" in signed.stderr
    assert signed.stderr.count("\n") == 1
    assert contents(tmp_path) == ["acme_tool-1.0-py3-none-any.whl", "key", "policy", "trust"]


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "localhost:port", "http://localhost:1", "::1:80"])
async def test_a_bad_address_is_a_usage_error(tmp_path: Path, address: str) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=address)
    signed = await publisher.sign(publisher.file(WHEEL, b"wheel"))
    assert signed.exit_code == 2
    assert "is not HOST:PORT" in signed.stderr


# --- a log that lies -------------------------------------------------------------------------------------------------

Answer = Callable[[bytes], log_pb2.InclusionProof]


class LyingLog(LogServicer):
    """Answers submissions with whatever proof the test makes up, and look-ups with another file's entry."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def AddEntry(
        self, request: log_pb2.AddEntryRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> log_pb2.AddEntryResponse:
        return log_pb2.AddEntryResponse(proof=self.answer(request.leaf))

    async def FindEntries(
        self, request: log_pb2.FindEntriesRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> log_pb2.FindEntriesResponse:
        leaf = attestation_leaf(statement())
        proof = self.answer(leaf)
        entry = log_pb2.FoundEntry(leaf=leaf, leaf_index=proof.leaf_index, hashes=proof.hashes)
        size = 0
        with suppress(TreeheadError):
            size = parse_checkpoint(parse_note(proof.checkpoint).text).size
        return log_pb2.FindEntriesResponse(
            entries=[entry], checkpoint=proof.checkpoint, more=True, tree_size=size, next_index=1
        )


@pytest.fixture
async def lying_log() -> AsyncIterator[Callable[[Answer], str]]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    servicer = LyingLog(honest)  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    add_LogServicer_to_server(servicer, server)
    await server.start()

    def answering(answer: Answer) -> str:
        servicer.answer = answer
        return f"127.0.0.1:{port}"

    yield answering
    await server.stop(None)


def in_tree(leaf: bytes, *leaves: bytes, index: int = 0, checkpoint: bytes | None = None) -> log_pb2.InclusionProof:
    """A proof in the tree of these leaves."""
    tree = Tree([leaf, *leaves])
    note = format_note(head_of(tree, cosigned={})) if checkpoint is None else checkpoint
    return log_pb2.InclusionProof(leaf_index=index, hashes=tree.inclusion(0), checkpoint=note)


def honest(leaf: bytes) -> log_pb2.InclusionProof:
    return in_tree(leaf, b"next")


LIES: dict[str, Answer] = {
    "nothing": lambda leaf: log_pb2.InclusionProof(),
    "the_proof_of_another_entry": lambda leaf: in_tree(b"another entry", b"next"),
    "another_index": lambda leaf: in_tree(leaf, b"next", index=1),
    "an_index_beyond_every_log": lambda leaf: in_tree(leaf, b"next", index=2**64 - 1),
    "another_logs_signature": lambda leaf: in_tree(
        leaf, checkpoint=format_note(head_of(Tree([leaf]), log=OTHER_LOG, cosigned={}))
    ),
    "no_signature": lambda leaf: in_tree(leaf, checkpoint=b"log.example/treehead\n1\nAAAA\n"),
    "an_older_checkpoint": lambda leaf: in_tree(leaf, checkpoint=format_note(head_of(Tree([b"older"]), cosigned={}))),
    "a_short_hash": lambda leaf: log_pb2.InclusionProof(
        hashes=[b"short"], checkpoint=format_note(head_of(Tree([leaf, b"next"]), cosigned={}))
    ),
    "a_thousand_hashes": lambda leaf: log_pb2.InclusionProof(
        hashes=[bytes(32)] * 1_000, checkpoint=format_note(head_of(Tree([leaf, b"next"]), cosigned={}))
    ),
    "text_that_is_none": lambda leaf: in_tree(leaf, checkpoint=b"\xff\x1b[2J\n\n"),
}


async def test_the_lying_log_can_tell_the_truth(tmp_path: Path, lying_log: Callable[[Answer], str]) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=lying_log(honest))
    wheel = publisher.file(WHEEL, b"wheel")
    assert (await publisher.sign(wheel)).exit_code == 0
    assert (await publisher.verify(wheel)).exit_code == 0


@pytest.mark.parametrize("lie", LIES)
async def test_an_answer_that_proves_nothing_is_refused_and_nothing_written(
    tmp_path: Path, lying_log: Callable[[Answer], str], lie: str
) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=lying_log(LIES[lie]))
    wheel = publisher.file(WHEEL, b"wheel")
    before = contents(tmp_path)
    signed = await publisher.sign(wheel)
    assert (signed.exit_code, signed.stdout) == (1, "")
    assert "answered without proving that the entry is logged" in signed.stderr
    assert signed.stderr.count("\n") == 1
    assert signed.stderr.removesuffix("\n").isprintable()
    assert contents(tmp_path) == before


async def test_an_answer_that_is_no_message_is_refused_and_nothing_written(tmp_path: Path) -> None:
    async with babbling("treehead.v1.Log", "AddEntry") as address:
        publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=address)
        wheel = publisher.file(WHEEL, b"wheel")
        before = contents(tmp_path)
        signed = await publisher.sign(wheel)
    assert (signed.exit_code, signed.stdout) == (1, "")
    assert (
        "answered without proving that the entry is logged: it sent an answer that is not the message" in signed.stderr
    )
    assert signed.stderr.count("\n") == 1
    assert contents(tmp_path) == before


async def test_a_search_whose_answer_is_no_message_is_refused() -> None:
    async with babbling("treehead.v1.Log", "FindEntries") as address:
        found = await run_module("treehead_client", "find", f"sha256:{'0' * 64}", "--log", address)
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"log {address} sent an answer that is not the message it should be" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "another_logs_signature"])
async def test_a_found_entry_that_is_not_proven_is_refused(
    tmp_path: Path, lying_log: Callable[[Answer], str], lie: str
) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=lying_log(LIES[lie]))
    digest = f"sha256:{sha256(b'the bytes of a wheel').hexdigest()}"
    found = await publisher.treehead("find", digest, "--log", publisher.log, "--policy", tmp_path / "policy")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr.count("\n") == 1


async def test_a_log_that_finds_the_entry_of_another_file_is_refused(
    tmp_path: Path, lying_log: Callable[[Answer], str]
) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=lying_log(honest))
    found = await publisher.treehead("find", f"sha256:{'0' * 64}", "--log", publisher.log)
    assert (found.exit_code, found.stdout) == (1, "")
    assert "sent entry 0, which is not found by" in found.stderr


async def test_a_log_that_repeats_a_page_for_ever_is_refused(
    tmp_path: Path, lying_log: Callable[[Answer], str]
) -> None:
    publisher = furnish(tmp_path, vkey=format_vkey(LOG_KEY), log=lying_log(honest))
    digest = f"sha256:{sha256(b'the bytes of a wheel').hexdigest()}"
    found = await publisher.treehead("find", digest, "--log", publisher.log)
    assert found.exit_code == 1
    assert "sent entry 0 out of order" in found.stderr
