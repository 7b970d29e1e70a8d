"""Checkpoints: their three lines and more, and who may sign them."""

import pytest

from tests.unit.library.specimens import (
    LOG,
    LOG_KEY,
    ORIGIN,
    OTHER_LOG,
    OTHER_LOG_KEY,
    P256_PUBLISHER,
    signed_checkpoint,
)
from treehead.checkpoint import (
    CHECKPOINT_CHARS_MAX,
    Checkpoint,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from treehead.encoding import format_base64
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError, UsageError
from treehead.evidence import format_evidence, parse_evidence, prefix_fork
from treehead.keys import NoteKeyType, VerifierKey
from treehead.merkle import EMPTY_ROOT, PROOF_HASHES_MAX, roots_from_consistency
from treehead.note import Note, format_note, sign_text

ROOT = format_base64(bytes(range(32)))
CHECKPOINT = Checkpoint(origin=ORIGIN, size=5, root=bytes(range(32)))


@pytest.mark.parametrize("size", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("extensions", [(), ("Timestamp: 1",), ("a", " ", "\x7f")])
def test_a_checkpoint_is_read_back_as_it_was_printed(size: int, extensions: tuple[str, ...]) -> None:
    checkpoint = Checkpoint(origin="an origin + more", size=size, root=EMPTY_ROOT, extensions=extensions)
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("", "origin", id="empty"),
        pytest.param("\n", "origin", id="blank"),
        pytest.param(f"{ORIGIN}\n{ROOT}\n", "origin, a size and a root", id="no_size"),
        pytest.param(f"{ORIGIN}\n5\n", "origin, a size and a root", id="no_root"),
        pytest.param(f"\n5\n{ROOT}\n", "origin", id="empty_origin"),
        pytest.param(f"{ORIGIN}\n\n{ROOT}\n", "size", id="empty_size"),
        pytest.param(f"{ORIGIN}\n5\n{ROOT}", "line", id="no_final_newline"),
        pytest.param(f"{ORIGIN}\n5\n{ROOT}\n\n", "line", id="blank_line_at_the_end"),
        pytest.param(f"{ORIGIN}\n5\n{ROOT}\n\nextension\n", "line", id="blank_line_before_an_extension"),
        pytest.param(f"{ORIGIN}\n05\n{ROOT}\n", "size", id="leading_zero"),
        pytest.param(f"{ORIGIN}\n-5\n{ROOT}\n", "size", id="negative_size"),
        pytest.param(f"{ORIGIN}\n+5\n{ROOT}\n", "size", id="plus_sign"),
        pytest.param(f"{ORIGIN}\n5 \n{ROOT}\n", "size", id="space_after_the_size"),
        pytest.param(f"{ORIGIN}\n5\r\n{ROOT}\n", "size", id="crlf"),
        pytest.param(f"{ORIGIN}\n0x5\n{ROOT}\n", "size", id="hexadecimal_size"),
        pytest.param(f"{ORIGIN}\n9223372036854775808\n{ROOT}\n", "size", id="size_of_64_bits"),
        pytest.param(f"{ORIGIN}\n5\n{format_base64(bytes(31))}\n", "root", id="short_root"),
        pytest.param(f"{ORIGIN}\n5\n{ROOT[:-1]}\n", "root", id="no_padding"),
        pytest.param(f"{ORIGIN}\n5\n{ROOT[:-2]}9=\n", "root", id="stray_bits"),
        pytest.param(f"{'x' * 256}\n5\n{ROOT}\n", "origin", id="long_origin"),
        pytest.param(f"{'ä' * 128}\n5\n{ROOT}\n", "origin", id="origin_long_in_bytes"),
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str, part: str) -> None:
    with pytest.raises(MalformedError, match=part):
        parse_checkpoint(text)


def test_an_origin_may_have_255_bytes() -> None:
    assert parse_checkpoint(f"{'ä' * 127}x\n5\n{ROOT}\n").origin == "ä" * 127 + "x"


def test_the_key_must_be_the_origins_and_must_have_signed() -> None:
    note = signed_checkpoint(5, bytes(32))
    assert verify_checkpoint(note, key=LOG_KEY).size == 5
    with pytest.raises(SignatureError, match="not signed by"):
        verify_checkpoint(note, key=OTHER_LOG_KEY)
    renamed = LOG.verifier_key(name="other.example", key_type=NoteKeyType.ED25519)
    with pytest.raises(SignatureError, match=r"is of the log 'log.example/treehead', not of 'other.example'"):
        verify_checkpoint(note, key=renamed)


def test_a_key_of_that_name_cannot_sign_another_logs_checkpoint() -> None:
    text = format_checkpoint(CHECKPOINT)
    key = OTHER_LOG.verifier_key(name="other.example", key_type=NoteKeyType.ED25519)
    note = Note(text=text, signatures=(sign_text(text, key=OTHER_LOG, name="other.example"),))
    with pytest.raises(SignatureError, match=r"not of 'other\.example'"):
        verify_checkpoint(note, key=key)


def test_a_signed_checkpoint_opens_under_its_key_only() -> None:
    data = sign_checkpoint(CHECKPOINT, key=LOG)
    assert open_checkpoint(data, key=LOG_KEY) == CHECKPOINT
    with pytest.raises(SignatureError):
        open_checkpoint(data, key=OTHER_LOG_KEY)
    with pytest.raises(SignatureError):
        open_checkpoint(data.replace(b"\n5\n", b"\n6\n"), key=LOG_KEY)
    ecdsa = VerifierKey(name=ORIGIN, key_type=NoteKeyType.ECDSA, public_key=P256_PUBLISHER.public.spki)
    with pytest.raises(UnsupportedError, match="type 0x02"):
        open_checkpoint(data, key=ecdsa)


@pytest.mark.parametrize("origin", ["", "two words", "a+b"])
def test_an_origin_that_cannot_name_a_key_is_not_signed(origin: str) -> None:
    with pytest.raises(UsageError):
        sign_checkpoint(Checkpoint(origin=origin, size=0, root=EMPTY_ROOT), key=LOG)


def test_signed_text_that_is_no_checkpoint_is_malformed() -> None:
    data = format_note(Note(text="text\n", signatures=(sign_text("text\n", key=LOG, name=ORIGIN),)))
    with pytest.raises(MalformedError):
        open_checkpoint(data, key=LOG_KEY)


def test_a_log_cannot_escape_evidence_by_signing_what_is_too_large_for_it() -> None:
    origin = "\U0001f332" * 63
    key = LOG.verifier_key(name=origin, key_type=NoteKeyType.ED25519)
    size1, size2 = 2**63 - 3, 2**63 - 1
    room = CHECKPOINT_CHARS_MAX - len(format_checkpoint(Checkpoint(origin=origin, size=size2, root=bytes(32))))
    filler = ("\U0001f332" * (room - 1),)
    path = tuple(bytes([level]) * 32 for level in range(PROOF_HASHES_MAX + 1))
    prefix_root, root2 = roots_from_consistency(size1=size1, size2=size2, root1=bytes(32), proof=path)
    first = signed_checkpoint(size1, bytes(32), origin=origin, extensions=filler)
    second = signed_checkpoint(size2, root2, origin=origin, extensions=filler)
    with pytest.raises(TooLargeError, match="checkpoint is longer than"):
        parse_checkpoint(first.text + "x\n")
    evidence = prefix_fork(first, second, prefix_root=prefix_root, path=path, key=key)
    assert parse_evidence(format_evidence(evidence)) == evidence
