"""The newest head, and waiting for the next one."""

from __future__ import annotations

import asyncio

import pytest

from treehead_logserver.heads import Head, Heads


def head(size: int) -> Head:
    return Head(size=size, checkpoint=b"%d" % size, edge={})


async def test_who_waits_gets_the_next_head() -> None:
    heads = Heads(head(1))
    waiting = asyncio.create_task(heads.after(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    heads.release(head(2))
    assert await waiting is heads.newest


async def test_who_is_behind_gets_the_newest_at_once_and_not_all() -> None:
    heads = Heads(head(1))
    for size in (2, 3, 4):
        heads.release(head(size))
    assert await heads.after(1) == head(4)


async def test_who_waits_for_a_larger_head_goes_on_waiting() -> None:
    heads = Heads(head(1))
    waiting = asyncio.create_task(heads.after(5))
    for size in (3, 5):
        heads.release(head(size))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    heads.release(head(6))
    assert await waiting == head(6)


async def test_all_who_wait_are_woken() -> None:
    heads = Heads(head(0))
    waiting = [asyncio.create_task(heads.after(0)) for _ in range(20)]
    await asyncio.sleep(0)
    heads.release(head(1))
    assert await asyncio.gather(*waiting) == [head(1)] * 20


async def test_closing_wakes_who_waits_and_hides_no_head() -> None:
    heads = Heads(head(1))
    waiting = asyncio.create_task(heads.after(1))
    await asyncio.sleep(0)
    heads.close()
    assert await waiting is None
    assert await heads.after(1) is None
    assert await heads.after(0) == head(1)


@pytest.mark.parametrize("size", [0, 4, 5])
async def test_a_head_never_goes_back(size: int) -> None:
    heads = Heads(head(5))
    with pytest.raises(ValueError, match="does not follow"):
        heads.release(head(size))
    assert heads.newest == head(5)
