"""TLS for our listeners and channels: the one place that says which versions, ciphers and certificates they take.

TLS 1.2 is the oldest version that is spoken, with forward secrecy and authenticated encryption only; for gRPC that is
what its own TLS insists on. Whether a peer's certificate is by a trusted authority and for the right name is checked by
gRPC and OpenSSL in the handshake. Revocation is not: neither lists nor OCSP are asked.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from treehead.certfile import (
    CERTIFICATE_FLAG,
    KEY_FLAG,
    Authorities,
    Identity,
    IdentityFiles,
    format_day,
    identity_files,
    read_authorities,
    read_identity,
    read_system_authorities,
)
from treehead.errors import UsageError

if TYPE_CHECKING:
    # A client that speaks no TLS does not wait for these.
    import ssl
    from collections.abc import Callable

    import grpc

_LOG = logging.getLogger(__name__)

AUTHORITIES_FLAG = "--tls-ca"
CLIENT_AUTHORITIES_FLAG = "--tls-client-ca"

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of TLS 1.3 are all of this kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The files of a listener: its certificate with the intermediate ones (PEM), and the key (PKCS#8, mode 0600).

    With `client_ca`, only clients whose certificate is by an authority in that file get an answer.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Which servers a client trusts, and how it names itself to those that ask.

    Attributes:
        ca: the authorities that count (PEM); without it those of the operating system do.
        certificate, key: what is shown to a server that wants a certificate, as in `ServerTls`.

    Raises:
        UsageError: one of certificate and key is given without the other.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        identity_files(certificate=self.certificate, key=self.key)

    @property
    def flags(self) -> tuple[str, ...]:
        """The options that were given."""
        options = ((AUTHORITIES_FLAG, self.ca), (CERTIFICATE_FLAG, self.certificate), (KEY_FLAG, self.key))
        return tuple(flag for flag, path in options if path is not None)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """What a gRPC channel needs, made of the files as they are now.

        Without `ca`, where OpenSSL knows no file with the authorities of this machine, those count that gRPC brings.

        Raises:
            UsageError: a file cannot be used.
        """
        import grpc

        authorities = (
            read_system_authorities() if self.ca is None else read_authorities(self.ca, flag=AUTHORITIES_FLAG).pem
        )
        files = identity_files(certificate=self.certificate, key=self.key)
        if files is None:
            return grpc.ssl_channel_credentials(authorities)
        identity = read_identity(files)
        return grpc.ssl_channel_credentials(authorities, identity.key, identity.chain)

    def ssl_context(self) -> ssl.SSLContext:
        """What an HTTP client needs, made of the files as they are now. Names are checked.

        Raises:
            UsageError: a file cannot be used.
        """
        import ssl

        context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        if self.ca is None:
            context.load_default_certs()
        else:
            _trust(read_authorities(self.ca, flag=AUTHORITIES_FLAG), context)
        files = identity_files(certificate=self.certificate, key=self.key)
        if files is not None:
            read_identity(files)
            _show(files, context)
        return context


def server_tls(*, certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """What a listener's three options say; None if they ask for no TLS.

    Raises:
        UsageError: one is given without what it needs.
    """
    files = identity_files(certificate=certificate, key=key)
    if files is not None:
        return ServerTls(certificate=files.certificate, key=files.key, client_ca=client_ca)
    if client_ca is not None:
        raise UsageError(f"{CLIENT_AUTHORITIES_FLAG} needs TLS: give {CERTIFICATE_FLAG} and {KEY_FLAG}, too")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What new connections are shown: an identity, and the context that shows it over HTTP."""

    identity: Identity
    context: ssl.SSLContext


