"""What a check says, to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from treehead.display import printable, printable_name
from treehead.encoding import format_base64
from treehead_logserver.fsck.findings import MARK, Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was checked, and what was found.

    Attributes:
        size: that of the tree, as the database says; None if it does not.
        root: what the entries hash to; None if that is not what the log has signed, or some are missing or damaged.
        url: where the tree is served; None if it was read from a database.
        entries, tiles, lookups: how many there are; look-ups are None where they are not to be seen.
        mark_size: how many entries the log has ever signed for, as far as is known here.
        findings, findings_more: those that are told, and how many others there are.
        unchecked: why the check could not come to its end, in a sentence; None if it did.
        seconds: how long the check took.
    """

    origin: str
    size: int | None
    root: bytes | None
    entries: int
    tiles: int
    lookups: int | None
    mark_size: int | None
    findings: tuple[Finding, ...]
    findings_more: int
    seconds: float
    url: str | None = None
    unchecked: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether all was checked and nothing was found."""
        return not self.findings and self.unchecked is None

    @property
    def is_older_copy(self) -> bool:
        """Whether the log has signed more than this, which is not held against it."""
        behind = self.mark_size is not None and self.size is not None and self.size < self.mark_size
        return behind and all(finding.where != MARK for finding in self.findings)


def format_report(report: Report) -> str:
    """The report for people: a line for each finding, and a last one."""
    return "".join(f"{printable(line)}\n" for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    for finding in report.findings:
        yield f"{finding.where}: {finding.what}"
    if report.findings_more:
        yield f"and {report.findings_more} more"
    if report.is_older_copy:
        yield f"of size {report.size}, where the log has signed a tree of size {report.mark_size}"
    if report.unchecked is not None:
        yield report.unchecked
    count = len(report.findings) + report.findings_more
    where = "" if report.url is None else f" at {printable_name(report.url)}"
    counted = [_counted(report.entries, "entry", "entries"), _counted(report.tiles, "tile", "tiles")]
    if report.lookups is not None:
        counted.append(_counted(report.lookups, "look-up row", "look-up rows"))
    verdict = "clean" if report.is_clean else _counted(count, "finding", "findings")
    unchecked = "" if report.unchecked is None else ", and not checked to its end"
    yield f"{printable_name(report.origin)}{where}: {', '.join(counted)}: {verdict}{unchecked}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def format_report_json(report: Report) -> str:
    """The report for programs, on one line."""
    return json.dumps(
        {
            "origin": report.origin,
            "url": report.url,
            "size": report.size,
            "root": None if report.root is None else format_base64(report.root),
            "entries": report.entries,
            "tiles": report.tiles,
            "lookups": report.lookups,
            "mark_size": report.mark_size,
            "findings": [{"where": finding.where, "what": finding.what} for finding in report.findings],
            "findings_more": report.findings_more,
            "unchecked": report.unchecked,
            "clean": report.is_clean,
            "seconds": round(report.seconds, 3),
        }
    )
