"""The steps in which a server changes its files, by name: "wal write", "database sync".

Which there are is not written down but found out, by looking at what a server does, so that new files of a log have
their faults from their first day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.fault.preload import ANYTHING, Operation
from tests.fault.trace import FOLDER, Event, Opened, Renamed, Synced, Truncated, Unlinked, Written

ROLES = {
    "log.sqlite": "database",
    "log.sqlite-wal": "wal",
    "log.sqlite-journal": "journal",
    "high-water": "mark",
    ".treehead-*": "temporary file",
    FOLDER: "directory",
}
"""What files are called in the names of steps, by the pattern of their own name; others go by their own."""


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """An operation on the files of a pattern."""

    file: str
    operation: Operation

    def __str__(self) -> str:
        if self.operation == ANYTHING:
            return "any step"
        return f"{ROLES.get(self.file, self.file)} {self.operation.name}".lower()


def step(name: str, operation: Operation) -> Step:
    """The step that an operation on the file of this name is."""
    return Step(next((pattern for pattern in ROLES if fnmatchcase(name, pattern)), name), operation)


def count_steps(events: Iterable[Event]) -> Counter[Step]:
    """How often each step was taken."""
    steps: Counter[Step] = Counter()
    names: dict[int, str] = {}
    for event in events:
        match event:
            case Opened():
                names[event.inode] = event.name
                if event.created:
                    steps[step(event.name, Operation.CREATE)] += 1
            case Written():
                steps[step(names[event.inode], Operation.WRITE)] += 1
            case Truncated():
                steps[step(names[event.inode], Operation.TRUNCATE)] += 1
            case Synced():
                steps[step(names[event.inode], Operation.SYNC)] += 1
            case Renamed():
                steps[step(event.new, Operation.RENAME)] += 1
            case Unlinked():
                steps[step(event.name, Operation.UNLINK)] += 1
    return steps
