"""Distributions within a round, and spreads over rounds.

One figure says little on a shared machine: within a round, latencies are kept one by one and told as percentiles;
over rounds, a figure is its median with the smallest and largest beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long calls took. Percentiles are the nearest rank above: a value that was measured, never one between two."""

    count: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def latency_of(seconds: Sequence[float]) -> Latency:
    """The distribution of some durations, at least one."""
    ordered = sorted(seconds)
    return Latency(
        count=len(ordered),
        mean_ms=statistics.fmean(ordered) * 1_000,
        p50_ms=_percentile(ordered, 500),
        p99_ms=_percentile(ordered, 990),
        p999_ms=_percentile(ordered, 999),
        max_ms=ordered[-1] * 1_000,
    )


def _percentile(ordered: Sequence[float], per_mille: int) -> float:
    return ordered[min(len(ordered) * per_mille // 1_000, len(ordered) - 1)] * 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over the rounds of a run."""

    median: float
    minimum: float
    maximum: float
    rounds: tuple[float, ...]


def spread(rounds: Sequence[float]) -> Spread:
    """The spread of a figure that each round measured, of at least one round."""
    return Spread(median=statistics.median(rounds), minimum=min(rounds), maximum=max(rounds), rounds=tuple(rounds))
