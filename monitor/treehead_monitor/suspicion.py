"""Suspicions: what is odd about a log and proves nothing. They are shown, retried, and go away; evidence does not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Doubt(Enum):
    """Why a log is under suspicion."""

    NO_ANSWER = "no-answer"
    """It cannot be reached, or refuses what it should be able to answer."""

    BAD_ANSWER = "bad-answer"
    """What it sent does not hold together: no signed checkpoint, or entries that do not hash to the signed root."""

    ROLLBACK = "rollback"
    """It served a head again that is smaller than one it served before, though a prefix of it."""

    UNRESOLVED = "unresolved"
    """It signed heads that following it has not reached in time, or more of them than are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """One doubt about one log.

    Attributes:
        reason: one sentence.
        since_ms: when it began, in milliseconds since 1970.
        count: how often it was raised, ever.
        standing: whether it still holds; what has gone keeps its count.
    """

    doubt: Doubt
    reason: str
    since_ms: int
    count: int
    standing: bool
