"""What a log and a witness say to each other: one spelling each, and only cosignatures that verify count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.library.specimens import (
    LOG_KEY,
    NOW,
    OTHER_LOG_KEY,
    WITNESS_KEYS,
    WITNESSES,
    Tree,
    head_of,
    private_key,
    signed_checkpoint,
)
from treehead.cosignature import cosign
from treehead.encoding import INT63_MAX, format_base64
from treehead.errors import MalformedError, SignatureError, TooLargeError, TreeheadError, UnsupportedError
from treehead.keys import NoteKeyType, VerifierKey, is_key_name
from treehead.merkle import PROOF_HASHES_MAX
from treehead.note import SIGNATURES_MAX, Note, NoteSignature, format_note, format_signature_line, parse_note
from treehead.witness import (
    ADD_CHECKPOINT_BYTES_MAX,
    COSIGNATURES_BYTES_MAX,
    AddCheckpoint,
    format_add_checkpoint,
    format_cosignatures,
    format_size_body,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size_body,
    strip_cosignatures,
    verify_cosignatures,
)

TREE = Tree(b"leaf %d" % index for index in range(11))
NOTE = head_of(TREE, cosigned={"w1": NOW, "w2": NOW + 1})
CHECKPOINT = format_note(NOTE)
PROOF = TREE.consistency(6)
BODY = format_add_checkpoint(AddCheckpoint(old_size=6, proof=PROOF, checkpoint=CHECKPOINT))
HASH = format_base64(bytes(32))
W1, W2 = (line for line in NOTE.signatures if line.name != LOG_KEY.name)
W1_KEY = WITNESS_KEYS["w1"]

SPECIFIED_BODY = """\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurm\
RDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZ\
dXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()
"""The example of C2SP tlog-witness."""
SPECIFIED_COSIGNATURES = """\
— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR\
1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==
— witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7\
VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==
— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+\
dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==
""".encode()
"""Its example of an answer."""


# --- the submission --------------------------------------------------------------------------------------------------


def test_the_example_of_the_specification_is_read_and_printed() -> None:
    submission = parse_add_checkpoint(SPECIFIED_BODY)
    assert submission.old_size == 20_852_014
    assert [len(hash_) for hash_ in submission.proof] == [32] * 4
    assert submission.checkpoint.startswith(b"example.com/behind-the-sofa\n20852163\n")
    assert format_add_checkpoint(submission) == SPECIFIED_BODY


def test_a_submission_without_proof_has_its_empty_line_right_after_the_size() -> None:
    submission = AddCheckpoint(old_size=0, proof=(), checkpoint=CHECKPOINT)
    assert format_add_checkpoint(submission) == b"old 0\n\n" + CHECKPOINT
    assert parse_add_checkpoint(b"old 0\n\n" + CHECKPOINT) == submission


NOTES = st.binary(max_size=60).map(lambda octets: octets + b"\n")


@given(
    st.builds(
        AddCheckpoint,
        old_size=st.one_of(st.integers(0, INT63_MAX), st.integers(0, 300)),
        proof=st.lists(st.binary(min_size=32, max_size=32), max_size=PROOF_HASHES_MAX).map(tuple),
        checkpoint=NOTES,
    )
)
def test_a_submission_is_read_back_as_it_was_printed(submission: AddCheckpoint) -> None:
    assert parse_add_checkpoint(format_add_checkpoint(submission)) == submission


