"""TLS: which files are refused at the start, what is spoken, who is let in, and certificates that are renewed."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.certificates import DAY, HERE, Authority, Files, key_pem, new_key
from treehead.certfile import CERTIFICATES_BYTES_MAX
from treehead.errors import UsageError
from treehead.server import Server
from treehead.tls import ClientTls, LoadedTls, ServerTls, load_server_tls, server_tls
from treehead.wire import Endpoint, open_channel

SECONDS = 10
SERVICE = "example.Service"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    return authority.server(tmp_path / "server")


def loaded(files: Files, *, client_ca: Path | None = None) -> LoadedTls:
    return load_server_tls(ServerTls(certificate=files.certificate, key=files.key, client_ca=client_ca))


# --- files that can be used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["server", "client"])
def test_what_a_token_library_left_in_the_queue_of_openssl_is_no_fault_of_the_authorities(
    files: Files, authority: Authority, tmp_path: Path, of: str
) -> None:
    name = ctypes.util.find_library("crypto")
    if name is None or not hasattr(library := ctypes.CDLL(name), "ENGINE_by_id"):
        pytest.skip("no shared library of OpenSSL that has engines")
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    library.ENGINE_by_id(b"there is none")
    if of == "server":
        assert loaded(files, client_ca=path).ssl_context().verify_mode is ssl.CERT_REQUIRED
    else:
        assert ClientTls(ca=path).ssl_context().cert_store_stats()["x509_ca"] == 1


# --- files that cannot be used ---------------------------------------------------------------------------------------


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, bits)


def traditional(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


CERTIFICATES: dict[str, tuple[Callable[[Authority], bytes], str]] = {
    "empty": (lambda _: b"", "does not hold certificates in PEM"),
    "no_pem": (lambda _: b"\x30\x82\x01", "does not hold certificates in PEM"),
    "a_key": (lambda _: key_pem(new_key()), "does not hold certificates in PEM"),
    "damaged": (lambda ca: ca.pem.replace(b"MII", b"MIJ", 1), "does not hold certificates in PEM"),
    "a_damaged_one_after": (lambda ca: ca.pem + ca.pem.replace(b"MII", b"MIJ", 1), "does not hold certificates in PEM"),
    "too_large": (lambda ca: ca.pem + b"\n" * CERTIFICATES_BYTES_MAX, "larger than 1048576 bytes"),
    "expired": (lambda ca: ca.issue(new_key(), *HERE, begin=-2 * DAY, end=-DAY / 24), "has expired on 2"),
    "not_valid_yet": (lambda ca: ca.issue(new_key(), *HERE, begin=DAY, end=2 * DAY), "is valid from 2"),
    "of_another_key": (lambda ca: ca.issue(new_key(), *HERE), "is not the key of the first certificate in --tls-cert"),
    "in_the_wrong_order": (lambda ca: ca.pem + ca.issue(new_key(), *HERE), "is not the key of the first certificate"),
    "of_a_key_of_another_kind": (
        lambda ca: ca.issue(ed25519.Ed25519PrivateKey.generate(), *HERE),
        "is not the key of the first certificate",
    ),
}

KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is not a PKCS#8 private key in PEM: openssl pkcs8"),
    "of_the_traditional_kind": (lambda: traditional(new_key()), "is not a PKCS#8 private key in PEM: openssl pkcs8"),
    "encrypted": (lambda: key_pem(new_key(), passphrase=b"secret"), "is encrypted"),
    "damaged": (lambda: key_pem(new_key())[:60], "it is damaged"),
    "too_large": (lambda: key_pem(new_key()) + b"\n" * 20_000, "larger than"),
    "ed25519": (lambda: key_pem(ed25519.Ed25519PrivateKey.generate()), "of a kind that gRPC's TLS does not take"),
    "p521": (lambda: key_pem(ec.generate_private_key(ec.SECP521R1())), "of a kind that gRPC's TLS does not take"),
    "secp256k1": (lambda: key_pem(ec.generate_private_key(ec.SECP256K1())), "of a kind that gRPC's TLS does not take"),
    "rsa_1024": (lambda: key_pem(rsa_key(1_024)), "of a kind that gRPC's TLS does not take"),
}


def refusals(files: Files) -> list[str]:
    """What a server, and each user of a client's identity, says of the same files."""
    client = ClientTls(certificate=files.certificate, key=files.key)
    said = []
    for use in (lambda: loaded(files), client.channel_credentials, client.ssl_context):
        with pytest.raises(UsageError) as caught:
            use()
        said.append(str(caught.value))
    return said


