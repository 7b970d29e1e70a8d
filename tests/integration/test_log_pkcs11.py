"""A log whose signing key never leaves its token: SoftHSM in the log's process, which is told the PIN and no key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.processes import Finished, LogProcess, run_module
from tests.tokens import PIN, SoftToken, make_token
from tests.unit.library.specimens import hashedrekord_leaf
from treehead.checkpoint import open_checkpoint
from treehead.keys import VerifierKey, parse_vkey
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

ORIGIN = "log.example/token"
DEADLINE_SECONDS = 30


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftToken:
    """A token with one key. Every process that a test starts finds it."""
    token = make_token(tmp_path / "token")
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    token.generate()
    return token


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """The file with the PIN."""
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    path.write_text(f"{PIN}\n")
    return path


async def treehead_log(*arguments: str | Path, **environment: str) -> Finished:
    finished = await run_module("treehead_logserver", *arguments, environment=environment)
    assert PIN not in finished.stdout + finished.stderr
    return finished


async def refusal(*arguments: str | Path, **environment: str) -> str:
    """The one line that a command which cannot use its key has to say."""
    refused = await treehead_log(*arguments, **environment)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    return refused.stderr


@pytest.fixture
async def data(tmp_path: Path, token: SoftToken, secret: Path) -> Path:
    """The directory of a log whose key is in the token."""
    folder = tmp_path / "log"
    arguments = ("--data", folder, "--origin", ORIGIN, "--pkcs11", token.uri(), "--passphrase-file", secret)
    made = await treehead_log("init", *arguments)
    assert (made.exit_code, made.stderr) == (0, "")
    assert parse_vkey(made.stdout.removesuffix("\n")).name == ORIGIN
    return folder


@pytest.fixture
def vkey(data: Path) -> VerifierKey:
    return parse_vkey((data / "vkey").read_text().removesuffix("\n"))


@pytest.fixture
async def log(data: Path, secret: Path) -> AsyncIterator[LogProcess]:
    async with LogProcess(data, "--passphrase-file", secret) as log:
        yield log


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def add(log: LogProcess, name: str) -> log_pb2.InclusionProof:
    async with grpc.aio.insecure_channel(log.address) as channel:
        request = log_pb2.AddEntryRequest(leaf=hashedrekord_leaf(name.encode()))
        return (await LogStub(channel).AddEntry(request, timeout=DEADLINE_SECONDS)).proof


async def test_a_log_signs_with_the_key_in_its_token(data: Path, vkey: VerifierKey, log: LogProcess) -> None:
    sizes = [open_checkpoint((await add(log, name)).checkpoint, key=vkey).size for name in ("first", "second")]
    assert sizes == [1, 2]
    assert await log.stop() == 0
    assert PIN not in log.stderr
    assert "Traceback" not in log.stderr
    await log.start()
    assert open_checkpoint((await add(log, "third")).checkpoint, key=vkey).size == 3
    assert await log.stop() == 0
    checked = await treehead_log("fsck", "--data", data)
    assert checked.exit_code == 0, checked
    files = contents(data)
    assert "key.pem" not in files
    assert [name for name, content in files.items() if PIN.encode() in content] == []


async def test_the_pin_may_be_in_the_environment(data: Path, vkey: VerifierKey) -> None:
    async with LogProcess(data, environment={"TREEHEAD_PASSPHRASE": PIN}) as log:
        assert open_checkpoint((await add(log, "entry")).checkpoint, key=vkey).size == 1
        assert PIN not in log.stderr


async def test_a_log_goes_on_without_its_token_and_logs_again_when_it_is_back(
    token: SoftToken, vkey: VerifierKey, log: LogProcess
) -> None:
    await add(log, "before")
    (token.folder / "tokens").rename(token.folder / "away")
    (token.folder / "tokens").mkdir()
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await add(log, "while it is away")
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "try again, which is safe" in (failed.value.details() or "")
    await log.says("there is no such token")
    async with grpc.aio.insecure_channel(log.address) as channel:
        shown = await LogStub(channel).GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=DEADLINE_SECONDS)
        assert open_checkpoint(shown.checkpoint, key=vkey).size <= 1  # published with the first entry or before it
    (token.folder / "tokens").rmdir()
    (token.folder / "away").rename(token.folder / "tokens")
    proof = await add(log, "while it is away")
    assert (proof.leaf_index, open_checkpoint(proof.checkpoint, key=vkey).size) == (1, 2)
    assert await log.stop() == 0
    assert PIN not in log.stderr
    assert "Traceback" not in log.stderr


async def test_serve_with_a_wrong_pin_or_none_is_refused(data: Path) -> None:
    serve = ("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    wrong = await refusal(*serve, TREEHEAD_PASSPHRASE="not the PIN")
    assert wrong.endswith(": the PIN is wrong\n")
    assert "not the PIN" not in wrong
    assert "the token wants its PIN: give --passphrase-file" in await refusal(*serve)
    assert (await treehead_log("vkey", "--data", data)).exit_code == 0  # which needs no key


async def test_serve_without_its_key_in_the_token_is_refused(data: Path, token: SoftToken, secret: Path) -> None:
    from pkcs11 import Attribute

    with token.session() as session:
        for found in list(session.get_objects({Attribute.LABEL: "log"})):
            found.destroy()
    serve = ("serve", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--passphrase-file", secret)
    assert "the token has no such private key" in await refusal(*serve)
    token.generate()  # of the same name, and another
    assert "is not the key that" in await refusal(*serve)


async def test_init_with_a_key_that_cannot_be_used_makes_nothing(
    tmp_path: Path, token: SoftToken, secret: Path
) -> None:
    init = ("init", "--data", tmp_path / "log", "--origin", ORIGIN, "--passphrase-file", secret, "--pkcs11")
    assert "no such private key" in await refusal(*init, token.uri(label="other"))
    assert "must not say the PIN" in await refusal(*init, f"{token.uri()}&pin-value={PIN}")
    assert not (tmp_path / "log").exists()