@given(st.data())
def test_a_damaged_submission_is_refused_or_another_one_with_this_very_spelling(data: st.DataObject) -> None:
    damaged = bytearray(BODY[: BODY.index(b"\n\n") + 4])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([b"", b"\n", b" ", b"0", b"=", b"A"]))
    try:
        submission = parse_add_checkpoint(bytes(damaged) + b"rest\n")
    except TreeheadError:
        return
    assert format_add_checkpoint(submission) == bytes(damaged) + b"rest\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(CHECKPOINT, id="only_a_checkpoint"),
        pytest.param(b"old 6\n", id="no_empty_line"),
        pytest.param(b"old 6\n\n", id="no_checkpoint"),
        pytest.param(BODY[:-1], id="no_final_newline"),
        pytest.param(b"\n" + BODY, id="empty_line_at_the_start"),
        pytest.param(b"old\n\n" + CHECKPOINT, id="no_old_size"),
        pytest.param(b"old \n\n" + CHECKPOINT, id="empty_old_size"),
        pytest.param(b"old  6\n\n" + CHECKPOINT, id="two_spaces"),
        pytest.param(b"old\t6\n\n" + CHECKPOINT, id="tab"),
        pytest.param(b"Old 6\n\n" + CHECKPOINT, id="capital"),
        pytest.param(b"old 06\n\n" + CHECKPOINT, id="leading_zero"),
        pytest.param(b"old 00\n\n" + CHECKPOINT, id="zero_with_a_leading_zero"),
        pytest.param(b"old +6\n\n" + CHECKPOINT, id="plus_sign"),
        pytest.param(b"old -6\n\n" + CHECKPOINT, id="minus_sign"),
        pytest.param(b"old 6 \n\n" + CHECKPOINT, id="space_after_the_size"),
        pytest.param(b"old 0x6\n\n" + CHECKPOINT, id="hexadecimal"),
        pytest.param(b"old 1_0\n\n" + CHECKPOINT, id="underscore"),
        pytest.param("old \u0666\n\n".encode() + CHECKPOINT, id="arabic_digit"),
        pytest.param(b"old 9223372036854775808\n\n" + CHECKPOINT, id="old_size_of_64_bits"),
        pytest.param(b"old 6\r\n\r\n" + CHECKPOINT, id="crlf"),
        pytest.param(BODY.replace(b"\n", b"\r\n"), id="crlf_everywhere"),
        pytest.param(b"old 6\nold 6\n\n" + CHECKPOINT, id="two_old_sizes"),
        pytest.param(f"{HASH}\nold 6\n\n".encode() + CHECKPOINT, id="hash_before_the_size"),
        pytest.param(f"old 6\n{HASH[:-1]}\n\n".encode() + CHECKPOINT, id="no_padding"),
        pytest.param(f"old 6\n {HASH}\n\n".encode() + CHECKPOINT, id="space_before_a_hash"),
        pytest.param(f"old 6\n{HASH} \n\n".encode() + CHECKPOINT, id="space_after_a_hash"),
        pytest.param(f"old 6\n{HASH}{HASH}\n\n".encode() + CHECKPOINT, id="two_hashes_on_a_line"),
        pytest.param(f"old 6\n{HASH[:-2]}B=\n\n".encode() + CHECKPOINT, id="stray_bits"),
        pytest.param(f"old 6\n{HASH.replace('A', '-')}\n\n".encode() + CHECKPOINT, id="url_safe_alphabet"),
        pytest.param(f"old 6\n{format_base64(bytes(31))}\n\n".encode() + CHECKPOINT, id="hash_of_31_bytes"),
        pytest.param(f"old 6\n{format_base64(bytes(33))}\n\n".encode() + CHECKPOINT, id="hash_of_33_bytes"),
        pytest.param(b"old 6\n\xff\n\n" + CHECKPOINT, id="no_utf8"),
    ],
)
def test_a_malformed_submission_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_add_checkpoint(body)


def test_a_submission_has_at_most_63_hashes() -> None:
    most = AddCheckpoint(old_size=6, proof=(bytes(32),) * 63, checkpoint=CHECKPOINT)
    assert parse_add_checkpoint(format_add_checkpoint(most)) == most
    with pytest.raises(TooLargeError, match="63 hashes"):
        parse_add_checkpoint(b"old 6\n" + f"{HASH}\n".encode() * 64 + b"\n" + CHECKPOINT)
    with pytest.raises(ValueError, match="63 hashes"):
        format_add_checkpoint(replace(most, proof=(bytes(32),) * 64))


def test_a_submission_is_read_up_to_its_limit() -> None:
    filler = ADD_CHECKPOINT_BYTES_MAX - len(b"old 6\n\n\n")
    assert len(parse_add_checkpoint(b"old 6\n\n" + b"x" * filler + b"\n").checkpoint) == filler + 1
    with pytest.raises(TooLargeError, match=str(ADD_CHECKPOINT_BYTES_MAX)):
        parse_add_checkpoint(b"old 6\n\n" + b"x" * filler + b"x\n")


# --- the note that is submitted --------------------------------------------------------------------------------------


