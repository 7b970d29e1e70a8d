"""Whom a caller is counted as: the same by every face, and not anew for each of the addresses that one caller has."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest

from treehead.peer import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:5000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:5000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::]:5000", "2001:db8:1:2::/64"),
        ("ipv6:%5B::1%5D:5000", "::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:5000", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_the_same_by_grpc_and_http_and_from_any_port(peer: str, address: str) -> None:
    assert address_of(peer) == address


@pytest.mark.parametrize("peer", ["", "unix:", "unix:/run/log.sock", "unix-abstract:log", "unknown", "ipv4:nonsense:1"])
def test_callers_without_an_address_count_as_one(peer: str) -> None:
    assert address_of(peer) == "callers without an address"


async def test_grpc_says_who_calls_as_is_read_here(tmp_path: Path) -> None:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return address_of(context.peer()).encode()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Who", {"Calls": handler})])
    hosts = {"127.0.0.1": "127.0.0.1"} | ({"[::1]": "::/64"} if _has_ipv6_loopback() else {})
    addresses = {f"{host}:{server.add_insecure_port(f'{host}:0')}": expected for host, expected in hosts.items()}
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    addresses[f"unix:{tmp_path}/socket"] = "callers without an address"
    await server.start()
    for address, expected in addresses.items():
        async with grpc.aio.insecure_channel(address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Who/Calls")
            assert (await call(b"", timeout=30)).decode() == expected
    await server.stop(None)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
