"""Signed notes: where they split, what a line is, and which lines count."""

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG, OTHER_LOG_KEY, WITNESS_KEYS, private_key
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from treehead.keys import NoteKeyType
from treehead.note import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Note,
    NoteSignature,
    format_note,
    format_signature_line,
    parse_note,
    sign_text,
    verify_note,
)

LINE = format_signature_line(sign_text("text\n", key=LOG, name=ORIGIN))
FOREIGN = NoteSignature(name="grease.invalid", key_id=b"\x01\x02\x03\x04", signature=b"any bytes")


def signed(text: str, *others: NoteSignature) -> Note:
    return Note(text=text, signatures=(sign_text(text, key=LOG, name=ORIGIN), *others))


@pytest.mark.parametrize("text", ["text\n", "a\n\nb\n", "\n\n", "a\n\n\n", "tab\u2028x\n", "\x7f\n", "\ufeffbom\n"])
def test_a_note_splits_at_its_last_blank_line(text: str) -> None:
    note = signed(text)
    assert parse_note(format_note(note)) == note
    verify_note(parse_note(format_note(note)), key=LOG_KEY)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("", id="empty"),
        pytest.param("text\n", id="no_blank_line"),
        pytest.param(f"\n{LINE}", id="no_text"),
        pytest.param(f"\n\n{LINE}", id="empty_text"),
        pytest.param("text\n\n", id="no_signature_line"),
        pytest.param(f"text\n\n{LINE}"[:-1], id="no_final_newline"),
        pytest.param(f"text\n\n{LINE}\n", id="blank_line_at_the_end"),
        pytest.param(f"text\n{LINE}", id="signature_without_blank_line"),
        pytest.param(f"text\n\n{LINE}trailing\n", id="other_line_after_signatures"),
        pytest.param(f"text\r\n\r\n{LINE}", id="crlf"),
        pytest.param(f"te\tt\n\n{LINE}", id="tab"),
        pytest.param(f"te\0t\n\n{LINE}", id="nul"),
        pytest.param(f"text\n\n{LINE}".replace("—", "-"), id="hyphen_for_dash"),
        pytest.param(f"text\n\n{LINE}".replace("— ", "—  "), id="two_spaces_after_the_dash"),
        pytest.param(f"text\n\n{LINE}".replace(ORIGIN + " ", ORIGIN + "  "), id="two_spaces_before_the_signature"),
        pytest.param(f"text\n\n {LINE}", id="leading_space"),
        pytest.param(f"text\n\n{LINE}".replace("\n— ", "\n—\u00a0"), id="no_break_space"),
        pytest.param("text\n\n—  AAAAAAA=\n", id="empty_name"),
        pytest.param("text\n\n— a+b AAAAAAA=\n", id="plus_in_the_name"),
        pytest.param("text\n\n— a\u2003b AAAAAAA=\n", id="wide_space_in_the_name"),
        pytest.param("text\n\n— name\n", id="no_signature"),
        pytest.param("text\n\n— name AAAAAA==\n", id="key_id_without_signature"),
        pytest.param("text\n\n— name AAAAAAB=\n", id="stray_bits"),
        pytest.param("text\n\n— name AAAAAAA\n", id="no_padding"),
        pytest.param("text\n\n— name AAAA AAA=\n", id="space_in_the_signature"),
        pytest.param("text\n\n— name AAAAAAA= \n", id="trailing_space"),
        pytest.param(f"text\n\n{LINE}{LINE}", id="the_same_line_twice"),
        pytest.param("text\n\n— n AAAAAAA=\n— n AAAAAAE=\n", id="two_lines_of_one_key"),
    ],
)
def test_a_malformed_note_is_refused(data: str) -> None:
    with pytest.raises(MalformedError):
        parse_note(data.encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(MalformedError, match="UTF-8"):
        parse_note(b"te\xfft\n\n" + LINE.encode())
    with pytest.raises(TooLargeError):
        parse_note(b"x" * (NOTE_BYTES_MAX + 1))


def test_a_note_has_at_most_100_signature_lines() -> None:
    def with_lines(count: int) -> bytes:
        lines = (NoteSignature(name=f"n{number}", key_id=bytes(4), signature=b"s") for number in range(count))
        return format_note(Note(text="text\n", signatures=tuple(lines)))

    assert len(parse_note(with_lines(SIGNATURES_MAX)).signatures) == SIGNATURES_MAX
    with pytest.raises(TooLargeError, match="100 signature lines"):
        parse_note(with_lines(SIGNATURES_MAX + 1))


def test_lines_by_unknown_keys_are_ignored() -> None:
    verify_note(signed("text\n", FOREIGN), key=LOG_KEY)


def test_one_name_may_have_lines_of_several_keys() -> None:
    note = signed("text\n", sign_text("text\n", key=OTHER_LOG, name=ORIGIN))
    for key in (LOG_KEY, OTHER_LOG_KEY):
        verify_note(parse_note(format_note(note)), key=key)


def test_a_line_by_a_known_key_that_does_not_verify_condemns_the_note() -> None:
    note = signed("text\n")
    with pytest.raises(SignatureError, match="does not verify"):
        verify_note(Note(text="other text\n", signatures=note.signatures), key=LOG_KEY)


def test_a_note_must_be_signed_by_the_key() -> None:
    with pytest.raises(SignatureError, match="not signed by"):
        verify_note(signed("text\n"), key=OTHER_LOG_KEY)
    with pytest.raises(SignatureError, match="not signed by"):
        verify_note(Note(text="text\n", signatures=(FOREIGN,)), key=LOG_KEY)


def test_a_key_id_under_another_name_is_another_key() -> None:
    line = signed("text\n").signatures[0]
    renamed = NoteSignature(name="other", key_id=line.key_id, signature=line.signature)
    with pytest.raises(SignatureError, match="not signed by"):
        verify_note(Note(text="text\n", signatures=(renamed,)), key=LOG_KEY)


@pytest.mark.parametrize("length", [1, 63, 65, 72])
def test_a_signature_of_another_length_does_not_verify(length: int) -> None:
    line = NoteSignature(name=ORIGIN, key_id=LOG_KEY.key_id, signature=bytes(length))
    with pytest.raises(SignatureError, match="does not verify"):
        verify_note(Note(text="text\n", signatures=(line,)), key=LOG_KEY)


def test_a_cosignature_key_cannot_sign_a_note() -> None:
    with pytest.raises(UnsupportedError, match="type 0x04"):
        verify_note(signed("text\n"), key=WITNESS_KEYS["w1"])


def test_a_plain_signature_and_a_cosignature_of_one_key_are_two_lines() -> None:
    key = private_key("one key")
    plain, dated = (
        key.verifier_key(name="n", key_type=kind) for kind in (NoteKeyType.ED25519, NoteKeyType.COSIGNATURE_ED25519)
    )
    note = Note(text="text\n", signatures=(sign_text("text\n", key=key, name="n"),))
    assert note.by(plain) is not None
    assert note.by(dated) is None
