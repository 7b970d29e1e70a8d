"""The gRPC messages as values, and the settings that all our channels and servers share.

The one module of the shared library that knows protobuf types. What arrives from the wire is parsed as strictly as any
file: hashes have 32 bytes, counts have limits, and a violation is a `MalformedError` that names the field. Signatures
and proofs inside are the receiver's to verify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from treehead.certfile import CERTIFICATE_FLAG, KEY_FLAG
from treehead.display import printable
from treehead.encoding import parse_decimal
from treehead.errors import (
    MalformedError,
    RefusedError,
    StorageError,
    TreeheadError,
    UnavailableError,
    UndecidedError,
    UnsupportedError,
    UsageError,
)
from treehead.evidence import format_evidence, parse_evidence
from treehead.merkle import HASH_BYTES, PROOF_HASHES_MAX
from treehead.note import format_note, parse_note
from treehead.tlogproof import TlogProof
from treehead.tls import AUTHORITIES_FLAG, ClientTls
from treehead.v1 import log_pb2, monitor_pb2
from treehead.view import Prefix, View

_Message = TypeVar("_Message")
_Part = TypeVar("_Part")
_Value = TypeVar("_Value")

MESSAGE_BYTES_MAX = 8_388_608
"""The largest message that our servers and clients accept; a batch or page of entries stays below it."""

VIEW_SIZES_MAX = 8
VIEW_EVIDENCE_MAX = 16

_GRPC_SCHEMES = frozenset({"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "passthrough"})
"""Before a colon these mean something else to gRPC than a host."""
_HTTPS = "https://"
_HTTPS_PORT = 443

_SIZE_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = [*_SIZE_OPTIONS, ("grpc.enable_http_proxy", 0)]
"""gRPC would ask a proxy named in the environment to reach even this very machine."""
PENDING_CALLS_MAX = 16_384
"""Calls that gRPC has received and our code not yet seen. Beyond a thousand it would begin to cancel some, which tells
the caller nothing; so many wait for the moment that it takes to answer them, be it that there are too many."""
CONNECTIONS_MAX = 1_024
SERVER_OPTIONS: Sequence[tuple[str, int]] = [
    *_SIZE_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1_024),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
]
"""Without SO_REUSEPORT a second server on the same port fails, instead of silently taking half of the calls.
Compressed messages are refused (the bit is the one of "identity"): 64 KiB that unpack to 64 MiB keep a core busy until
they are found to be too large.

A peer that vanished is noticed by pings, for as long as it is silent. One that is there, and neither reads nor ends its
calls, keeps their places and what was sent to it: gRPC lets go of neither before the connection ends. So every
connection does, after ten minutes and a minute of grace for the calls on it; who has a stream open opens it again.
"""

_STATUS: tuple[tuple[type[TreeheadError], grpc.StatusCode], ...] = (
    (MalformedError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnsupportedError, grpc.StatusCode.INVALID_ARGUMENT),
    (RefusedError, grpc.StatusCode.INVALID_ARGUMENT),
    (StorageError, grpc.StatusCode.UNAVAILABLE),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
)

# By what a connection that did not come about is told apart from other failures: gRPC has no other sign than its words.
_NOT_CONNECTED = "failed to connect to all addresses"
_CUT_OFF = ("Socket closed", "Connection reset", "Broken pipe")
_TLS_FAILURES = (
    ("Hostname Verification Check failed", "its certificate is for another name"),
    ("missing selected ALPN", "it speaks TLS, but not gRPC: is that its port for HTTP?"),
    ("WRONG_VERSION_NUMBER", f"it does not speak TLS; if it is not meant to, leave {_HTTPS} out"),
    ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "its certificate has expired"),
    ("CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "its certificate is not valid yet"),
    ("CERTIFICATE_VERIFY_FAILED", f"no authority that is trusted here made its certificate: see {AUTHORITIES_FLAG}"),
)


def status_of(error: TreeheadError) -> grpc.StatusCode:
    """The gRPC status by which a server reports an error; INTERNAL for what no caller's input should cause."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def error_of(error: grpc.RpcError, *, peer: str, endpoint: Endpoint | None = None) -> TreeheadError:
    """The error that a failed call to `peer` stands for. What a peer says is never taken as proof of anything.

    With the endpoint that was called, it is explained why a connection did not come about over TLS, or for lack of it.
    """
    code, details = error.code(), printable(error.details() or "no details")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
        return RefusedError(f"{peer} refused: {details}")
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE):
        return UndecidedError(f"{peer} has no answer: {details}")
    hint = ""
    if code is grpc.StatusCode.UNAVAILABLE and endpoint is not None and details.startswith(_NOT_CONNECTED):
        if not endpoint.tls and _is_cut_off(details):
            hint = f"; if it speaks TLS, its address has to begin with {_HTTPS}"
        elif endpoint.tls and (explanation := _explain_tls(details)) is not None:
            return UnavailableError(f"cannot reach {peer}: {explanation}")
    return UnavailableError(f"{peer} gave no answer ({code.name}: {details}){hint}")


