"""Portable inclusion proofs, the `.tlog-proof` files of C2SP tlog-proof.

    c2sp.org/tlog-proof@v1
    [extra <base64>]
    index <decimal>
    <base64 hash>*              the leaf's sibling first
    <empty line>
    <signed checkpoint, verbatim>

Treehead puts the leaf into `extra`. That line is not authenticated by itself: the leaf counts only once its hash has
been shown to be in the checkpoint's tree. Other than some readers we accept no CRLF, no leading zeros, no missing final
newline.
"""

from __future__ import annotations

from dataclasses import dataclass

from treehead.encoding import format_base64, format_decimal, parse_base64, parse_decimal, parse_utf8
from treehead.errors import MalformedError, TooLargeError
from treehead.merkle import HASH_BYTES, PROOF_HASHES_MAX
from treehead.note import NOTE_BYTES_MAX

PROOF_SUFFIX = ".tlog-proof"
EXTRA_BYTES_MAX = 65_535
PROOF_BYTES_MAX = NOTE_BYTES_MAX + 131_072

_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlogProof:
    """A parsed proof file, nothing of it verified. `checkpoint` is the signed note as it stands in the file."""

    extra: bytes | None
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes


def parse_proof(data: bytes) -> TlogProof:
    """Parse a proof file, the exact inverse of `format_proof`.

    The checkpoint is not looked into, save that it is there and ends in a newline.

    Raises:
        MalformedError: data is not such a file.
    """
    text = parse_utf8(data, what="proof", bytes_max=PROOF_BYTES_MAX)
    head, blank, checkpoint = text.partition("\n\n")
    lines = head.split("\n", PROOF_HASHES_MAX + 3)
    if lines[0] != _HEADER:
        raise MalformedError(f"proof does not begin with the line {_HEADER!r}")
    if not (blank and checkpoint.endswith("\n")):
        raise MalformedError("proof has no checkpoint after an empty line, or lacks its final newline")
    del lines[0]
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = parse_base64(lines.pop(0).removeprefix("extra "), what="extra line of the proof")
        if len(extra) > EXTRA_BYTES_MAX:
            raise TooLargeError(f"extra line of the proof holds more than {EXTRA_BYTES_MAX} bytes")
    if not lines or not lines[0].startswith("index "):
        raise MalformedError("proof has no index line")
    index = parse_decimal(lines.pop(0).removeprefix("index "), what="index of the proof")
    if len(lines) > PROOF_HASHES_MAX:
        raise TooLargeError(f"proof has more than {PROOF_HASHES_MAX} hashes")
    hashes = tuple(parse_base64(line, what="hash of the proof", length=HASH_BYTES) for line in lines)
    return TlogProof(extra=extra, index=index, hashes=hashes, checkpoint=checkpoint.encode())


def format_proof(proof: TlogProof) -> bytes:
    """Print a proof file."""
    lines = [_HEADER]
    if proof.extra is not None:
        lines.append(f"extra {format_base64(proof.extra)}")
    lines.append(f"index {format_decimal(proof.index)}")
    lines.extend(map(format_base64, proof.hashes))
    return ("\n".join(lines) + "\n\n").encode() + proof.checkpoint