def test_a_note_is_stripped_to_the_lines_of_the_log() -> None:
    stripped = strip_cosignatures(NOTE, keys=(LOG_KEY,))
    assert stripped == replace(NOTE, signatures=NOTE.signatures[:1])
    assert strip_cosignatures(stripped, keys=(OTHER_LOG_KEY, LOG_KEY)) == stripped


def test_a_log_with_two_keys_keeps_both_lines() -> None:
    second = VerifierKey(name=LOG_KEY.name, key_type=NoteKeyType.COSIGNATURE_ED25519, public_key=LOG_KEY.public_key)
    line = NoteSignature(name=second.name, key_id=second.key_id, signature=b"signature")
    note = replace(NOTE, signatures=(*NOTE.signatures, line))
    assert strip_cosignatures(note, keys=(second, LOG_KEY)).signatures == (NOTE.signatures[0], line)


def test_a_note_that_the_log_has_not_signed_is_not_stripped_to_nothing() -> None:
    with pytest.raises(SignatureError, match="not signed by the log"):
        strip_cosignatures(NOTE, keys=(OTHER_LOG_KEY,))
    with pytest.raises(SignatureError, match="not signed by the log"):
        strip_cosignatures(NOTE, keys=(replace(LOG_KEY, name="other.example"),))


# --- cosignatures ----------------------------------------------------------------------------------------------------


def test_the_cosignatures_of_the_specification_are_read_and_printed() -> None:
    lines = parse_cosignatures(SPECIFIED_COSIGNATURES)
    assert [line.name for line in lines] == ["witness.example/w1", "witness.example/w1", "witness.example/w2"]
    assert [len(line.signature) for line in lines] == [72, 72, 72]
    assert format_cosignatures(lines) == SPECIFIED_COSIGNATURES


@given(
    st.lists(
        st.builds(
            NoteSignature,
            name=st.text(min_size=1, max_size=30).filter(is_key_name),
            key_id=st.binary(min_size=4, max_size=4),
            signature=st.binary(min_size=1, max_size=80),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda line: (line.name, line.key_id),
    ).map(tuple)
)
def test_cosignatures_are_read_back_as_they_were_printed(lines: tuple[NoteSignature, ...]) -> None:
    assert parse_cosignatures(format_cosignatures(lines)) == lines


LINE = format_signature_line(W1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("\n", id="empty_line"),
        pytest.param(LINE[:-1], id="no_final_newline"),
        pytest.param(f"\n{LINE}", id="empty_line_before"),
        pytest.param(f"\n\n{LINE}", id="two_empty_lines_before"),
        pytest.param(f"{LINE}\n", id="empty_line_after"),
        pytest.param(f"{LINE}\n{format_signature_line(W2)}", id="empty_line_between"),
        pytest.param(f"text\n\n{LINE}", id="a_whole_note"),
        pytest.param(f"text\n{LINE}", id="text_before"),
        pytest.param(f"{LINE}text\n", id="text_after"),
        pytest.param(LINE.replace("\n", "\r\n"), id="crlf"),
        pytest.param(f" {LINE}", id="leading_space"),
        pytest.param(LINE.replace("—", "-"), id="hyphen_for_dash"),
        pytest.param(f"{LINE}{LINE}", id="the_same_line_twice"),
        pytest.param("— name AAAAAAB=\n", id="stray_bits"),
        pytest.param("— name AAAAAA==\n", id="key_id_without_signature"),
        pytest.param("<html></html>\n", id="html"),
    ],
)
def test_what_is_no_row_of_signature_lines_is_refused(body: str) -> None:
    with pytest.raises(MalformedError, match="answer"):
        parse_cosignatures(body.encode())


