"""What Sigstore's clients send to be logged, turned into the leaf that Rekor v2 makes of it.

A CreateEntryRequest (dev.sigstore.rekor.v2) is one of two:

    {"hashedRekordRequestV002": {"digest": …, "signature": {"content": …, "verifier": VERIFIER}}}
    {"dsseRequestV002": {"envelope": {"payload": …, "payloadType": …, "signatures": [{"sig": …, "keyid": …}]},
                         "verifiers": [VERIFIER]}}
    VERIFIER = {"keyDetails": …, "publicKey" | "x509Certificate": {"rawBytes": …}}

Both become a hashedrekord. For an envelope it is the one over the hash of what the envelope's signature covers, its
pre-authentication encoding, as clients that no longer send envelopes make it themselves (Rekor v2 specification,
section 6.1.4). It has room for one signature by one key, so an envelope with more is refused: to choose among them
would log less than was sent.

The JSON is that of protobuf, in which clients differ: a member may be named in camel case or as in the .proto file, and
may be null, which is as good as absent; bytes are in any of four spellings of base64; an enum is its name or its
number. Everything else is strict. What comes out has one spelling, and is read like any other leaf before it is logged:
the signature is not checked here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from treehead.dsse import pre_authentication_encoding
from treehead.encoding import (
    JSON_MARKS_MAX,
    Fields,
    JsonValue,
    format_base64,
    parse_json_object,
    parse_protobuf_base64,
)
from treehead.entry.base import verifier_from_fields
from treehead.entry.hashedrekord import SCHEMES, check_digest, digest_algorithm, format_leaf
from treehead.errors import MalformedError, TooLargeError
from treehead.publickey import PublicKey
from treehead.tile import ENTRY_BYTES_MAX

BODY_BYTES_MAX = 4_194_304
"""Rekor's own limit. A leaf is far smaller, but of an envelope only the hash is logged: what a client can have logged
there, it can here. Members are bounded as those of a leaf are, so most of a large request is one long string."""

_HASHEDREKORD = "hashedRekordRequestV002"
_DSSE = "dsseRequestV002"
_BARE_KEY = "publicKey"
_CERTIFICATE = "x509Certificate"
_CAPITAL = re.compile(r"[A-Z]")
_KEY_DETAILS = {
    5: "PKIX_ECDSA_P256_SHA_256",
    7: "PKIX_ED25519",
    9: "PKIX_RSA_PKCS1V15_2048_SHA256",
    10: "PKIX_RSA_PKCS1V15_3072_SHA256",
    11: "PKIX_RSA_PKCS1V15_4096_SHA256",
    12: "PKIX_ECDSA_P384_SHA_384",
    13: "PKIX_ECDSA_P521_SHA_512",
}
"""The numbers of those of Sigstore's PublicKeyDetails (sigstore_common.proto) that have a scheme here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEntry:
    """What a request asks for.

    Attributes:
        leaf: of the hashedrekord; `treehead.entry.parse_entry` reads it.
        signature_field: where in the request its signature was.
    """

    leaf: bytes
    signature_field: str


def parse_create_entry(body: bytes) -> CreateEntry:
    """Read a CreateEntryRequest.

    Not checked: the signature, and of a certificate anything but that it is one, and for which key.

    Raises:
        TooLargeError: the request is larger than `BODY_BYTES_MAX`, or its entry than 65,535 bytes.
        MalformedError: it is no such request; the message names the field.
        UnsupportedError: the key is of a scheme that signs no hashedrekord; the message names the field.
    """
    document = parse_json_object(body, what="request", bytes_max=BODY_BYTES_MAX, marks_max=JSON_MARKS_MAX)
    request = _message(document, path="", members=(_HASHEDREKORD, _DSSE))
    kind, value = _one_of(request, _HASHEDREKORD, _DSSE)
    request.finish()
    return _hashedrekord(value) if kind == _HASHEDREKORD else _dsse(value)


def _hashedrekord(value: JsonValue) -> CreateEntry:
    request = _message(value, path=_HASHEDREKORD, members=("digest", "signature"))
    digest = _bytes(request, "digest")
    signature = _message(request.value("signature"), path=request.path("signature"), members=("content", "verifier"))
    request.finish()
    content = _bytes(signature, "content")
    verifier = _Verifier.read(signature.value("verifier"), path=signature.path("verifier"))
    signature.finish()
    check_digest(digest, signer=verifier.signer, where=request.path("digest"))
    return _asked(digest, content, verifier, signature_field=signature.path("content"))


