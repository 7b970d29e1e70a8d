"""Whom a caller is counted as: by the bounds on connections, and by the rates of a log. Both must mean the same.

Who has one IPv6 address has a network of them, and can call from each: so what counts is the network of 64 bits, the
smallest that is given to anyone.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_ELSEWHERE = "callers without an address"
_IPV6_NETWORK_BYTES = 8


@lru_cache(maxsize=4_096)
def address_of(peer: str) -> str:
    """Whom to count a peer as: an IPv4 address, or an IPv6 network of 64 bits.

    `peer` is what gRPC says (`ipv4:192.0.2.7:5000`, `ipv6:%5B2001:db8::1%5D:5000`), or a host as an HTTP server has it
    (`192.0.2.7`, `2001:db8::1`). An IPv4 address within IPv6 is the IPv4 address. All others, such as those who come by
    a Unix socket, count as one.
    """
    family, _, rest = peer.partition(":")
    if family in ("ipv4", "ipv6"):
        # These three are all that gRPC escapes in an address.
        peer = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").replace("%25", "%")
    try:
        address = ipaddress.ip_address(peer.removeprefix("[").removesuffix("]"))
    except ValueError:
        return _ELSEWHERE
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((address.packed[:_IPV6_NETWORK_BYTES] + bytes(8), 64)))
        address = address.ipv4_mapped
    return str(address)
