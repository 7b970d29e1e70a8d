"""CreateEntryRequests as Sigstore's clients send them, signed by any scheme, for tests to send and to damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.unit.library.signers import certificate, key_of, public_of, sign
from treehead.dsse import pre_authentication_encoding
from treehead.encoding import format_base64
from treehead.entry.base import KEY_DETAILS
from treehead.entry.hashedrekord import format_leaf
from treehead.publickey import Scheme

Request = dict[str, Any]
Damage = Callable[[Request], None]

MESSAGE = b"the bytes that were signed"
PAYLOAD = b'{"_type": "https://in-toto.io/Statement/v1"}'
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PAE = pre_authentication_encoding(PAYLOAD_TYPE, PAYLOAD)


def verifier(scheme: Scheme, *, certified: bool = False) -> dict[str, Any]:
    """Who signed: a certificate, as clients with an identity send, or the bare key."""
    if certified:
        return {
            "x509Certificate": {"rawBytes": format_base64(certificate(key_of(scheme)))},
            "keyDetails": KEY_DETAILS[scheme],
        }
    return {"publicKey": {"rawBytes": format_base64(public_of(scheme).spki)}, "keyDetails": KEY_DETAILS[scheme]}


def hash_of(scheme: Scheme, message: bytes) -> bytes:
    """The digest that a scheme signs."""
    return hashlib.new(scheme.digest or "sha512", message).digest()


def hashedrekord_request(scheme: Scheme = Scheme.P256, *, certified: bool = False) -> Request:
    """A request for a signature over the digest of `MESSAGE`."""
    return {
        "hashedRekordRequestV002": {
            "digest": format_base64(hash_of(scheme, MESSAGE)),
            "signature": {
                "content": format_base64(sign(scheme, MESSAGE)),
                "verifier": verifier(scheme, certified=certified),
            },
        }
    }


def dsse_request(scheme: Scheme = Scheme.P256, *, certified: bool = False) -> Request:
    """A request for an envelope that holds `PAYLOAD`."""
    return {
        "dsseRequestV002": {
            "envelope": {
                "payload": format_base64(PAYLOAD),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": format_base64(sign(scheme, PAE)), "keyid": ""}],
            },
            "verifiers": [verifier(scheme, certified=certified)],
        }
    }


def leaf_of(scheme: Scheme, message: bytes, *, certified: bool = False) -> bytes:
    """The leaf that Rekor makes of either request, for `MESSAGE` or `PAE`."""
    return format_leaf(
        digest=hash_of(scheme, message),
        signature=sign(scheme, message),
        signer=public_of(scheme),
        certificate=certificate(key_of(scheme)) if certified else None,
    )


def body(request: Request) -> bytes:
    """What goes over the wire."""
    return json.dumps(request).encode()


def damaged(request: Request, *damages: Damage) -> bytes:
    """The same with something about it changed."""
    copy: Request = json.loads(json.dumps(request))
    for damage in damages:
        damage(copy)
    return body(copy)


def at(path: str, value: object) -> Damage:
    """Set or add the member at a dotted path, in which numbers are places in arrays."""

    def damage(request: Request) -> None:
        parent, last = _holder(request, path)
        parent[last] = value

    return damage


def without(path: str) -> Damage:
    """Take away the member at a dotted path."""

    def damage(request: Request) -> None:
        parent, last = _holder(request, path)
        del parent[last]

    return damage


def renamed(path: str, name: str) -> Damage:
    """Give the member at a dotted path another name."""

    def damage(request: Request) -> None:
        parent, last = _holder(request, path)
        parent[name] = parent.pop(last)

    return damage


def _holder(request: Request, path: str) -> tuple[Any, Any]:
    *parents, last = (int(name) if name.isdigit() else name for name in path.split("."))
    value: Any = request
    for name in parents:
        value = value[name]
    return value, last
