"""Clients and monitors against servers with TLS: what is accepted, and what every mismatch looks like to its user."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.certificates import DAY, HERE, Authority, Files, key_pem, new_key
from tests.monitors import MonitorProcess, monitor_command, new_monitor
from tests.processes import Finished, LogProcess, create_log, run_module
from tests.unit.library.specimens import LOG_KEY, PUBLISHER, Tree, head_of
from treehead.keys import format_vkey
from treehead.note import format_note
from treehead.privatekey import format_private_key
from treehead.server import Server
from treehead.tls import ClientTls, LoadedTls, ServerTls, load_server_tls
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogServicer, add_LogServicer_to_server
from treehead.wire import CHANNEL_OPTIONS

SERVICE = "treehead.v1.Log"
ORIGIN = "log.example/tls"
SECONDS = 10
FILE = "model.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Who is who: `server` issues for servers, `clients` for clients, and nobody trusts `other`."""

    folder: Path
    server: Authority
    clients: Authority
    other: Authority

    def listener(self, *names: str, wants_certificate: bool = False) -> ServerTls:
        """The files of a server of these names, else of this machine."""
        files = self.server.server(self.folder / "listener", *names)
        ca = self.clients.file(self.folder / "clients.pem") if wants_certificate else None
        return ServerTls(certificate=files.certificate, key=files.key, client_ca=ca)

    def options(self, *, shows: Authority | None = None) -> list[str]:
        """The options of a client that trusts the servers, and shows a certificate by an authority."""
        options = ["--tls-ca", str(self.server.file(self.folder / "ca.pem"))]
        if shows is not None:
            files = shows.client(self.folder / "mine")
            options += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
        return options


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    furnish(tmp_path)
    return Trust(folder=tmp_path, server=Authority("servers"), clients=Authority("clients"), other=Authority("other"))


