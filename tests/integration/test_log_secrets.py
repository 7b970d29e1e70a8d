"""Whatever happens to a log, its passphrase and its private keys are in nothing that it says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.certificates import Authority, Files
from tests.processes import create_log, run_module
from tests.unit.library.specimens import hashedrekord_leaf
from treehead.tls import ClientTls
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

ORIGIN = "log.example/secrets"
PASSPHRASE = "correct horse 7fQx battery staple"
DEADLINE_SECONDS = 30
BASE64_CHARS_MIN = 16
"""Of a line of a key file. A shorter one says little, and may be anywhere by chance."""


def spellings(pem: bytes, *, passphrase: bytes | None = None) -> Iterator[str]:
    """A private key as it might get out: as lines of its file, or as its number."""
    yield from (line for line in pem.decode().splitlines() if len(line) >= BASE64_CHARS_MIN)
    key = load_pem_private_key(pem, password=passphrase)
    if hasattr(key, "private_bytes_raw"):
        raw = key.private_bytes_raw()
    else:
        raw = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    yield from (raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode(), repr(raw)[2:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Secretive:
    """The files of a log whose key is encrypted, and that speaks TLS; what was said of it; and what never may be."""

    data: Path
    passphrase: Path
    tls: Files
    ca: Path
    said: list[str] = field(default_factory=list)

    @property
    def serve(self) -> list[str | Path]:
        """The command line, except for the passphrase."""
        addresses = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
        return ["serve", "--data", self.data, *addresses, *self.tls_options]

    @property
    def tls_options(self) -> list[str | Path]:
        return ["--tls-cert", self.tls.certificate, "--tls-key", self.tls.key]

    def secrets(self) -> list[str]:
        """Each spelling of each secret, of the files as they are now."""
        return [
            *(PASSPHRASE, PASSPHRASE[::-1], base64.b64encode(PASSPHRASE.encode()).decode(), PASSPHRASE.encode().hex()),
            *spellings((self.data / "key.pem").read_bytes(), passphrase=PASSPHRASE.encode()),
            *spellings(self.tls.key.read_bytes()),
        ]

    def check(self, secrets: list[str]) -> None:
        """Returns only if nothing that was said has a secret in it."""
        said = "\n".join(self.said)
        assert [secret for secret in secrets if secret in said] == []

    async def refused(self, *arguments: str | Path, **environment: str) -> str:
        """Run a command that cannot be carried out; returns what it says."""
        finished = await run_module("treehead_logserver", *arguments, environment=environment)
        assert finished.exit_code in (1, 2), finished
        assert "Traceback" not in finished.stderr
        self.said.extend((finished.stdout, finished.stderr))
        return finished.stderr


@pytest.fixture
async def log(tmp_path: Path) -> Secretive:
    data, passphrase = tmp_path / "log", tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text(f"{PASSPHRASE}\n")
    await create_log(data, origin=ORIGIN, environment={"TREEHEAD_PASSPHRASE": PASSPHRASE})
    authority = Authority()
    return Secretive(
        data=data, passphrase=passphrase, tls=authority.server(tmp_path / "tls"), ca=authority.file(tmp_path / "ca.pem")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A log that runs, and whose every word is kept."""

    process: asyncio.subprocess.Process
    grpc: str
    http: str

    @property
    def checkers(self) -> list[int]:
        """The processes that check entries for it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]


@contextlib.asynccontextmanager
async def running(
    log: Secretive, folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Serve the log; what it wrote to stdout and stderr is said in the end."""
    with (folder / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "treehead_logserver"),
            *map(str, (*log.serve, "--kind", "opaque", "--kind", "hashedrekord", *arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]
        log.said.extend(lines)
        addresses = [line.rstrip().rpartition(" ")[2] for line in lines]
        yield Running(process=process, grpc=addresses[0], http=addresses[1])
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_SECONDS):
            log.said.append((await process.stdout.read()).decode())
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        log.said.append((folder / "stderr").read_text())


# --- what callers are told -------------------------------------------------------------------------------------------


async def exercise(log: Secretive, address: Running) -> None:
    """Ask the log for all kinds of things, sensible ones and others."""
    async with httpx.AsyncClient(
        base_url=address.http, verify=ClientTls(ca=log.ca).ssl_context(), trust_env=False, timeout=DEADLINE_SECONDS
    ) as http:
        for path in ("/checkpoint", "/tile/0/000", "/freeze", "/healthz", "/metrics", "/nothing", "/%00", "/key.pem"):
            log.said.append(await told(http, "GET", path))
        for body in (b"an entry", b"x" * 65_536, hashedrekord_leaf(), b'{"kind": "hashedrekord"}'):
            log.said.append(await told(http, "POST", "/add", body))
            log.said.append(await told(http, "POST", "/api/v2/log/entries", body))
    await call(log, address.grpc)
    for nonsense in (
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x00\x05nonsense",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99,
    ):
        for port in (address.grpc, address.http.removeprefix("https://")):
            log.said.append(await raw(port, nonsense))


async def told(http: httpx.AsyncClient, method: str, path: str, body: bytes = b"") -> str:
    """All of the answer to one request."""
    answer = await http.request(method, path, content=body, headers={"x-request-id": "no id"})
    return f"{answer.headers}\n{answer.text}"


