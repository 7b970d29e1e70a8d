"""What a check finds: values, of which a bounded number is kept."""

from __future__ import annotations

from dataclasses import dataclass

FINDINGS_MAX = 100

MARK = "high-water mark"
"""Where a finding about the mark is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it has to be. `where` names it, such as "entry 17"; `what` is a clause about it."""

    where: str
    what: str


class Findings:
    """The first findings, and how many more there were."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self.more = 0

    @property
    def kept(self) -> tuple[Finding, ...]:
        """The findings that are kept, in the order in which they were made."""
        return tuple(self._kept)

    def add(self, where: str, what: str, *, count: int = 1) -> None:
        """Note a finding; `count` says how many of its kind it stands for."""
        if len(self._kept) < FINDINGS_MAX:
            self._kept.append(Finding(where=where, what=what))
        else:
            self.more += count

    def __bool__(self) -> bool:
        return bool(self._kept)