class OneLeafLog(LogServicer):
    """Has every entry alone in a tree of its own, which is all that a signer gets to see of a log."""

    async def AddEntry(
        self, request: log_pb2.AddEntryRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> log_pb2.AddEntryResponse:
        checkpoint = format_note(head_of(Tree([request.leaf]), cosigned={}))
        return log_pb2.AddEntryResponse(proof=log_pb2.InclusionProof(checkpoint=checkpoint))


@asynccontextmanager
async def one_leaf_log(credentials: grpc.ServerCredentials | None) -> AsyncIterator[str]:
    """HOST:PORT of such a log on our server."""
    server = Server(SERVICE, calls_max=8, drain_ms=1_000)
    server.add(add_LogServicer_to_server, OneLeafLog())  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    address = await server.start("127.0.0.1:0", credentials=credentials)
    try:
        yield address
    finally:
        await server.stop()


def furnish(folder: Path, *, vkey: str = format_vkey(LOG_KEY)) -> None:
    """A key, a file to sign with it, and rules by which signatures of that key at this log count."""
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(format_private_key(PUBLISHER, passphrase=None))
    (folder / FILE).write_bytes(b"model")
    (folder / "policy").write_text(f"log {vkey}\nquorum none\n")
    (folder / "trust.toml").write_text(f'[[namespace]]\nmatch = "generic:*"\nsigners = ["{PUBLISHER.public}"]\n')


async def sign(folder: Path, log: str, *more: str, timeout_s: int = 10) -> Finished:
    """Sign the file at a log."""
    key, policy = folder / "key", folder / "policy"
    options: list[str | Path] = ["--key", key, "--log", log, "--policy", policy, "--timeout-s", str(timeout_s)]
    return await run_module("treehead_client", "sign", folder / FILE, *options, *more)


async def verify(folder: Path, *more: str) -> Finished:
    """Verify the file that was signed."""
    rules, state = ("--policy", folder / "policy", "--trust", folder / "trust.toml"), ("--state", folder / "state")
    return await run_module("treehead_client", "verify", folder / FILE, *rules, *state, *more)


# --- a log -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_file_is_signed_at_a_log_with_tls(trust: Trust, host: str) -> None:
    async with one_leaf_log(load_server_tls(trust.listener()).grpc_credentials()) as address:
        url = f"https://{host}:{address.rpartition(':')[2]}"
        signed = await sign(trust.folder, url, *trust.options())
        assert (signed.exit_code, signed.stderr) == (0, "")
        found = await run_module(
            "treehead_client", "find", f"sha256:{'0' * 64}", "--log", url, *trust.options(), "--json"
        )
    # It was asked, and cannot do that.
    assert found.exit_code == 3
    assert f"log {url} gave no answer (UNIMPLEMENTED" in found.stderr


async def test_a_log_that_wants_certificates_lets_in_who_has_one(trust: Trust) -> None:
    tls = load_server_tls(trust.listener(wants_certificate=True))
    async with one_leaf_log(tls.grpc_credentials()) as address:
        signed = await sign(trust.folder, f"https://{address}", *trust.options(shows=trust.clients))
    assert (signed.exit_code, signed.stderr) == (0, "")


@asynccontextmanager
async def http_port(tls: ServerTls) -> AsyncIterator[str]:
    """HOST:PORT of a server that speaks TLS, and HTTP/1.1 in it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=load_server_tls(tls).ssl_context())
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def with_tls(tls: ServerTls) -> AbstractAsyncContextManager[str]:
    return one_leaf_log(load_server_tls(tls).grpc_credentials())


def without_tls(_: ServerTls) -> AbstractAsyncContextManager[str]:
    return one_leaf_log(None)


def expired(trust: Trust) -> AbstractAsyncContextManager[str]:
    """A log whose certificate has run out, which ours would not start with."""
    files = trust.server.server(trust.folder / "expired", end=-DAY)
    pair = files.key.read_bytes(), files.certificate.read_bytes()
    return one_leaf_log(grpc.ssl_server_credentials([pair]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A server and a client that do not come together, and what the client's user is told."""

    server: Callable[[Trust], AbstractAsyncContextManager[str]]
    options: Callable[[Trust], list[str]] = lambda trust: trust.options()
    scheme: str = "https://"
    told: str


MISMATCHES = {
    "no_trusted_authority": Mismatch(
        server=lambda trust: with_tls(trust.listener()),
        options=lambda trust: [],
        told="no authority that is trusted here made its certificate: see --tls-ca",
    ),
    "another_authority": Mismatch(
        server=lambda trust: with_tls(trust.listener()),
        options=lambda trust: ["--tls-ca", str(trust.other.file(trust.folder / "other.pem"))],
        told="no authority that is trusted here made its certificate: see --tls-ca",
    ),
    "another_name": Mismatch(
        server=lambda trust: with_tls(trust.listener("log.example", "127.0.0.2")),
        told="its certificate is for another name",
    ),
    "expired": Mismatch(server=expired, told="its certificate has expired"),
    "no_client_certificate": Mismatch(
        server=lambda trust: with_tls(trust.listener(wants_certificate=True)),
        told="it may want a certificate, or another one (--tls-cert, --tls-key)",
    ),
    "a_foreign_client_certificate": Mismatch(
        server=lambda trust: with_tls(trust.listener(wants_certificate=True)),
        options=lambda trust: trust.options(shows=trust.other),
        told="it may want a certificate, or another one (--tls-cert, --tls-key)",
    ),
    "tls_to_plain_text": Mismatch(
        server=lambda trust: without_tls(trust.listener()),
        told="it does not speak TLS; if it is not meant to, leave https:// out",
    ),
    "plain_text_to_tls": Mismatch(
        server=lambda trust: with_tls(trust.listener()),
        options=lambda trust: [],
        scheme="",
        told="if it speaks TLS, its address has to begin with https://",
    ),
    "tls_to_a_port_for_http": Mismatch(
        server=lambda trust: http_port(trust.listener()),
        told="it speaks TLS, but not gRPC: is that its port for HTTP?",
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
async def test_a_client_and_a_log_that_do_not_come_together_say_so_in_one_line(trust: Trust, mismatch: str) -> None:
    case = MISMATCHES[mismatch]
    async with case.server(trust) as address:
        signed = await sign(trust.folder, f"{case.scheme}{address}", *case.options(trust))
    assert (signed.exit_code, signed.stdout, signed.stderr.count("\n")) == (3, "", 1)
    assert f"log {case.scheme}{address}" in signed.stderr
    assert signed.stderr.endswith(f"{case.told}\n")


async def test_a_server_that_is_silent_is_given_up_in_time(trust: Trust) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        signed = await sign(trust.folder, f"https://{address}", *trust.options(), timeout_s=1)
    assert (signed.exit_code, signed.stdout, signed.stderr.count("\n")) == (3, "", 1)
    assert f"log https://{address} gave no answer (DEADLINE_EXCEEDED" in signed.stderr


@pytest.mark.parametrize(
    ("log", "options", "told"),
    [
        ("127.0.0.1:1", ["--tls-ca", "ca.pem"], "--tls-ca: no address begins with https://, so there is no TLS"),
        (
            "127.0.0.1:1",
            ["--tls-cert", "c", "--tls-key", "k"],
            "--tls-cert, --tls-key: no address begins with https://",
        ),
        ("https://127.0.0.1:1", ["--tls-cert", "cert.pem"], "give --tls-key, too"),
        ("https://127.0.0.1:1", ["--tls-ca", "no such file"], "cannot read --tls-ca no such file: No such file"),
        ("https://127.0.0.1:1/", [], "'https://127.0.0.1:1/' is not HOST:PORT, nor https://HOST:PORT"),
    ],
)
async def test_options_that_cannot_be_used_are_refused_by_name(
    trust: Trust, log: str, options: list[str], told: str
) -> None:
    signed = await sign(trust.folder, log, *options)
    assert (signed.exit_code, signed.stdout, signed.stderr.count("\n")) == (2, "", 1)
    assert told in signed.stderr


# --- a real log ------------------------------------------------------------------------------------------------------


def as_options(tls: ServerTls) -> list[str | Path]:
    """The options of `treehead-log serve` that say the same."""
    options: list[str | Path] = ["--tls-cert", tls.certificate, "--tls-key", tls.key]
    return options if tls.client_ca is None else [*options, "--tls-client-ca", tls.client_ca]


async def fetch(url: str, tls: ClientTls) -> str:
    """What an HTTP client gets over a new connection."""
    async with httpx.AsyncClient(verify=tls.ssl_context(), timeout=SECONDS, trust_env=False) as client:
        response = await client.get(url)
    assert response.status_code == 200
    return response.text


async def test_a_log_speaks_tls_at_both_ports_and_takes_up_a_renewed_certificate(trust: Trust) -> None:
    listener, before = trust.listener(), trust.server.file(trust.folder / "ca.pem")
    furnish(trust.folder, vkey=await create_log(trust.folder / "log", origin=ORIGIN))
    async with LogProcess(trust.folder / "log", *as_options(listener)) as log:
        url = f"https://{log.address}"

        async def assert_answered(ca: Path) -> None:
            signed = await sign(trust.folder, url, "--tls-ca", str(ca))
            assert signed.exit_code == 0, signed.stderr
            assert (await fetch(f"{log.http}/checkpoint", ClientTls(ca=ca))).startswith(ORIGIN)

        assert log.http.startswith("https://")
        await assert_answered(before)
        key = new_key()
        Files(certificate=listener.certificate, key=listener.key).write(trust.other.issue(key, *HERE), key_pem(key))
        await assert_answered(trust.other.file(trust.folder / "other.pem"))
        await log.says("the TLS certificate is renewed, until ")
        signed = await sign(trust.folder, url, "--tls-ca", str(before))
        assert f"cannot reach log {url}: no authority that is trusted here" in signed.stderr
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(f"{log.http}/checkpoint", ClientTls(ca=before))
        assert await log.stop() == 0


async def test_a_log_that_wants_certificates_wants_them_at_both_ports(trust: Trust) -> None:
    ca, mine = trust.server.file(trust.folder / "ca.pem"), trust.clients.client(trust.folder / "mine")
    furnish(trust.folder, vkey=await create_log(trust.folder / "log", origin=ORIGIN))
    async with LogProcess(trust.folder / "log", *as_options(trust.listener(wants_certificate=True))) as log:
        shown = ["--tls-ca", str(ca), "--tls-cert", str(mine.certificate), "--tls-key", str(mine.key)]
        assert (await sign(trust.folder, f"https://{log.address}", *shown)).exit_code == 0
        named = ClientTls(ca=ca, certificate=mine.certificate, key=mine.key)
        assert (await fetch(f"{log.http}/checkpoint", named)).startswith(ORIGIN)
        assert (await sign(trust.folder, f"https://{log.address}", "--tls-ca", str(ca))).exit_code == 3
        with pytest.raises(httpx.TransportError):
            await fetch(f"{log.http}/checkpoint", ClientTls(ca=ca))


async def test_a_log_does_not_start_with_a_certificate_it_cannot_use(trust: Trust) -> None:
    listener = trust.listener()
    listener.key.chmod(0o644)
    await create_log(trust.folder / "log", origin=ORIGIN)
    served = await run_module("treehead_logserver", "serve", "--data", trust.folder / "log", *as_options(listener))
    assert (served.exit_code, served.stdout) == (2, "")
    assert served.stderr.endswith(f"is accessible to others (mode 0644): run chmod 600 {listener.key}\n")
    assert "Traceback" not in served.stderr


# --- monitors --------------------------------------------------------------------------------------------------------


class Forwarding(grpc.GenericRpcHandler):
    """Hands every call on to a server behind, byte for byte; an Exchange that was answered sets `exchanged`."""

    def __init__(self, behind: grpc.aio.Channel) -> None:
        self.url = ""
        self.exchanged = asyncio.Event()
        self._behind = behind

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method

        async def stream(request: bytes, _: object) -> AsyncIterator[bytes]:
            call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._behind.unary_stream(method)
            async for message in call(request, timeout=SECONDS):
                yield message

        async def answer(request: bytes, _: object) -> bytes:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._behind.unary_unary(method)
            response = await call(request, timeout=SECONDS)
            if method.endswith("/Exchange"):
                self.exchanged.set()
            return response

        if method.endswith("/GetEntries"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def in_front_of(address: str, tls: LoadedTls) -> AsyncIterator[Forwarding]:
    """A server of ours, at `url`, that speaks TLS for one behind it."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        server, forwarding = Server("forwarding", calls_max=64, drain_ms=1_000), Forwarding(channel)
        server.grpc.add_generic_rpc_handlers((forwarding,))
        forwarding.url = f"https://{await server.start('127.0.0.1:0', credentials=tls.grpc_credentials())}"
        try:
            yield forwarding
        finally:
            await server.stop()


async def test_monitors_follow_gossip_and_answer_over_tls(trust: Trust) -> None:
    listener = trust.listener(wants_certificate=True)
    tls, options = load_server_tls(listener), trust.options(shows=trust.clients)
    vkey = await create_log(trust.folder / "log", origin=ORIGIN)
    furnish(trust.folder, vkey=vkey)
    for name in ("one", "two"):
        new_monitor(trust.folder / name, name=f"{name}.example")
    async with LogProcess(trust.folder / "log", *as_options(listener)) as log:
        url = f"https://{log.address}"
        signed = await sign(trust.folder, url, *options)
        assert (signed.exit_code, signed.stderr) == (0, "")
        async with (
            MonitorProcess(trust.folder / "one", logs=[(vkey, url)], more=options) as one,
            in_front_of(one.address, tls) as front_one,
            MonitorProcess(trust.folder / "two", logs=[(vkey, url)], peers=[front_one.url], more=options) as two,
            in_front_of(two.address, tls) as front_two,
        ):
            for monitor in (one, two):
                await monitor.says("verified to size 1")
            async with asyncio.timeout(SECONDS):
                await front_one.exchanged.wait()
            urls = front_one.url, front_two.url
            verified = await verify(trust.folder, *options, "--monitor", urls[0], "--monitor", urls[1])
            assert (verified.exit_code, verified.stderr) == (0, "")
            assert f"monitors {' '.join(urls)}" in verified.stdout
            refused = await verify(trust.folder, "--monitor", urls[0])
            assert refused.exit_code == 3
            assert f"cannot reach monitor {urls[0]}: no authority that is trusted here" in refused.stdout


async def test_a_log_that_a_monitor_cannot_reach_over_tls_is_a_suspicion_that_says_why(trust: Trust) -> None:
    new_monitor(trust.folder / "monitor")
    async with with_tls(trust.listener()) as address:
        logs = [(format_vkey(LOG_KEY), f"https://{address}")]
        ca = str(trust.other.file(trust.folder / "other.pem"))
        async with MonitorProcess(trust.folder / "monitor", logs=logs, more=["--tls-ca", ca]) as monitor:
            await monitor.says(f"cannot reach log at https://{address}: no authority that is trusted here")
            assert await monitor.stop() == 0


async def test_a_monitor_that_is_given_files_it_cannot_use_does_not_start(trust: Trust) -> None:
    new_monitor(trust.folder / "monitor")
    log = f"{format_vkey(LOG_KEY)}=https://127.0.0.1:1"
    for peer in ([], ["--peer", "https://127.0.0.1:2"]):
        arguments = ["--grpc", "127.0.0.1:0", "--log", log, *peer, "--tls-ca", "no such file"]
        done = await monitor_command("run", "--data", trust.folder / "monitor", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.endswith("cannot read --tls-ca no such file: No such file or directory\n")
        assert "Traceback" not in done.stderr


async def test_an_offline_verification_has_no_use_for_tls(trust: Trust) -> None:
    verified = await verify(trust.folder, *trust.options())
    assert (verified.exit_code, verified.stdout, verified.stderr.count("\n")) == (2, "", 1)
    assert "--tls-ca: no address begins with https://" in verified.stderr
