"""How far a long command has come: a bar on stderr if that is a terminal, and else nothing.

rich draws it. It is imported only then, because importing it takes longer than many a command runs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class Progress:
    """Is told how far a command has come, and shows nothing."""

    def begin(self, what: str, *, total: int | None = None) -> None:
        """The next part of the work begins; `total` is how much there is to do, if that is known."""

    def reach(self, done: int) -> None:
        """So much of it is done."""


class _Shown(Progress):
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, rate="")
        self._began = 0.0

    def begin(self, what: str, *, total: int | None = None) -> None:
        self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total, rate="")
        self._began = time.monotonic()

    def reach(self, done: int) -> None:
        passed = time.monotonic() - self._began
        self._bars.update(self._task, completed=done, rate=f"{done / passed:,.0f}/s" if passed else "")


@contextlib.contextmanager
def progress_shown() -> Iterator[Progress]:
    """Show progress while in the context, if there is a terminal to show it on; what was shown is gone afterwards."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        yield _Shown(bars)