def _dsse(value: JsonValue) -> CreateEntry:
    request = _message(value, path=_DSSE, members=("envelope", "verifiers"))
    envelope = _message(
        request.value("envelope"), path=request.path("envelope"), members=("payload", "payloadType", "signatures")
    )
    verifier_value, verifier_path = _only(request, "verifiers")
    request.finish()
    payload = parse_protobuf_base64(envelope.text("payload"), what=f"field {envelope.path('payload')}")
    payload_type = envelope.text("payloadType")
    signature_value, signature_path = _only(envelope, "signatures")
    envelope.finish()
    signature = _message(signature_value, path=signature_path, members=("sig", "keyid"))
    content = _bytes(signature, "sig")
    if signature.has("keyid"):
        signature.text("keyid")  # a hint, which is not signed; there is no place for it in a hashedrekord
    signature.finish()
    verifier = _Verifier.read(verifier_value, path=verifier_path)
    signed = pre_authentication_encoding(payload_type, payload)
    digest = hashlib.new(digest_algorithm(verifier.signer), signed).digest()
    return _asked(digest, content, verifier, signature_field=signature.path("sig"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verifier:
    """Who signed: the key, the certificate for it if that was sent instead, and the field that either was in."""

    signer: PublicKey
    certificate: bytes | None
    field: str

    @classmethod
    def read(cls, value: JsonValue, *, path: str) -> _Verifier:
        verifier = _message(value, path=path, members=("keyDetails", _BARE_KEY, _CERTIFICATE))
        details = _enum(verifier, "keyDetails", _KEY_DETAILS)
        name, holder_value = _one_of(verifier, _BARE_KEY, _CERTIFICATE)
        verifier.finish()
        holder = _message(holder_value, path=verifier.path(name), members=("rawBytes",))
        raw = _bytes(holder, "rawBytes")
        holder.finish()
        # As it will be in the leaf, but under the names of the request.
        logged: JsonValue = {"keyDetails": details, name: {"rawBytes": format_base64(raw)}}
        read = verifier_from_fields(Fields(logged, path=path), schemes=SCHEMES)
        return cls(signer=read.key, certificate=read.certificate, field=holder.path("rawBytes"))


def _asked(digest: bytes, content: bytes, verifier: _Verifier, *, signature_field: str) -> CreateEntry:
    leaf = format_leaf(digest=digest, signature=content, signer=verifier.signer, certificate=verifier.certificate)
    if len(leaf) > ENTRY_BYTES_MAX:
        verifier_bytes = len(verifier.certificate or verifier.signer.spki)
        field = signature_field if len(content) > verifier_bytes else verifier.field
        raise _too_large(field)
    return CreateEntry(leaf=leaf, signature_field=signature_field)


def _too_large(field: str) -> TooLargeError:
    return TooLargeError(f"field {field}: with it, the entry is larger than {ENTRY_BYTES_MAX} bytes")


# --- the JSON of protobuf --------------------------------------------------------------------------------------------


def _message(value: JsonValue, *, path: str, members: tuple[str, ...]) -> Fields:
    """The members of a message, under their names in camel case; those that are null are left out.

    What is not one of `members` is kept as it is, for `Fields.finish` to refuse.
    """
    if not isinstance(value, dict):
        raise MalformedError(f"field {path} is not a JSON object")
    names = {spelling: name for name in members for spelling in (name, _snake_case(name))}
    sent: Mapping[str, JsonValue] = value
    present: dict[str, JsonValue] = {}
    for spelling, content in sent.items():
        name = names.get(spelling, spelling)
        if name in present:
            raise MalformedError(f"field {Fields({}, path=path).path(name)} is there in two spellings")
        present[name] = content
    return Fields(
        {name: content for name, content in present.items() if content is not None or name not in members}, path=path
    )


def _snake_case(name: str) -> str:
    return _CAPITAL.sub(lambda capital: f"_{capital.group().lower()}", name)


def _one_of(fields: Fields, first: str, second: str) -> tuple[str, JsonValue]:
    """Take the one of two members that is there; its name with it."""
    if fields.has(first) and fields.has(second):
        raise MalformedError(f"fields {fields.path(first)} and {fields.path(second)} exclude each other")
    name = second if fields.has(second) else first
    if not fields.has(name):
        fields.finish()  # what is there instead says more than what is not
        raise MalformedError(f"field {fields.path(first)} is missing, and {fields.path(second)} is, too")
    return name, fields.value(name)


def _only(fields: Fields, name: str) -> tuple[JsonValue, str]:
    """Take the one element of an array; its path with it."""
    elements = fields.array(name)
    if len(elements) != 1:
        raise MalformedError(
            f"field {fields.path(name)} has {len(elements)} elements; an entry is of one signature by one key"
        )
    return elements[0], f"{fields.path(name)}[0]"


def _enum(fields: Fields, name: str, names: Mapping[int, str]) -> str:
    """Take a value of an enum by its name; a number that has none here stays one, in digits."""
    value = fields.value(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return names.get(value, f"{value}")
    if not isinstance(value, str):
        raise MalformedError(f"field {fields.path(name)} is neither a string nor an integer")
    return value


def _bytes(fields: Fields, name: str) -> bytes:
    """Take bytes that will be in the entry, of which there is at least one."""
    value = parse_protobuf_base64(fields.text(name), what=f"field {fields.path(name)}")
    if not value:
        raise MalformedError(f"field {fields.path(name)} is empty")
    if len(value) > ENTRY_BYTES_MAX:
        raise _too_large(fields.path(name))
    return value
