"""All abuses by name, in four classes, and the addresses that each comes from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.abuse import flooding, malformed, oversized, slow
from tests.abuse.scene import Scene

ADDRESSES = 2
"""For each class: a handful in all. Who has thousands is not held by rates, nor by anything else on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abuse:
    """Something that is done to a log for as long as it can be, and where from."""

    name: str
    run: Callable[[Scene], Awaitable[None]]
    sources: Sequence[str]


_RUNS: dict[str, Sequence[Callable[[Scene], Awaitable[None]]]] = {
    "oversized": (oversized.http_bodies, oversized.largest, oversized.grpc_messages, oversized.gzip_bombs),
    "malformed": (
        malformed.random_bytes,
        malformed.broken_http,
        malformed.broken_http2,
        malformed.header_bombs,
        malformed.invalid_messages,
        malformed.invalid_entries,
    ),
    "slow": (
        slow.slow_heads,
        slow.slow_bodies,
        slow.unread_answers,
        slow.idle_connections,
        slow.unread_streams,
        slow.slow_messages,
    ),
    "flooding": (
        flooding.http_gets,
        flooding.http_adds,
        flooding.grpc_adds,
        flooding.grpc_reads,
        flooding.churn,
        flooding.resets,
        flooding.pings,
        flooding.many_settings,
        flooding.empty_frames,
    ),
}
CLASSES: dict[str, tuple[Abuse, ...]] = {
    name: tuple(
        Abuse(
            name=run.__name__.replace("_", "-"),
            run=run,
            sources=[f"127.0.{number}.{address}" for address in range(1, ADDRESSES + 1)],
        )
        for run in runs
    )
    for number, (name, runs) in enumerate(_RUNS.items(), start=1)
}
ABUSES = {abuse.name: abuse for abuses in CLASSES.values() for abuse in abuses}
