"""The turnstile: how many requests begin in a turn of the event loop, and whose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from treehead.turnstile import BEGUN_PER_TURN, Turnstile

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


class Application:
    """Notes whose requests begin, and in which turn of the loop."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.turns: list[int] = []
        self.turn = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["client"][0] if scope["client"] else "")
        self.turns.append(self.turn)


def asked(turnstile: Turnstile, peers: Sequence[str | None]) -> list[asyncio.Task[None]]:
    async def ask(peer: str | None) -> None:
        await turnstile({"client": None if peer is None else (peer, 40_000)}, None, None)

    return [asyncio.create_task(ask(peer)) for peer in peers]


@pytest.mark.parametrize(
    ("peers", "begun"),
    [
        ([A, A, A, A, B], [A, B, A, A, A]),
        ([A, A, A, B, B, C], [A, B, C, A, B, A]),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3", B], ["2001:db8::1", B, "2001:db8::2", "2001:db8::3"]),
        ([None, None, A], ["", A, ""]),
    ],
)
async def test_addresses_take_turns(peers: Sequence[str | None], begun: Sequence[str]) -> None:
    application = Application()
    await asyncio.gather(*asked(Turnstile(application), peers))
    assert application.begun == begun


async def test_few_requests_begin_in_a_turn_and_all_in_the_end() -> None:
    application = Application()
    tasks = asked(Turnstile(application), [A, B, C] * 5)
    while not all(task.done() for task in tasks):
        application.turn += 1
        await asyncio.sleep(0)
    assert len(application.begun) == 15
    assert max(application.turns.count(turn) for turn in application.turns) == BEGUN_PER_TURN


async def test_a_request_that_was_given_up_does_not_begin_and_keeps_nobody_waiting() -> None:
    application = Application()
    turnstile = Turnstile(application)
    tasks = asked(turnstile, [A, A, B])
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(application.begun) == [A, B]
    await asyncio.gather(*asked(turnstile, [C]))
    assert application.begun[-1] == C
