"""What a program found out: its goals from the table of promises, met or not, and every figure of every round.

A program says before it measures which rows of the table it is about, so that a row that was not measured is still
seen to be missing. Figures are flat records: a frozen dataclass for each round and setting, printed as a table of
medians and written to `results/NAME.json` round by round.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from bench.rig.environment import Environment
from bench.rig.latency import Spread

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


_NUMBER = re.compile(r"-?[0-9.,]+(e-?[0-9]+)?")


class Bound(Enum):
    """On which side of its target a figure has to be."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One promise: what is measured, and the figure that its median must not miss."""

    what: str
    bound: Bound
    target: float
    unit: str

    def is_met(self, figure: float) -> bool:
        """Whether a figure keeps the promise."""
        return figure <= self.target if self.bound is Bound.AT_MOST else figure >= self.target

    def __str__(self) -> str:
        return f"{self.bound.value} {_number(self.target)}{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A goal and what was measured for it, round by round."""

    goal: Goal
    measured: Spread

    @property
    def met(self) -> bool:
        """Whether the median keeps the promise."""
        return self.goal.is_met(self.measured.median)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything that one run of a program has to say.

    Attributes:
        name: the program's name.
        parameters: what it was told, seed included.
        figures: one for each round of each setting.
        by: the fields of a figure that tell one setting from another; figures that agree in them are its rounds.
        columns: the fields of a figure to print, those within another with a dot between.
        rows: the promises that were measured.
    """

    name: str
    parameters: dict[str, object]
    figures: Sequence[DataclassInstance]
    by: tuple[str, ...] = ()
    columns: tuple[str, ...]
    rows: tuple[Row, ...] = ()


def write(result: Result, folder: Path, *, environment: Environment, unusual: dict[str, object]) -> None:
    """Write a result as JSON; `unusual` are those of its parameters that are not what the program has by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "name": result.name,
        "environment": dataclasses.asdict(environment),
        "parameters": result.parameters,
        "unusual": unusual,
        "rows": [
            {
                "what": row.goal.what,
                "target": str(row.goal),
                "measured": dataclasses.asdict(row.measured),
                "met": row.met,
            }
            for row in result.rows
        ],
        "figures": [dataclasses.asdict(figure) for figure in result.figures],
    }
    path_of(result.name, folder).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def path_of(name: str, folder: Path) -> Path:
    """Where the result of a program is."""
    return folder / f"{name}.json"


# --- tables ----------------------------------------------------------------------------------------------------------


def format_figures(result: Result) -> str:
    """The medians over the rounds, one line a setting."""
    settings: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for figure in result.figures:
        flat = _flatten(dataclasses.asdict(figure))
        settings.setdefault(tuple(flat[name] for name in result.by), []).append(flat)
    shown = (*result.by, *result.columns)
    last = [name.rpartition(".")[2] for name in shown]
    head = [short if last.count(short) == 1 else name for name, short in zip(shown, last, strict=True)]
    return format_table([head, *([_median(rounds, name) for name in shown] for rounds in settings.values())])


def _flatten(figure: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in figure.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _median(rounds: Sequence[dict[str, object]], name: str) -> str:
    values = [figures[name] for figures in rounds]
    numbers = [value for value in values if isinstance(value, int | float)]
    return _number(statistics.median(numbers)) if len(numbers) == len(values) else str(values[0])


def format_row(goal: Goal, measured: Spread) -> list[str]:
    """The cells of a row: what, the promise, what was measured, whether the promise is kept."""
    spread = f"{_number(measured.median)} ({_number(measured.minimum)} to {_number(measured.maximum)}){goal.unit}"
    return [goal.what, str(goal), spread, "yes" if goal.is_met(measured.median) else "NO"]


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, of which the first is the head, in columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [all(map(_NUMBER.fullmatch, column[1:])) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _number(value: float) -> str:
    """A number with three digits that count, or more where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"