@pytest.mark.parametrize("fault", CERTIFICATES)
def test_a_certificate_that_cannot_be_used_is_refused_by_name(authority: Authority, files: Files, fault: str) -> None:
    make, reason = CERTIFICATES[fault]
    files.certificate.write_bytes(make(authority))
    said = refusals(files)
    assert len(set(said)) == 1
    assert f"--tls-cert {files.certificate}" in said[0]
    assert reason in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize("fault", KEYS)
def test_a_key_that_cannot_be_used_is_refused_by_name(files: Files, fault: str) -> None:
    make, reason = KEYS[fault]
    files.key.write_bytes(make())
    said = refusals(files)
    assert len(set(said)) == 1
    assert said[0].startswith(f"--tls-key {files.key}")
    assert reason in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_use_is_refused_with_the_cure(files: Files, mode: int) -> None:
    files.key.chmod(mode)
    for said in refusals(files):
        assert said == f"--tls-key {files.key} is accessible to others (mode {mode:04o}): run chmod 600 {files.key}"


def test_a_file_that_is_not_there_is_named(authority: Authority, files: Files, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for said in refusals(replace(files, certificate=missing)):
        assert said == f"cannot read --tls-cert {missing}: No such file or directory"
    for said in refusals(replace(files, key=missing)):
        assert said == f"cannot read --tls-key {missing}: No such file or directory"
    with pytest.raises(UsageError, match=f"cannot read --tls-client-ca {missing}: No such file"):
        loaded(files, client_ca=missing)
    for use in (ClientTls(ca=missing).channel_credentials, ClientTls(ca=missing).ssl_context):
        with pytest.raises(UsageError, match=f"cannot read --tls-ca {missing}: No such file"):
            use()


def test_authorities_that_are_none_are_refused(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"no certificate")
    with pytest.raises(UsageError, match=f"--tls-client-ca {path} does not hold certificates"):
        loaded(files, client_ca=path)
    for use in (ClientTls(ca=path).channel_credentials, ClientTls(ca=path).ssl_context):
        with pytest.raises(UsageError, match=f"--tls-ca {path} does not hold certificates"):
            use()


def test_a_certificate_without_its_key_is_refused_and_a_key_without_its_certificate() -> None:
    for flag, certificate, key in (("--tls-key", Path("c"), None), ("--tls-cert", None, Path("k"))):
        with pytest.raises(UsageError, match=f"give {flag}, too"):
            ClientTls(certificate=certificate, key=key)
        with pytest.raises(UsageError, match=f"give {flag}, too"):
            server_tls(certificate=certificate, key=key, client_ca=None)


def test_the_options_of_a_listener_ask_for_tls_or_for_none() -> None:
    assert server_tls(certificate=None, key=None, client_ca=None) is None
    assert server_tls(certificate=Path("c"), key=Path("k"), client_ca=Path("a")) == ServerTls(
        certificate=Path("c"), key=Path("k"), client_ca=Path("a")
    )
    with pytest.raises(UsageError, match="--tls-client-ca needs TLS"):
        server_tls(certificate=None, key=None, client_ca=Path("a"))


def test_the_authorities_that_the_environment_names_are_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match=r"cannot read \$SSL_CERT_FILE .*missing: No such file"):
        ClientTls().channel_credentials()


