"""Bounds of what waits: how many entries, and how many bytes of them, at one stage; and the errors that say so."""

from __future__ import annotations

from collections.abc import Sequence

from treehead.errors import UnavailableError


class BusyError(UnavailableError):
    """There is no room; nothing was done, and trying again a little later may find some."""


class QuotaError(BusyError):
    """Somebody has sent as much as one may; nothing was done.

    Attributes:
        retry_ms: after how long there is room for the same again.
    """

    def __init__(self, message: str, *, retry_ms: int) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class Backlog:
    """What waits at one stage. Whoever enters with some leaves leaves with the same, however their work ended."""

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries = 0
        self._bytes = 0

    @property
    def entries(self) -> int:
        """How many entries wait."""
        return self._entries

    def enter(self, leaves: Sequence[bytes]) -> None:
        """Count leaves in.

        Raises:
            BusyError: they do not fit, and were not counted.
        """
        entries, size_bytes = len(leaves), sum(map(len, leaves))
        if self._entries + entries > self._entries_max or self._bytes + size_bytes > self._bytes_max:
            raise BusyError(
                f"the log is busy: {self._entries} entries ({self._bytes} bytes) wait; try again a little later"
            )
        self._entries += entries
        self._bytes += size_bytes

    def leave(self, leaves: Sequence[bytes]) -> None:
        """Count leaves out again."""
        self._entries -= len(leaves)
        self._bytes -= sum(map(len, leaves))
