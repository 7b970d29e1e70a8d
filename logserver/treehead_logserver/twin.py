"""The other form of an ECDSA signature: where (r, s) verifies, (r, N - s) does, and anyone can make one of the other.

So an entry that is signed by ECDSA has a twin, which says the same and has another leaf hash. A log takes both, since
signers make either form, and a leaf is taken as it is or not at all. But whoever signed must not be charged for a twin
that somebody else made (`quota`). Signatures by Ed25519 and RSA have one form only.
"""

from __future__ import annotations

from treehead.encoding import format_base64
from treehead.entry import Entry
from treehead.merkle import hash_leaf
from treehead.publickey import Scheme

_ORDERS = {
    Scheme.P256: 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
    Scheme.P384: (
        0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_C7634D81_F4372DDF_581A0DB2_48B0A77A_ECEC196A_CCC52973
    ),
    Scheme.P521: (
        0x01FF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFA_51868783_BF2F966B_7FCC0148_F709A5D0_3BB5C9B8_899C47AE_BB6FB71E_91386409
    ),
}
"""The orders of the groups (NIST SP 800-186, section 3.2.1)."""


def twin_hash(leaf: bytes, entry: Entry) -> bytes | None:
    """The leaf hash of an entry's twin; None if it has none. `entry` is what `leaf` says, and its signature verifies.

    The twin's twin is the entry.
    """
    order = _ORDERS.get(entry.signer.scheme)
    if order is None:
        return None
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    r, s = decode_dss_signature(entry.signature)
    other = encode_dss_signature(r, order - s)
    # As a whole member it is there once: no key, certificate or statement is a signature.
    return hash_leaf(leaf.replace(_member(entry.signature), _member(other)))


def _member(value: bytes) -> bytes:
    return f'"{format_base64(value)}"'.encode()
