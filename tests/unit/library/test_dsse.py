"""Envelopes: what exactly a signature covers."""

import pytest

from treehead.dsse import Envelope, envelope_from_fields, envelope_to_json, pre_authentication_encoding
from treehead.encoding import Fields
from treehead.errors import MalformedError

ENVELOPE = Envelope(payload_type="type", payload=b"payload", signature=b"signature")


def test_an_envelope_is_read_back_as_it_was_printed() -> None:
    assert envelope_from_fields(Fields(envelope_to_json(ENVELOPE), path="envelope")) == ENVELOPE
    assert ENVELOPE.signed_bytes() == b"DSSEv1 4 type 7 payload"


def test_lengths_count_bytes_and_keep_the_parts_apart() -> None:
    assert pre_authentication_encoding("é", b"\n") == b"DSSEv1 2 \xc3\xa9 1 \n"
    assert pre_authentication_encoding("", b"") == b"DSSEv1 0  0 "
    assert pre_authentication_encoding("a 1 b", b"") != pre_authentication_encoding("a", b"b 0 ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payloadType": None}, "payloadType"),
        ({"payload": "AB=="}, "payload"),
        ({"signatures": []}, "signatures"),
        ({"signatures": [{"sig": "AA=="}] * 2}, "signatures"),
        ({"signatures": [{"sig": "AA==", "keyid": ""}]}, r"signatures\[0\].keyid"),
        ({"signatures": [[]]}, r"signatures\[0\]"),
        ({"extra": 1}, "extra"),
    ],
    ids=["type", "payload", "none", "two", "key_hint", "array", "extra"],
)
def test_any_other_envelope_is_refused(change: dict[str, object], field: str) -> None:
    value = {**envelope_to_json(ENVELOPE), **change}  # type: ignore[dict-item]
    with pytest.raises(MalformedError, match=f"envelope.{field}"):
        envelope_from_fields(Fields(value, path="envelope"))  # type: ignore[arg-type]