# --- HTTP ------------------------------------------------------------------------------------------------------------


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, *, name: str = "127.0.0.1") -> ssl.SSLObject:
    """The client's side of a connection, after both sides have finished the handshake.

    Raises:
        ssl.SSLError: one of them refused.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)
    for _ in range(8):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[1].write(b"x")
    assert ends[0].read(1) == b"x"
    return ends[0]


@pytest.fixture
def trusting(authority: Authority, tmp_path: Path) -> ClientTls:
    return ClientTls(ca=authority.file(tmp_path / "ca.pem"))


def shown_by(end: ssl.SSLObject) -> bytes:
    """The certificate that the server showed."""
    der = end.getpeercert(binary_form=True)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der).encode()


def old(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that speaks this version only, with whatever ciphers, and trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return only(context, version)


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("key", [new_key(), ec.generate_private_key(ec.SECP384R1()), rsa_key(2_048)])
def test_a_good_certificate_is_accepted_by_whoever_trusts_its_authority(
    authority: Authority,
    files: Files,
    trusting: ClientTls,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    files.write(authority.issue(key, *HERE), key_pem(key))
    client = trusting.ssl_context()
    client.set_alpn_protocols(["h2", "http/1.1"])
    end = shake_hands(client, loaded(files).ssl_context())
    assert (end.version(), end.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


async def test_a_chain_is_shown_with_its_intermediate_certificate(
    authority: Authority, trusting: ClientTls, tmp_path: Path
) -> None:
    tls = loaded(Authority("intermediate", parent=authority).server(tmp_path / "intermediate"))
    shake_hands(trusting.ssl_context(), tls.ssl_context())
    async with answering(tls) as address:
        assert await ask(address, trusting) is grpc.StatusCode.OK


def test_another_authority_or_another_name_is_not_accepted(files: Files, trusting: ClientTls, tmp_path: Path) -> None:
    server = loaded(files).ssl_context()
    other = ClientTls(ca=Authority("other").file(tmp_path / "other.pem"))
    for client in (other, ClientTls()):
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            shake_hands(client.ssl_context(), server)
    for name in ("log.example", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shake_hands(trusting.ssl_context(), server, name=name)


def test_only_forward_secret_authenticated_ciphers_are_spoken(files: Files, trusting: ClientTls) -> None:
    for context in (loaded(files).ssl_context(), trusting.ssl_context()):
        ciphers = context.get_ciphers()
        assert len(ciphers) >= 6
        assert all(cipher["aead"] and cipher["kea"] in ("kx-any", "kx-ecdhe") for cipher in ciphers)
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION


OLD_VERSIONS = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")


def assert_speakable(version: ssl.TLSVersion, files: Files) -> None:
    """This OpenSSL can speak a version; or else that nobody does so with it would prove nothing."""
    lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lenient.load_cert_chain(files.certificate, files.key)
    try:
        shake_hands(old(version), only(lenient, version))
    except ssl.SSLError:
        pytest.skip(f"{ssl.OPENSSL_VERSION} does not speak {version.name} at all")


@OLD_VERSIONS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_no_version_before_tls_1_2_is_spoken(files: Files, version: ssl.TLSVersion) -> None:
    assert_speakable(version, files)
    server = loaded(files).ssl_context()
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol|protocol.version"):
        shake_hands(old(version), server)
    assert shake_hands(old(ssl.TLSVersion.TLSv1_2), server).version() == "TLSv1.2"


def test_a_client_shows_its_certificate_where_one_is_wanted(
    authority: Authority, files: Files, trusting: ClientTls, tmp_path: Path
) -> None:
    clients = Authority("clients")
    server = loaded(files, client_ca=clients.file(tmp_path / "clients.pem")).ssl_context()
    mine, foreign = clients.client(tmp_path / "mine"), authority.client(tmp_path / "foreign")
    shake_hands(replace(trusting, certificate=mine.certificate, key=mine.key).ssl_context(), server)
    for client in (trusting, replace(trusting, certificate=foreign.certificate, key=foreign.key)):
        with pytest.raises(ssl.SSLError):
            shake_hands(client.ssl_context(), server)


# --- gRPC ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(tls: LoadedTls) -> AsyncIterator[str]:
    server = Server(SERVICE, calls_max=8, drain_ms=1_000)
    address = await server.start("127.0.0.1:0", credentials=tls.grpc_credentials())
    try:
        yield address
    finally:
        await server.stop()


async def ask(address: str, tls: ClientTls) -> grpc.StatusCode:
    """How a call over a new connection ends."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with open_channel(Endpoint(address=address, tls=True), tls=tls, options=options) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=SECONDS)
        except grpc.aio.AioRpcError as exc:
            return exc.code()
    return grpc.StatusCode.OK


async def connect(address: str, context: ssl.SSLContext) -> tuple[str | None, bytes]:
    """The version that a server speaks with a client, and the certificate that it shows.

    Raises:
        OSError: it refused.
    """

    def connected() -> tuple[str | None, bytes]:
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, port), timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as end,
        ):
            der = end.getpeercert(binary_form=True)
            assert der is not None
            return end.version(), ssl.DER_cert_to_PEM_cert(der).encode()

    return await asyncio.to_thread(connected)


@pytest.mark.parametrize("key", [new_key(), ec.generate_private_key(ec.SECP384R1()), rsa_key(2_048)])
async def test_grpc_takes_every_kind_of_key_that_is_accepted(
    authority: Authority,
    files: Files,
    trusting: ClientTls,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    tmp_path: Path,
) -> None:
    files.write(authority.issue(key, *HERE), key_pem(key))
    other = ClientTls(ca=Authority("other").file(tmp_path / "other.pem"))
    async with answering(loaded(files)) as address:
        assert await ask(address, trusting) is grpc.StatusCode.OK
        assert await ask(address, other) is grpc.StatusCode.UNAVAILABLE
        assert await ask(address, ClientTls()) is grpc.StatusCode.UNAVAILABLE


