"""How calls to a peer went. A peer that does not answer is a nuisance, and says nothing about any log."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """What is known of one peer; times are milliseconds since 1970.

    Attributes:
        contact_ms: when it answered last, or None if it never did.
        failures: calls that failed since then.
        failing_since_ms: when the first of those failed, or None.
        error: why the last of those failed, or nothing.
        faults: items it sent that no honest monitor sends, ever.
    """

    address: str
    contact_ms: int | None = None
    failures: int = 0
    failing_since_ms: int | None = None
    error: str = ""
    faults: int = 0

    def answered(self, *, at_ms: int) -> PeerRecord:
        """The record after a call that was answered."""
        return replace(self, contact_ms=at_ms, failures=0, failing_since_ms=None, error="")

    def failed(self, error: str, *, at_ms: int) -> PeerRecord:
        """The record after a call that failed."""
        since = at_ms if self.failing_since_ms is None else self.failing_since_ms
        return replace(self, failures=self.failures + 1, failing_since_ms=since, error=error)

    def at_fault(self) -> PeerRecord:
        """The record after an item that no honest monitor sends."""
        return replace(self, faults=self.faults + 1)