def test_an_answer_with_cosignatures_has_limits() -> None:
    with pytest.raises(TooLargeError, match=str(COSIGNATURES_BYTES_MAX)):
        parse_cosignatures(LINE.encode() * (COSIGNATURES_BYTES_MAX // len(LINE) + 1))
    lines = [NoteSignature(name=f"n{number}", key_id=bytes(4), signature=b"s") for number in range(SIGNATURES_MAX + 1)]
    with pytest.raises(TooLargeError, match=f"{SIGNATURES_MAX} signature lines"):
        parse_cosignatures(format_cosignatures(lines))
    with pytest.raises(ValueError, match="at least one"):
        format_cosignatures([])


def test_the_line_of_the_witness_is_found_among_others_and_verified() -> None:
    foreign = NoteSignature(name="grease.invalid", key_id=b"\x01\x02\x03\x04", signature=b"any bytes")
    assert verify_cosignatures([foreign, W2, W1], note=strip_cosignatures(NOTE, keys=(LOG_KEY,)), key=W1_KEY) == (
        W1,
        NOW,
    )


def test_a_line_in_the_note_is_no_answer() -> None:
    with pytest.raises(SignatureError, match="not cosigned by"):
        verify_cosignatures([W2], note=NOTE, key=W1_KEY)


def line_by_w1(text: str = NOTE.text, *, timestamp: int = NOW) -> NoteSignature:
    return cosign(text, key=WITNESSES["w1"], name=W1_KEY.name, timestamp=timestamp)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(replace(W1, signature=W1.signature[:-1] + b"\0"), SignatureError, id="damaged"),
        pytest.param(replace(W1, name="w9.example"), SignatureError, id="other_name"),
        pytest.param(replace(W1, key_id=bytes(4)), SignatureError, id="other_key_id"),
        pytest.param(replace(W2, name=W1.name, key_id=W1.key_id), SignatureError, id="other_key_under_this_name"),
        pytest.param(line_by_w1(signed_checkpoint(5, TREE.root(5)).text), SignatureError, id="other_checkpoint"),
        pytest.param(replace(W1, signature=b"\0" * 7 + b"\1" + W1.signature[8:]), SignatureError, id="other_time"),
        pytest.param(replace(W1, signature=W1.signature[8:]), MalformedError, id="signature_without_time"),
        pytest.param(line_by_w1(timestamp=0), MalformedError, id="time_zero"),
    ],
)
def test_a_line_that_is_no_cosignature_of_this_checkpoint_does_not_count(
    line: NoteSignature, error: type[TreeheadError]
) -> None:
    with pytest.raises(error):
        verify_cosignatures([line], note=NOTE, key=W1_KEY)


def test_a_key_that_cannot_be_verified_here_verifies_nothing() -> None:
    key = VerifierKey(name=W1.name, key_type=NoteKeyType.COSIGNATURE_MLDSA44, public_key=bytes(1312))
    line = replace(W1, key_id=key.key_id)
    with pytest.raises(UnsupportedError, match="0x06"):
        verify_cosignatures([line], note=NOTE, key=key)


def test_a_cosignature_that_was_answered_makes_a_note_that_verifies() -> None:
    key = private_key("w4").verifier_key(name="w4.example", key_type=NoteKeyType.COSIGNATURE_ED25519)
    answer = format_cosignatures([cosign(NOTE.text, key=private_key("w4"), name=key.name, timestamp=NOW)])
    line, _ = verify_cosignatures(parse_cosignatures(answer), note=NOTE, key=key)
    assert parse_note(CHECKPOINT + answer) == Note(text=NOTE.text, signatures=(*NOTE.signatures, line))


# --- the size that comes with 409 ------------------------------------------------------------------------------------


@given(st.integers(0, INT63_MAX))
def test_a_size_is_read_back_as_it_was_printed(size: int) -> None:
    assert parse_size_body(format_size_body(size)) == size


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="no_digits"),
        pytest.param(b"7", id="no_newline"),
        pytest.param(b"71", id="no_newline_after_two_digits"),
        pytest.param(b"7\n\n", id="two_newlines"),
        pytest.param(b"7\r\n", id="crlf"),
        pytest.param(b"07\n", id="leading_zero"),
        pytest.param(b" 7\n", id="leading_space"),
        pytest.param(b"7 \n", id="trailing_space"),
        pytest.param(b"+7\n", id="plus_sign"),
        pytest.param(b"-7\n", id="minus_sign"),
        pytest.param(b"7\n8\n", id="two_sizes"),
        pytest.param("\u0667\n".encode(), id="arabic_digit"),
        pytest.param(b"9223372036854775808\n", id="64_bits"),
        pytest.param(b"1" * 70_000 + b"\n", id="long"),
        pytest.param(b"\xff\n", id="no_utf8"),
    ],
)
def test_a_malformed_size_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_size_body(body)
