"""What a log and a witness say to each other (C2SP tlog-witness, `add-checkpoint`).

    POST <submission prefix>/add-checkpoint
        old <size> LF
        <base64 of a 32-byte hash> LF        0 to 63 times: the consistency proof from that size on
        LF
        <signed checkpoint, verbatim>

    200     <signature line>+                the witness's cosignatures of this checkpoint
    409     <size> LF                        what it cosigned last, which is not the old size; type text/x.tlog.size

The log asks and the witness answers, and either reads with this module what the other wrote, so it is strict in both
directions. What the messages mean is checked by who acts on them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from treehead.cosignature import verify_cosignature
from treehead.encoding import (
    DECIMAL_DIGITS_MAX,
    format_base64,
    format_decimal,
    parse_base64,
    parse_decimal,
    parse_utf8,
)
from treehead.errors import MalformedError, SignatureError, TooLargeError
from treehead.keys import VerifierKey
from treehead.merkle import HASH_BYTES, PROOF_HASHES_MAX
from treehead.note import Note, NoteSignature, format_signature_line, parse_note

ADD_CHECKPOINT_PATH = "/add-checkpoint"
"""Below the witness's submission prefix."""
SIZE_CONTENT_TYPE = "text/x.tlog.size"
"""Of the body that comes with 409; exactly so, without parameters."""
ADD_CHECKPOINT_BYTES_MAX = 131_072
"""A checkpoint with sixteen post-quantum signatures fits; there are witnesses that take no more than 10 KiB."""
COSIGNATURES_BYTES_MAX = 65_536

_OLD = "old "
_ANY_TEXT = "cosigned\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCheckpoint:
    """A checkpoint that a witness shall cosign, nothing of it verified.

    `proof` is the consistency proof from `old_size`, the size that the witness is thought to have cosigned last;
    `checkpoint` is the signed note as it stands in the body.
    """

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes


# --- the submission --------------------------------------------------------------------------------------------------


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Parse the body of a submission, the exact inverse of `format_add_checkpoint`.

    The checkpoint is not looked into, save that it is there and ends in a newline.

    Raises:
        MalformedError: body is not such a submission.
    """
    if len(body) > ADD_CHECKPOINT_BYTES_MAX:
        raise TooLargeError(f"submission is larger than {ADD_CHECKPOINT_BYTES_MAX} bytes")
    head, blank, checkpoint = body.partition(b"\n\n")
    if not (blank and checkpoint.endswith(b"\n")):
        raise MalformedError("submission has no checkpoint after an empty line, or lacks its final newline")
    text = parse_utf8(head, what="head of the submission", bytes_max=ADD_CHECKPOINT_BYTES_MAX)
    old, *lines = text.split("\n", PROOF_HASHES_MAX + 1)
    if not old.startswith(_OLD):
        raise MalformedError("submission does not begin with 'old ' and a size")
    if len(lines) > PROOF_HASHES_MAX:
        raise TooLargeError(f"submission has more than {PROOF_HASHES_MAX} hashes")
    return AddCheckpoint(
        old_size=parse_decimal(old.removeprefix(_OLD), what="old size of the submission"),
        proof=tuple(parse_base64(line, what="hash of the submission", length=HASH_BYTES) for line in lines),
        checkpoint=checkpoint,
    )


def format_add_checkpoint(submission: AddCheckpoint) -> bytes:
    """Print the body of a submission.

    Raises:
        ValueError: the proof has more hashes than may be sent.
    """
    if len(submission.proof) > PROOF_HASHES_MAX:
        raise ValueError(f"a submission has at most {PROOF_HASHES_MAX} hashes")
    lines = [f"{_OLD}{format_decimal(submission.old_size)}", *map(format_base64, submission.proof)]
    return ("\n".join(lines) + "\n\n").encode() + submission.checkpoint


def strip_cosignatures(note: Note, *, keys: Collection[VerifierKey]) -> Note:
    """The note with no signature lines but those by `keys`, which are the log's; unverified.

    Witnesses take bodies of a few kilobytes only, and one foreign signature may fill them.

    Raises:
        SignatureError: there is no line by any of these keys.
    """
    pairs = {(key.name, key.key_id) for key in keys}
    lines = tuple(line for line in note.signatures if (line.name, line.key_id) in pairs)
    if not lines:
        raise SignatureError("checkpoint is not signed by the log, and is not for a witness to see")
    return replace(note, signatures=lines)


# --- the answers -----------------------------------------------------------------------------------------------------


def parse_cosignatures(body: bytes) -> tuple[NoteSignature, ...]:
    """Parse one or more signature lines, the exact inverse of `format_cosignatures`.

    Raises:
        MalformedError: body is anything else, or has two lines of one key.
    """
    if len(body) > COSIGNATURES_BYTES_MAX:
        raise TooLargeError(f"answer with cosignatures is larger than {COSIGNATURES_BYTES_MAX} bytes")
    try:
        note = parse_note(_ANY_TEXT.encode() + b"\n" + body)
    except MalformedError as exc:
        raise type(exc)(f"answer does not consist of signature lines: {exc}") from exc
    if note.text != _ANY_TEXT:
        raise MalformedError("answer has an empty line among its signature lines")
    return note.signatures


def format_cosignatures(signatures: Sequence[NoteSignature]) -> bytes:
    """Print signature lines.

    Raises:
        ValueError: there are none.
    """
    if not signatures:
        raise ValueError("an answer has at least one cosignature")
    return "".join(map(format_signature_line, signatures)).encode()


def verify_cosignatures(
    signatures: Sequence[NoteSignature], *, note: Note, key: VerifierKey
) -> tuple[NoteSignature, int]:
    """The line by the witness `key` among those it answered, and the POSIX time at which it cosigned the note's text.

    Lines by other keys are ignored. Not checked: that the time is a likely one.

    Raises:
        SignatureError: there is no line by this key, or it does not verify.
        MalformedError: the line is no cosignature, or has no time, which an answer must have.
        UnsupportedError: the key is not of type 0x04.
    """
    answered = replace(note, signatures=tuple(signatures))
    timestamp = verify_cosignature(answered, key=key)
    line = answered.by(key)
    if line is None or timestamp == 0:
        raise MalformedError(f"cosignature by {key.name} has no time")
    return line, timestamp


def parse_size_body(body: bytes) -> int:
    """Parse the body that comes with 409, the exact inverse of `format_size_body`.

    Raises:
        MalformedError: body is not a size and a newline.
    """
    text = parse_utf8(body, what="size that the witness holds", bytes_max=DECIMAL_DIGITS_MAX + 1)
    if not text.endswith("\n"):
        raise MalformedError("size that the witness holds lacks its final newline")
    return parse_decimal(text[:-1], what="size that the witness holds")


def format_size_body(size: int) -> bytes:
    """Print the size of the checkpoint cosigned last, 0 if there is none."""
    return f"{format_decimal(size)}\n".encode()
