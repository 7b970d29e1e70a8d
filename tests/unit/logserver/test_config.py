"""What the operator decides: an address that is safe by default, and where the passphrase comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from treehead.errors import UsageError
from treehead.server import HEALTH_WATCHERS_MAX, REFLECTIONS_MAX
from treehead.tile import ENTRY_BYTES_MAX
from treehead.tls import ServerTls
from treehead.wire import MESSAGE_BYTES_MAX
from treehead_logserver.config import Limits, ServeConfig

LOOPBACK = "127.0.0.1:0"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:8461", "[::1]:8461", "127.8.8.8:1"])
def test_a_loopback_address_needs_no_leave(address: str) -> None:
    assert ServeConfig(data=Path("log"), grpc=address, http=LOOPBACK).grpc == address


@pytest.mark.parametrize("address", ["0.0.0.0:8461", "[::]:8461", "192.0.2.1:8461", "log.example:8461"])
def test_an_address_that_others_reach_needs_insecure(address: str) -> None:
    with pytest.raises(UsageError, match="--insecure"):
        ServeConfig(data=Path("log"), grpc=address, http=LOOPBACK)
    assert ServeConfig(data=Path("log"), grpc=address, http=LOOPBACK, insecure=True).grpc == address


def test_each_listener_is_looked_at() -> None:
    with pytest.raises(UsageError, match=r"--http 192\.0\.2\.1:8460"):
        ServeConfig(data=Path("log"), grpc=LOOPBACK, http="192.0.2.1:8460")


def test_with_tls_others_may_reach_the_log() -> None:
    tls = ServerTls(certificate=Path("chain.pem"), key=Path("key.pem"))
    config = ServeConfig(data=Path("log"), grpc="0.0.0.0:8461", http="0.0.0.0:8460", tls=tls)
    assert config.http_scheme == "https"


def test_a_configuration_that_is_printed_keeps_the_passphrase_to_itself() -> None:
    assert "secret" not in repr(ServeConfig(data=Path("log"), grpc=LOOPBACK, http=LOOPBACK, passphrase=b"secret"))


@pytest.mark.parametrize("address", ["", "8461", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:+1", "::1:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        ServeConfig(data=Path("log"), grpc=address, http=LOOPBACK, insecure=True)


def test_the_largest_page_and_chunk_fit_a_message() -> None:
    limits = Limits()
    assert limits.page_bytes_max + limits.find_entries_max * (64 * 34 + 32) + 65_536 < MESSAGE_BYTES_MAX
    assert limits.chunk_bytes_max + limits.chunk_entries_max * 8 + ENTRY_BYTES_MAX < MESSAGE_BYTES_MAX
    assert limits.batch_entries_max <= limits.commit_entries_max
    assert limits.message_bytes_max <= limits.commit_bytes_max <= limits.queue_bytes_max


def test_the_longest_batch_of_ordinary_entries_fits_a_message() -> None:
    limits = Limits()
    assert limits.batch_entries_max * 2_000 < limits.message_bytes_max <= MESSAGE_BYTES_MAX


def test_calls_that_can_be_held_open_leave_half_of_the_places_to_others() -> None:
    limits = Limits()
    held = limits.watchers_max + limits.readers_max + limits.finders_max + HEALTH_WATCHERS_MAX + REFLECTIONS_MAX
    assert held <= limits.calls_max // 2
    assert limits.calls_max - held >= 512
