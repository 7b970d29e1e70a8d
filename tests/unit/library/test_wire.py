"""Where clients are told to connect, and what they say when they could not."""

from __future__ import annotations

import grpc
import pytest

from treehead.errors import RefusedError, UnavailableError, UndecidedError, UsageError
from treehead.wire import Endpoint, error_of, format_endpoint, parse_endpoint

PLAIN = Endpoint(address="127.0.0.1:8461", tls=False)
TLS = Endpoint(address="127.0.0.1:8461", tls=True)


@pytest.mark.parametrize(
    ("text", "address", "tls"),
    [
        ("127.0.0.1:8461", "127.0.0.1:8461", False),
        ("log.example:443", "log.example:443", False),
        ("[::1]:1", "[::1]:1", False),
        ("https://log.example:8461", "log.example:8461", True),
        ("https://log.example:443", "log.example:443", True),
        ("https://[::1]:1", "[::1]:1", True),
    ],
)
def test_an_endpoint_is_read_as_it_is_printed(text: str, address: str, tls: bool) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint == Endpoint(address=address, tls=tls)
    assert format_endpoint(endpoint) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [("https://log.example", "https://log.example:443"), ("https://[::1]", "https://[::1]:443")],
)
def test_without_a_port_tls_is_spoken_at_443(text: str, printed: str) -> None:
    assert format_endpoint(parse_endpoint(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log.example",
        "::1:80",
        "http://log.example:80",
        "HTTPS://log.example",
        "https:log.example",
        "https://",
        "https://:443",
        "https://log.example:",
        "https://log.example:+1",
        "https://log.example:65536",
        "https://log.example/",
        "https://log.example:443/path",
        "https://user@log.example?x/",
        "https://https://log.example",
        "https://::1",
        "https://dns:1",
        "https://a b",
        "https://a\x1b",
        "https://[::1",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint(text)
    assert str(caught.value).startswith(f"{text!r} is not HOST:PORT, nor https://HOST:PORT")


def failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, RefusedError),
        (grpc.StatusCode.OUT_OF_RANGE, UndecidedError),
        (grpc.StatusCode.INTERNAL, UnavailableError),
    ],
)
def test_only_a_connection_that_did_not_come_about_is_explained(code: grpc.StatusCode, kind: type[Exception]) -> None:
    for endpoint in (None, PLAIN, TLS):
        error = error_of(failed(code, "Socket closed"), peer="log", endpoint=endpoint)
        assert isinstance(error, kind)
        assert str(error).endswith("Socket closed)" if kind is UnavailableError else "Socket closed")
        lost = error_of(failed(grpc.StatusCode.UNAVAILABLE, "Socket closed"), peer="log", endpoint=endpoint)
        assert str(lost) == "log gave no answer (UNAVAILABLE: Socket closed)"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "Tls handshake failed: of a way not known",
            "no TLS connection: is it a TLS server, and is its certificate by",
        ),
        ("CERTIFICATE_VERIFY_FAILED: certificate is not yet valid: OK", "its certificate is not valid yet"),
        ("recvmsg:Connection reset by peer", "it ended the TLS handshake"),
    ],
)
def test_why_tls_did_not_come_about_is_said_whatever_the_words_of_grpc(reason: str, said: str) -> None:
    details = f"failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8461: {reason}"
    error = error_of(failed(grpc.StatusCode.UNAVAILABLE, details), peer="log https://127.0.0.1:8461", endpoint=TLS)
    assert isinstance(error, UnavailableError)
    assert str(error).startswith(f"cannot reach log https://127.0.0.1:8461: {said}")


def test_a_server_that_is_down_is_no_matter_of_tls() -> None:
    details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8461: Connection refused"
    for endpoint in (PLAIN, TLS):
        error = error_of(failed(grpc.StatusCode.UNAVAILABLE, details), peer="log", endpoint=endpoint)
        assert str(error) == f"log gave no answer (UNAVAILABLE: {details})"