class LoadedTls:
    """A listener's certificate and key, ready for use by any thread.

    With each new connection it is looked whether the files were changed, and what they hold now is shown: a renewed
    certificate needs no restart. Files that cannot be used change nothing, and the journal says so once. Which clients
    are trusted is settled at the start.

    Raises:
        UsageError: see `load_server_tls`.
    """

    def __init__(self, files: IdentityFiles, *, clients: Authorities | None) -> None:
        self._files = files
        self._clients = clients
        self._lock = Lock()
        self._version = _version(files)
        self._shown = self._load()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server's secure port."""
        import grpc

        delivered = self._shown.identity

        def configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
            roots = None if self._clients is None else self._clients.pem
            return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], roots)

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal delivered
            identity = self._newest().identity
            if identity is delivered:
                return None
            delivered = identity
            return configuration(identity)

        fetch: Callable[[], grpc.ServerCertificateConfiguration] = renewed  # type: ignore[assignment]  # None: no other
        return grpc.dynamic_ssl_server_credentials(
            configuration(delivered), fetch, require_client_authentication=self._clients is not None
        )

    def ssl_context(self) -> ssl.SSLContext:
        """For an HTTP/1.1 server's port.

        Raises:
            UsageError: the files were changed, and cannot be used.
        """
        context = self._make_context()

        def show_the_newest(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self._newest().context

        # Called for every connection, even if the client names no server. Not the chain of one context is exchanged:
        # a key of another kind would join the one before, and both be shown.
        context.sni_callback = show_the_newest
        return context

    def _newest(self) -> _Shown:
        """What the files hold now, or held when they could last be used."""
        with self._lock:
            version = _version(self._files)
            if version != self._version:
                self._version = version
                try:
                    self._shown = self._load()
                except UsageError as exc:
                    _LOG.error("the TLS certificate is not renewed, and the one before stays in use: %s", exc)
                else:
                    _LOG.info("the TLS certificate is renewed, until %s", format_day(self._shown.identity.until))
            return self._shown

    def _load(self) -> _Shown:
        return _Shown(identity=read_identity(self._files), context=self._make_context())

    def _make_context(self) -> ssl.SSLContext:
        import ssl

        context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.set_alpn_protocols(["http/1.1"])
        if self._clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            _trust(self._clients, context)
        _show(self._files, context)
        return context


def load_server_tls(config: ServerTls) -> LoadedTls:
    """The files of a listener, read and found usable.

    Raises:
        UsageError: a file cannot be used; `treehead.certfile` says what is checked.
    """
    clients = None if config.client_ca is None else read_authorities(config.client_ca, flag=CLIENT_AUTHORITIES_FLAG)
    return LoadedTls(IdentityFiles(certificate=config.certificate, key=config.key), clients=clients)


def _version(files: IdentityFiles) -> tuple[tuple[int, ...] | None, ...]:
    """Differs if a file was changed. To be taken before they are read, so that no change in between is missed."""
    return tuple(_version_of(path) for path in (files.certificate, files.key))


def _version_of(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    return context


def _trust(authorities: Authorities, context: ssl.SSLContext) -> None:
    """Have a context take certificates of these authorities."""
    import ssl

    try:
        context.load_verify_locations(cadata=authorities.der)
    except ssl.SSLError:
        # `ssl` takes for its own whatever error is in OpenSSL's queue of this thread, where a token's library may have
        # left one. To raise it has emptied the queue.
        try:
            context.load_verify_locations(cadata=authorities.der)
        except ssl.SSLError as exc:
            raise UsageError(f"{AUTHORITIES_FLAG}: OpenSSL does not take these certificates: {exc.reason}") from exc


def _show(files: IdentityFiles, context: ssl.SSLContext) -> None:
    """Have a context show what was found usable a moment ago; OpenSSL takes it from nothing but files."""
    import ssl

    try:
        # Or else OpenSSL would ask for a passphrase on the terminal, should the key have become an encrypted one.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (ssl.SSLError, OSError) as exc:
        raise UsageError(
            f"{CERTIFICATE_FLAG} {files.certificate} and {KEY_FLAG} {files.key} cannot be used: {exc.strerror or exc}"
        ) from exc