async def call(log: Secretive, address: str) -> None:
    credentials = grpc.ssl_channel_credentials(log.ca.read_bytes())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = LogStub(channel)
        add: Any = channel.unary_unary("/treehead.v1.Log/AddEntry")  # takes any bytes for a request
        wait: Any = 7  # which is not one of those that there are
        calls: Sequence[Callable[[], Awaitable[object]]] = (
            lambda: stub.AddEntry(log_pb2.AddEntryRequest(leaf=hashedrekord_leaf(b"x")), timeout=DEADLINE_SECONDS),
            lambda: stub.AddEntry(log_pb2.AddEntryRequest(leaf=b"x" * 65_536), timeout=DEADLINE_SECONDS),
            lambda: stub.AddEntry(log_pb2.AddEntryRequest(leaf=b"x", wait=wait), timeout=DEADLINE_SECONDS),
            lambda: stub.GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=DEADLINE_SECONDS),
            lambda: stub.GetInclusionProof(log_pb2.GetInclusionProofRequest(), timeout=DEADLINE_SECONDS),
            lambda: add(b"\xff no message", timeout=DEADLINE_SECONDS),
        )
        for made in calls:
            try:
                log.said.append(str(await made()))
            except grpc.aio.AioRpcError as error:
                log.said.append(f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}")


async def raw(address: str, request: bytes) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
        writer.close()
        return answer.decode(errors="replace")
    return ""


@pytest.mark.parametrize("way", ["file", "environment"])
async def test_a_log_that_is_asked_for_all_kinds_of_things_tells_no_secret(
    log: Secretive, tmp_path: Path, way: str
) -> None:
    arguments = ("--passphrase-file", log.passphrase) if way == "file" else ()
    environment = {"TREEHEAD_PASSPHRASE": PASSPHRASE} if way == "environment" else {}
    async with running(log, tmp_path, *arguments, environment=environment) as address:
        await exercise(log, address)
    said = "\n".join(log.said)
    for words in (
        "treehead_log_entries",
        '"healthy": true',
        "answered INVALID_ARGUMENT",
        "stopped",
    ):
        assert words in said, words
    log.check(log.secrets())


async def test_a_log_that_is_given_other_tls_files_while_it_runs_tells_no_secret(
    log: Secretive, tmp_path: Path
) -> None:
    secrets = log.secrets()
    async with running(log, tmp_path, "--passphrase-file", log.passphrase) as address:
        for spoil in (open_to_others, cut, swapped, encrypted, gone):
            spoil(log, tmp_path)
            context = ssl.create_default_context(cafile=log.ca)
            host, _, port = address.http.removeprefix("https://").rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.close()
    assert "".join(log.said).count("the TLS certificate is not renewed") >= 4
    log.check(secrets)


def open_to_others(log: Secretive, _: Path) -> None:
    log.tls.key.chmod(0o644)


def cut(log: Secretive, _: Path) -> None:
    log.tls.key.chmod(0o600)
    log.tls.key.write_bytes(log.tls.key.read_bytes()[:-40])


def swapped(log: Secretive, folder: Path) -> None:
    log.tls.key.write_bytes(Authority().server(folder / "another").key.read_bytes())


def encrypted(log: Secretive, _: Path) -> None:
    log.tls.key.write_bytes((log.data / "key.pem").read_bytes())


def gone(log: Secretive, _: Path) -> None:
    log.tls.key.unlink()


# --- what the operator is told ---------------------------------------------------------------------------------------


async def test_a_log_that_is_not_started_tells_no_secret(log: Secretive, tmp_path: Path) -> None:
    secrets = log.secrets()
    with_file = (*log.serve, "--passphrase-file", log.passphrase)
    assert "passphrase" in await log.refused(*log.serve)
    assert "passphrase" in await log.refused(*log.serve, TREEHEAD_PASSPHRASE=f"{PASSPHRASE}!")
    assert "passphrase" in await log.refused(*log.serve, TREEHEAD_PASSPHRASE=f"{PASSPHRASE}\udcff")

    log.passphrase.write_text(f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert "more than one line" in await log.refused(*with_file)
    log.passphrase.write_text(f"{PASSPHRASE}\n")
    log.passphrase.chmod(0o644)
    assert "chmod 600" in await log.refused(*with_file)
    log.passphrase.chmod(0o600)

    (log.data / "log.toml").write_text(f'passphrase = "{PASSPHRASE}"\n')
    assert "'passphrase' is not known" in await log.refused(*with_file)
    (log.data / "log.toml").write_text(f"passphrase = {PASSPHRASE}\n")
    assert "is not TOML" in await log.refused(*with_file)
    (log.data / "log.toml").unlink()

    for spoil in (open_to_others, cut, encrypted):
        spoil(log, tmp_path)
        assert "key" in await log.refused(*with_file)
    log.check(secrets)


async def test_a_log_whose_key_file_is_damaged_tells_nothing_of_it(log: Secretive) -> None:
    secrets, key = log.secrets(), log.data / "key.pem"
    pem = key.read_bytes()
    begin, *middle, end = pem.splitlines(keepends=True)
    for damaged in (
        pem[:-30],
        begin + middle[0],
        b"".join((*middle, end)),
        middle[0] + pem,
        pem.replace(b"E", b"F"),
        b"\0" + pem,
    ):
        key.write_bytes(damaged)
        said = await log.refused(*log.serve, "--passphrase-file", log.passphrase)
        assert "key.pem" in said
        assert said.count("\n") == 1
    log.check(secrets)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_the_processes_that_check_entries_are_told_no_passphrase(log: Secretive, tmp_path: Path) -> None:
    async with running(log, tmp_path, environment={"TREEHEAD_PASSPHRASE": PASSPHRASE}) as address:
        assert PASSPHRASE in read_of(address.process.pid, "environ")
        assert len(address.checkers) == 2
        for pid, file in itertools.product(address.checkers, ("environ", "cmdline")):
            assert PASSPHRASE not in read_of(pid, file)


def read_of(pid: int, file: str) -> str:
    """What the operating system shows of a process."""
    return Path(f"/proc/{pid}/{file}").read_text()
