"""What is checked: the log's own database, which nothing else may use meanwhile, or a copy of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from treehead.datadir import InUseError, locked
from treehead.errors import StorageError, UsageError
from treehead.keys import VerifierKey
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.fsck.check import check_log
from treehead_logserver.fsck.findings import Findings
from treehead_logserver.fsck.mark import read_newest, read_slots
from treehead_logserver.fsck.report import Report
from treehead_logserver.progress import Progress
from treehead_logserver.snapshot import opened


def check_directory(directory: DataDirectory, *, vkey: VerifierKey, progress: Progress) -> Report:
    """Check the log in a directory, and change nothing.

    Raises:
        StorageError: the log runs, or its database cannot be opened.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory))
        except InUseError as exc:
            raise StorageError(f"{exc}, or make a copy with treehead-log backup and check that with --file") from exc
        snapshot = stack.enter_context(opened(directory.database, at_rest=True))
        findings = Findings()
        marks = read_slots(directory.mark, vkey=vkey, findings=findings)
        return check_log(snapshot, vkey=vkey, marks=marks, findings=findings, progress=progress)


def check_copy(directory: DataDirectory, file: Path, *, vkey: VerifierKey, progress: Progress) -> Report:
    """Check a copy of the database of the log in a directory. It may be older than the log, which may run.

    Raises:
        UsageError: it is no copy, but the database itself.
        StorageError: it cannot be opened.
    """
    if file.exists() and directory.database.exists() and file.samefile(directory.database):
        raise UsageError(f"--file {file} is the log's own database: leave --file out, or name a copy of it")
    mark = read_newest(directory.mark, vkey=vkey)
    with opened(file, at_rest=True) as snapshot:
        return check_log(
            snapshot,
            vkey=vkey,
            marks=[] if mark is None else [mark],
            findings=Findings(),
            progress=progress,
            may_be_older=True,
        )
