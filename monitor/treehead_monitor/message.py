"""What monitors say to each other, as a value, with a limit on everything in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NewType

from treehead_monitor.head import HeadDigest

EvidenceId = NewType("EvidenceId", bytes)
"""SHA-256 of an evidence file: 32 bytes."""

DIGESTS_MAX = 256
"""Heads, wanted notes, evidence ids and wanted evidence, each; a monitor follows fewer logs than that."""

NOTES_MAX = 64
EVIDENCE_MAX = 16
"""So many files at most in one message, and against one log."""

ITEMS_BYTES_MAX = 262_144
"""So much of notes, and as much of evidence, is sent in one message; the rest when it is asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gossip:
    """One message of an exchange. Nothing in it is verified; see protos/treehead/v1/monitor.proto for the fields."""

    heads: tuple[HeadDigest, ...] = ()
    wanted_notes: tuple[HeadDigest, ...] = ()
    notes: tuple[bytes, ...] = field(default=(), repr=False)
    evidence_ids: tuple[EvidenceId, ...] = ()
    wanted_evidence: tuple[EvidenceId, ...] = ()
    evidence: tuple[bytes, ...] = field(default=(), repr=False)


def that_fit(items: Iterable[bytes], *, count_max: int) -> tuple[bytes, ...]:
    """The first of some notes or files that one message holds; at least one, which is never too large."""
    fitting: list[bytes] = []
    left = ITEMS_BYTES_MAX
    for item in items:
        left -= len(item)
        if left < 0 or len(fitting) == count_max:
            break
        fitting.append(item)
    return tuple(fitting)


def evidence_id(data: bytes) -> EvidenceId:
    """The name of an evidence file between monitors; in hexadecimal it is the file's name."""
    return EvidenceId(sha256(data).digest())