@OLD_VERSIONS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_grpc_speaks_no_version_before_tls_1_2(files: Files, version: ssl.TLSVersion) -> None:
    assert_speakable(version, files)
    async with answering(loaded(files)) as address:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(address, old(version))
        assert (await connect(address, old(ssl.TLSVersion.TLSv1_2)))[0] == "TLSv1.2"
        assert (await connect(address, old(ssl.TLSVersion.TLSv1_3)))[0] == "TLSv1.3"


async def test_grpc_lets_in_only_clients_with_a_certificate_where_one_is_wanted(
    authority: Authority, files: Files, trusting: ClientTls, tmp_path: Path
) -> None:
    clients = Authority("clients")
    mine, foreign = clients.client(tmp_path / "mine"), authority.client(tmp_path / "foreign")
    async with answering(loaded(files, client_ca=clients.file(tmp_path / "clients.pem"))) as address:
        named = replace(trusting, certificate=mine.certificate, key=mine.key)
        assert await ask(address, named) is grpc.StatusCode.OK
        misnamed = replace(trusting, certificate=foreign.certificate, key=foreign.key)
        assert await ask(address, misnamed) is grpc.StatusCode.UNAVAILABLE
        assert await ask(address, trusting) is grpc.StatusCode.UNAVAILABLE


async def test_the_systems_authorities_count_where_none_are_named(
    files: Files, trusting: ClientTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusting.ca))
    shake_hands(ClientTls().ssl_context(), loaded(files).ssl_context())
    async with answering(loaded(files)) as address:
        assert await ask(address, ClientTls()) is grpc.StatusCode.OK


async def test_the_systems_authorities_do_not_count_beside_those_that_are_named(
    files: Files, trusting: ClientTls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusting.ca))
    other = ClientTls(ca=Authority("other").file(tmp_path / "other.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(other.ssl_context(), loaded(files).ssl_context())
    async with answering(loaded(files)) as address:
        assert await ask(address, other) is grpc.StatusCode.UNAVAILABLE


# --- renewal ---------------------------------------------------------------------------------------------------------


def journal(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The levels and messages since it was asked last."""
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return said


async def test_a_renewed_certificate_is_shown_to_new_connections(
    authority: Authority, files: Files, trusting: ClientTls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="treehead.tls")
    first, key = files.certificate.read_bytes(), rsa_key(2_048)
    tls = loaded(files)
    http, client = tls.ssl_context(), trusting.ssl_context()
    async with answering(tls) as address:
        assert shown_by(shake_hands(client, http)) == first
        assert (await connect(address, old(ssl.TLSVersion.TLSv1_3)))[1] == first
        assert journal(caplog) == []
        renewed = authority.issue(key, *HERE)
        files.write(renewed, key_pem(key))
        # Who prefers the kind of the first key would get that, were it still offered beside the new one.
        assert shown_by(shake_hands(client, http)) == renewed
        assert (await connect(address, old(ssl.TLSVersion.TLSv1_3)))[1] == renewed
        assert await ask(address, trusting) is grpc.StatusCode.OK
    ((level, message),) = journal(caplog)
    assert level == "INFO"
    assert message.startswith("the TLS certificate is renewed, until 2")


async def test_a_renewal_that_cannot_be_used_keeps_the_certificate_and_is_told_once(
    authority: Authority, files: Files, trusting: ClientTls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="treehead.tls")
    first, key = files.certificate.read_bytes(), new_key()
    tls = loaded(files)
    http, client = tls.ssl_context(), trusting.ssl_context()

    async def assert_shown(certificate: bytes) -> None:
        for _ in range(2):
            assert shown_by(shake_hands(client, http)) == certificate
            assert (await connect(address, old(ssl.TLSVersion.TLSv1_3)))[1] == certificate

    async with answering(tls) as address:
        renewed = authority.issue(key, *HERE)
        for change, reason in (
            (lambda: files.certificate.write_bytes(renewed), "is not the key of the first certificate"),
            (files.certificate.unlink, "cannot read --tls-cert"),
            (lambda: files.certificate.write_bytes(b"broken"), "does not hold certificates in PEM"),
            (lambda: files.certificate.write_bytes(authority.issue(key, *HERE, end=-DAY / 2)), "has expired"),
            (lambda: files.certificate.write_bytes(renewed), "is not the key of the first certificate"),
            (lambda: files.key.chmod(0o644), "is accessible to others"),
        ):
            change()
            await assert_shown(first)
            ((level, message),) = journal(caplog)
            assert level == "ERROR"
            assert message.startswith("the TLS certificate is not renewed, and the one before stays in use: ")
            assert reason in message
        files.key.chmod(0o600)
        files.key.write_bytes(key_pem(key))
        await assert_shown(renewed)
        assert [level for level, _ in journal(caplog)] == ["INFO"]
