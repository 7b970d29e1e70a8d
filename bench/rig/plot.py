"""Plots as SVG, by matplotlib where it is installed; a program without it has everything else.

A line goes through the medians of the rounds; the band around it is from their smallest to their largest.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.rig.latency import Spread, spread

_PANEL_INCHES = (6.4, 4.0)
_MARKED_POINTS_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A figure against another."""

    label: str
    points: tuple[tuple[float, Spread], ...]

    @classmethod
    def of(cls, label: str, points: Iterable[tuple[float, float]]) -> Self:
        """A line of measurements, several of which may be rounds at one x."""
        rounds: dict[float, list[float]] = {}
        for x, y in points:
            rounds.setdefault(x, []).append(y)
        return cls(label=label, points=tuple((x, spread(rounds[x])) for x in sorted(rounds)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes, logarithmic where it says so."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log_x: bool = False
    log_y: bool = False


def write_plot(path: Path, panels: Sequence[Panel]) -> None:
    """Draw panels side by side into an SVG file, the same for the same figures; says so if it cannot."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        figures = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        print(f"{path.name} is left out: matplotlib is not installed (make bench installs it)", file=sys.stderr)
        return
    width, height = _PANEL_INCHES
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure = figures.Figure(figsize=(width * len(panels), height), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            for line in panel.lines:
                x = [x for x, _ in line.points]
                marker = "o" if len(x) <= _MARKED_POINTS_MAX else None
                axes.plot(x, [y.median for _, y in line.points], marker=marker, markersize=3, label=line.label)
                lows, highs = [y.minimum for _, y in line.points], [y.maximum for _, y in line.points]
                axes.fill_between(x, lows, highs, alpha=0.2)
            axes.set_xscale("log" if panel.log_x else "linear")
            axes.set_yscale("log" if panel.log_y else "linear")
            if not panel.log_y:
                axes.set_ylim(bottom=0)
            axes.grid(visible=True, alpha=0.3)
            axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
