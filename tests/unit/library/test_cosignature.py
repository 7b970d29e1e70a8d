"""Cosignatures: what a witness signed, and when."""

import pytest

from tests.unit.library.specimens import LOG_KEY, NOW, WITNESS_KEYS, WITNESSES, signed_checkpoint
from treehead.cosignature import cosign, verify_cosignature
from treehead.errors import MalformedError, SignatureError, UnsupportedError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.note import Note, NoteSignature, format_note, parse_note

KEY = WITNESS_KEYS["w1"]
TEXT = signed_checkpoint(5, bytes(32)).text


def cosigned_with(signature: bytes) -> Note:
    line = NoteSignature(name=KEY.name, key_id=KEY.key_id, signature=signature)
    return Note(text=TEXT, signatures=(line,))


@pytest.mark.parametrize("timestamp", [0, 1, NOW, 2**63 - 1])
def test_a_cosignature_tells_its_time(timestamp: int) -> None:
    note = signed_checkpoint(5, bytes(32), cosigned={"w1": timestamp, "w2": NOW})
    assert verify_cosignature(parse_note(format_note(note)), key=KEY) == timestamp


def test_the_time_is_signed() -> None:
    blob = cosign(TEXT, key=WITNESSES["w1"], name=KEY.name, timestamp=NOW).signature
    assert verify_cosignature(cosigned_with(blob), key=KEY) == NOW
    later = (NOW + 1).to_bytes(8, "big") + blob[8:]
    with pytest.raises(SignatureError, match="does not verify"):
        verify_cosignature(cosigned_with(later), key=KEY)


def test_the_whole_text_is_signed() -> None:
    line = cosign(TEXT, key=WITNESSES["w1"], name=KEY.name, timestamp=NOW)
    with pytest.raises(SignatureError, match="does not verify"):
        verify_cosignature(Note(text=TEXT + "extension\n", signatures=(line,)), key=KEY)


def test_a_plain_signature_is_no_cosignature() -> None:
    with pytest.raises(MalformedError, match="not a timestamp and a signature"):
        verify_cosignature(cosigned_with(WITNESSES["w1"].sign(TEXT.encode())), key=KEY)
    dated = NOW.to_bytes(8, "big") + WITNESSES["w1"].sign(TEXT.encode())
    with pytest.raises(SignatureError, match="does not verify"):
        verify_cosignature(cosigned_with(dated), key=KEY)


@pytest.mark.parametrize("length", [1, 8, 71, 73])
def test_a_cosignature_of_another_length_is_malformed(length: int) -> None:
    with pytest.raises(MalformedError, match="not a timestamp and a signature"):
        verify_cosignature(cosigned_with(bytes(length)), key=KEY)


def test_a_time_beyond_63_bits_is_malformed() -> None:
    with pytest.raises(MalformedError, match="timestamp"):
        verify_cosignature(cosigned_with((2**63).to_bytes(8, "big") + bytes(64)), key=KEY)


def test_a_note_without_the_witness_is_not_cosigned() -> None:
    with pytest.raises(SignatureError, match=r"not cosigned by w1\.example"):
        verify_cosignature(signed_checkpoint(5, bytes(32), cosigned={"w2": NOW}), key=KEY)


@pytest.mark.parametrize(
    "key",
    [LOG_KEY, VerifierKey(name="w", key_type=NoteKeyType.COSIGNATURE_MLDSA44, public_key=bytes(1312))],
    ids=["plain", "mldsa44"],
)
def test_a_key_of_another_type_cannot_be_checked(key: VerifierKey) -> None:
    with pytest.raises(UnsupportedError, match=f"type 0x{key.key_type:02x}"):
        verify_cosignature(signed_checkpoint(5, bytes(32)), key=key)


def test_a_name_that_no_key_can_have_does_not_cosign() -> None:
    with pytest.raises(UsageError):
        cosign(TEXT, key=WITNESSES["w1"], name="two words", timestamp=NOW)
