"""Dead Simple Signing Envelopes (DSSE v1.0.2) with exactly one signature.

The signature is over the pre-authentication encoding, never over the payload alone:

    PAE = "DSSEv1" SP len(type) SP type SP len(payload) SP payload

A key hint (`keyid`) is not a security input, and the envelope inside a log entry has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from treehead.encoding import Fields, JsonValue, format_base64
from treehead.errors import MalformedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An envelope; whether `signature` verifies is the caller's question."""

    payload_type: str
    payload: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return pre_authentication_encoding(self.payload_type, self.payload)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers."""
    type_bytes = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(type_bytes), type_bytes, len(payload), payload)


def envelope_from_fields(fields: Fields) -> Envelope:
    """Read an envelope from its JSON object.

    Raises:
        MalformedError: a field is missing, unknown or of the wrong form, or there is not exactly one signature.
    """
    payload_type = fields.text("payloadType")
    payload = fields.base64("payload")
    signatures = fields.array("signatures")
    if len(signatures) != 1:
        raise MalformedError(f"field {fields.path('signatures')} has {len(signatures)} signatures, not one")
    signature = Fields(signatures[0], path=f"{fields.path('signatures')}[0]")
    envelope = Envelope(payload_type=payload_type, payload=payload, signature=signature.base64("sig"))
    signature.finish()
    fields.finish()
    return envelope


def envelope_to_json(envelope: Envelope) -> JsonValue:
    """The JSON object of an envelope, the inverse of `envelope_from_fields`."""
    return {
        "payload": format_base64(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"sig": format_base64(envelope.signature)}],
    }