def _explain_tls(details: str) -> str | None:
    """Why TLS did not come about, if it is that."""
    for sign, explanation in _TLS_FAILURES:
        if sign in details:
            return explanation
    if _is_cut_off(details):
        return f"it ended the TLS handshake: it may want a certificate, or another one ({CERTIFICATE_FLAG}, {KEY_FLAG})"
    if "handshake" in details.lower():
        return (
            f"no TLS connection: is it a TLS server, and is its certificate by a CA of {AUTHORITIES_FLAG}? ({details})"
        )
    return None


def _is_cut_off(details: str) -> bool:
    """Whether the other side ended a connection that was being made."""
    return any(sign in details for sign in _CUT_OFF)


def received(answer: _Message | None, *, peer: str) -> _Message:
    """The answer of a call that did not fail. Bytes that are no such message reach a caller of gRPC as None.

    Raises:
        MalformedError: that is what the peer sent.
    """
    if answer is None:
        raise MalformedError(f"{peer} sent an answer that is not the message it should be")
    return answer


def parse_address(text: str) -> str:
    """Check that text is `HOST:PORT`, with an IPv6 host in brackets; returns it as gRPC takes it.

    Raises:
        UsageError: it is not.
    """
    host, colon, port = text.rpartition(":")
    try:
        number = parse_decimal(port, what="port")
    except MalformedError as exc:
        raise UsageError(f"{text!r} is not HOST:PORT: {exc}") from exc
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not (colon and host and number <= 65_535)
        or (":" in host and not bracketed)
        or not host.isprintable()
        or any(char in "/ %" for char in host)
        or host in _GRPC_SCHEMES
    ):
        raise UsageError(f"{text!r} is not HOST:PORT (an IPv6 host goes in brackets)")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is found: at an address (HOST:PORT), and over TLS or in plain text."""

    address: str
    tls: bool


def parse_endpoint(text: str) -> Endpoint:
    """Parse where a client is to connect: `HOST:PORT` for plain text, `https://HOST:PORT` or `https://HOST` for TLS.

    The port of `https://HOST` is 443, and `format_endpoint` prints it.

    Raises:
        UsageError: text is none of these.
    """
    tls = text.startswith(_HTTPS)
    address = text.removeprefix(_HTTPS)
    if tls and (":" not in address or address.endswith("]")):
        address = f"{address}:{_HTTPS_PORT}"
    try:
        return Endpoint(address=parse_address(address), tls=tls)
    except UsageError as exc:
        raise UsageError(
            f"{text!r} is not HOST:PORT, nor {_HTTPS}HOST:PORT for a server with TLS (an IPv6 host goes in brackets)"
        ) from exc


def format_endpoint(endpoint: Endpoint) -> str:
    """Print an endpoint, with its port."""
    return f"{_HTTPS}{endpoint.address}" if endpoint.tls else endpoint.address


def open_channel(
    endpoint: Endpoint, *, tls: ClientTls | None, options: Sequence[tuple[str, Any]] = CHANNEL_OPTIONS
) -> grpc.aio.Channel:
    """A channel to an endpoint, which connects when it is first used.

    `tls` says whom a channel over TLS trusts; None are the authorities of the operating system.

    Raises:
        UsageError: a file of `tls` cannot be used.
    """
    if not endpoint.tls:
        return grpc.aio.insecure_channel(endpoint.address, options=options)
    credentials = (tls or ClientTls()).channel_credentials()
    return grpc.aio.secure_channel(endpoint.address, credentials, options=options)


def is_loopback(address: str) -> bool:
    """Whether an address that `parse_address` accepted names this machine only."""
    import ipaddress

    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hashes_from_wire(hashes: Iterable[bytes], *, what: str) -> tuple[bytes, ...]:
    """The hashes of a proof.

    Raises:
        MalformedError: there are more than any proof has, or one has not 32 bytes.
    """
    checked = tuple(hashes)
    if len(checked) > PROOF_HASHES_MAX + 1 or any(len(hash_) != HASH_BYTES for hash_ in checked):
        raise MalformedError(
            f"field {what} is not a proof of at most {PROOF_HASHES_MAX + 1} hashes of {HASH_BYTES} bytes"
        )
    return checked


def proof_to_wire(proof: TlogProof) -> log_pb2.InclusionProof:
    """An inclusion proof as a message; `extra` stays behind."""
    return log_pb2.InclusionProof(leaf_index=proof.index, hashes=proof.hashes, checkpoint=proof.checkpoint)


def proof_from_wire(message: log_pb2.InclusionProof, *, leaf: bytes) -> TlogProof:
    """An inclusion proof with the leaf that it is about.

    Raises:
        MalformedError: see `hashes_from_wire`.
    """
    return TlogProof(
        extra=leaf,
        index=message.leaf_index,
        hashes=hashes_from_wire(message.hashes, what="proof.hashes"),
        checkpoint=message.checkpoint,
    )


def view_to_wire(view: View) -> monitor_pb2.GetViewResponse:
    """A monitor's view as a message; the monitor's name stays behind."""
    return monitor_pb2.GetViewResponse(
        head=b"" if view.head is None else format_note(view.head),
        prefixes=[monitor_pb2.Prefix(size=prefix.size, root=prefix.root, path=prefix.path) for prefix in view.prefixes],
        evidence=[format_evidence(evidence) for evidence in view.evidence],
    )


def view_from_wire(message: monitor_pb2.GetViewResponse, *, monitor: str) -> View:
    """A monitor's view, named `monitor` for messages.

    Each part is read by itself, because what is proven by one must not be hidden by what is wrong with another: what is
    malformed, or more than a view may have, is left out and becomes one of `View.faults`.
    """
    faults: list[str] = []
    if len(message.prefixes) > VIEW_SIZES_MAX or len(message.evidence) > VIEW_EVIDENCE_MAX:
        faults.append("there are more prefixes or evidence than a view may have")
    heads = _readable(parse_note, [message.head] if message.head else [], faults)
    return View(
        monitor=monitor,
        head=heads[0] if heads else None,
        prefixes=_readable(_prefix_from_wire, message.prefixes[:VIEW_SIZES_MAX], faults),
        evidence=_readable(parse_evidence, message.evidence[:VIEW_EVIDENCE_MAX], faults),
        faults=tuple(faults),
    )


def _prefix_from_wire(message: monitor_pb2.Prefix) -> Prefix:
    return Prefix(
        size=message.size,
        root=hashes_from_wire([message.root], what="prefixes.root")[0],
        path=hashes_from_wire(message.path, what="prefixes.path"),
    )


def _readable(read: Callable[[_Part], _Value], parts: Iterable[_Part], faults: list[str]) -> tuple[_Value, ...]:
    """The parts that can be read; why the others cannot is added to `faults`."""
    values: list[_Value] = []
    for part in parts:
        try:
            values.append(read(part))
        except MalformedError as exc:
            faults.append(str(exc))
    return tuple(values)
