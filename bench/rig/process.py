"""What the operating system knows of a process and those that it started: time, memory, threads, open files (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_KIBIBYTE = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A process at one moment, together with all that come from it.

    `cpu_s` is user and system time of all threads, and of children that have ended, in steps of 10 ms. `rss_bytes` is
    resident memory, `rss_peak_bytes` the largest that each has been: sums, which count what processes share several
    times.
    """

    processes: int
    cpu_s: float
    rss_bytes: int
    rss_peak_bytes: int
    threads: int
    descriptors: int


def usage_of(pid: int) -> Usage:
    """The usage of a running process of ours and its descendants."""
    usages = [_usage_of_one(pid)]
    for descendant in _descendants(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended in the meantime
            usages.append(_usage_of_one(descendant))
    return Usage(
        processes=len(usages),
        cpu_s=sum(usage.cpu_s for usage in usages),
        rss_bytes=sum(usage.rss_bytes for usage in usages),
        rss_peak_bytes=sum(usage.rss_peak_bytes for usage in usages),
        threads=sum(usage.threads for usage in usages),
        descriptors=sum(usage.descriptors for usage in usages),
    )


def _descendants(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text(encoding="ascii").split():
                yield int(child)
                yield from _descendants(int(child))


def _usage_of_one(pid: int) -> Usage:
    proc = Path("/proc") / str(pid)
    # The command's name, in parentheses, may hold anything; the fields are counted from behind it.
    fields = (proc / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in (proc / "status").read_text(encoding="utf-8").splitlines())
    return Usage(
        processes=1,
        cpu_s=sum(map(int, fields[11:15])) / _TICKS_PER_SECOND,
        rss_bytes=_kibibytes(status.get("VmRSS", "0")),
        rss_peak_bytes=_kibibytes(status.get("VmHWM", "0")),
        threads=int(status["Threads"]),
        descriptors=sum(1 for _ in (proc / "fd").iterdir()),
    )


def _kibibytes(field: str) -> int:
    return int(field.split()[0]) * _KIBIBYTE
