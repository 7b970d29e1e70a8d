"""Evidence: a file that convinces a stranger that a log signed two trees of which neither is a prefix of the other.

    treehead.dev/evidence@v1
    fork same-size | fork prefix
    [root <base64>              prefix only: the root that the larger tree has at the smaller size
    <base64 hash>*]             prefix only: the consistency proof from that root to the larger tree's
    <empty line>
    <signed checkpoint>
    <empty line>
    <signed checkpoint>

*same-size* (E1): both checkpoints have one size and different roots; the smaller root comes first. *prefix* (E2): the
first checkpoint is smaller than the second, `root` is not the one it signed, and the proof shows that `root` is what
the second tree has at the first one's size. Each checkpoint carries the log's signature line alone, so every byte of
the file counts: the checker needs the log's verifier key and nothing else, not even the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from treehead.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from treehead.encoding import format_base64, parse_base64, parse_utf8
from treehead.errors import MalformedError, RefusedError, TooLargeError
from treehead.keys import VerifierKey
from treehead.merkle import HASH_BYTES, PROOF_HASHES_MAX, verify_consistency
from treehead.note import Note, format_note, parse_note

EVIDENCE_BYTES_MAX = 65_536
EVIDENCE_SUFFIX = ".evidence"

_HEADER = "treehead.dev/evidence@v1"


class Fork(Enum):
    """The ways in which two checkpoints contradict each other."""

    SAME_SIZE = "same-size"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Two signed checkpoints of one log and, for a prefix fork, how the second tree contradicts the first.

    Nothing is verified until `verify_evidence` returns. `prefix_root` is None exactly for `Fork.SAME_SIZE`.
    """

    fork: Fork
    first: Note
    second: Note
    prefix_root: bytes | None = None
    path: tuple[bytes, ...] = ()

    @property
    def origin_unverified(self) -> str:
        """The log that the evidence is about, by the first line of its first checkpoint."""
        return self.first.text.partition("\n")[0]

    @property
    def id(self) -> str:
        """The evidence's name: the SHA-256 of its file, in hexadecimal."""
        return sha256(format_evidence(self)).hexdigest()


def parse_evidence(data: bytes) -> Evidence:
    """Parse an evidence file, the exact inverse of `format_evidence`.

    Raises:
        MalformedError: data is not such a file.
    """
    text = parse_utf8(data, what="evidence", bytes_max=EVIDENCE_BYTES_MAX)
    parts = text.split("\n\n", 5)
    if len(parts) != 5 or not text.endswith("\n"):
        raise MalformedError("evidence is not a header and two signed checkpoints with one signature line each")
    head, text1, line1, text2, line2 = parts
    lines = head.split("\n", PROOF_HASHES_MAX + 4)
    if lines[0] != _HEADER or len(lines) < 2:
        raise MalformedError(f"evidence does not begin with the line {_HEADER!r} and a fork line")
    try:
        fork = Fork(lines[1].removeprefix("fork "))
    except ValueError as exc:
        raise MalformedError("evidence has a fork line of an unknown kind") from exc
    prefix_root, path = _parse_path(lines[2:]) if fork is Fork.PREFIX else (None, ())
    evidence = Evidence(
        fork=fork,
        first=parse_note(f"{text1}\n\n{line1}\n".encode()),
        second=parse_note(f"{text2}\n\n{line2}".encode()),
        prefix_root=prefix_root,
        path=path,
    )
    if format_evidence(evidence) != data:
        raise MalformedError("evidence has lines that do not belong to its kind")
    return evidence


def _parse_path(lines: list[str]) -> tuple[bytes, tuple[bytes, ...]]:
    if not lines or not lines[0].startswith("root "):
        raise MalformedError("evidence of a prefix fork has no root line")
    if len(lines) - 1 > PROOF_HASHES_MAX + 1:
        raise TooLargeError(f"evidence has more than {PROOF_HASHES_MAX + 1} hashes")
    root = parse_base64(lines[0].removeprefix("root "), what="root of the evidence", length=HASH_BYTES)
    return root, tuple(parse_base64(line, what="hash of the evidence", length=HASH_BYTES) for line in lines[1:])


def format_evidence(evidence: Evidence) -> bytes:
    """Print an evidence file."""
    lines = [_HEADER, f"fork {evidence.fork.value}"]
    if evidence.prefix_root is not None:
        lines.append(f"root {format_base64(evidence.prefix_root)}")
        lines.extend(map(format_base64, evidence.path))
    return ("\n".join(lines) + "\n\n").encode() + format_note(evidence.first) + b"\n" + format_note(evidence.second)


def verify_evidence(evidence: Evidence, *, key: VerifierKey) -> tuple[Checkpoint, Checkpoint]:
    """The two contradictory checkpoints; returns only if the evidence proves that the log `key` signed both.

    Raises:
        RefusedError: the evidence proves nothing about this log; the message says why.
        MalformedError: a note in it is not a checkpoint, or carries more lines than the log's.
        UnsupportedError: the key's signature type cannot be verified here.
    """
    for note in (evidence.first, evidence.second):
        if len(note.signatures) > 1:
            raise MalformedError("a checkpoint in the evidence has more lines than the log's signature")
    first = verify_checkpoint(evidence.first, key=key)
    second = verify_checkpoint(evidence.second, key=key)
    if evidence.fork is Fork.SAME_SIZE:
        if first.size != second.size or not first.root < second.root:
            raise RefusedError("the two checkpoints are not of one size with the smaller of two different roots first")
        return first, second
    if not first.size < second.size:
        raise RefusedError(f"the first checkpoint, of size {first.size}, is not smaller than the second")
    if evidence.prefix_root is None or evidence.prefix_root == first.root:
        raise RefusedError("the larger tree has the root that the smaller checkpoint signed: no contradiction")
    verify_consistency(
        size1=first.size, size2=second.size, root1=evidence.prefix_root, root2=second.root, proof=evidence.path
    )
    return first, second


def same_size_fork(note1: Note, note2: Note, *, key: VerifierKey) -> Evidence:
    """Evidence (E1) from two notes of one size.

    Raises:
        RefusedError: they do not contradict each other, or the log did not sign both.
        MalformedError: one of them is not a checkpoint.
    """
    first, second = sorted(
        (_only_by(note1, key), _only_by(note2, key)), key=lambda note: parse_checkpoint(note.text).root
    )
    evidence = Evidence(fork=Fork.SAME_SIZE, first=first, second=second)
    verify_evidence(evidence, key=key)
    return evidence


def prefix_fork(
    smaller: Note, larger: Note, *, prefix_root: bytes, path: tuple[bytes, ...], key: VerifierKey
) -> Evidence:
    """Evidence (E2) from two notes, the root that the larger tree has at the smaller size, and the proof of that.

    Raises:
        RefusedError: they do not contradict each other, the proof fails, or the log did not sign both.
        MalformedError: one of them is not a checkpoint.
    """
    evidence = Evidence(
        fork=Fork.PREFIX,
        first=_only_by(smaller, key),
        second=_only_by(larger, key),
        prefix_root=prefix_root,
        path=path,
    )
    verify_evidence(evidence, key=key)
    return evidence


def _only_by(note: Note, key: VerifierKey) -> Note:
    """The note with the log's signature line alone: what others added must not be able to vary the evidence."""
    line = note.by(key)
    return Note(text=note.text, signatures=() if line is None else (line,))
