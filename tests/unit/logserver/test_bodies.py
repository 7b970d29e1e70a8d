"""Bodies of requests: how much of them is held at a time, and that what was counted is free again however they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from treehead.errors import TooLargeError, TreeheadError
from treehead_logserver.backlog import BusyError, QuotaError
from treehead_logserver.http.bodies import SHORT_BODY_BYTES_MAX, Bodies
from treehead_logserver.http.errors import MediaTypeError
from treehead_logserver.quota import Quotas, Rates, parse_rate

UNBOUNDED = Quotas(Rates())
LONG = SHORT_BODY_BYTES_MAX + 1
BODY_BYTES_MAX = 10 * LONG


class Caller:
    """A request whose body comes when the test says so, and who reads it."""

    def __init__(self, bodies: Bodies, **headers: str) -> None:
        self._arriving: asyncio.Queue[Message] = asyncio.Queue()
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "headers": fields, "client": ("192.0.2.1", 1)}
        self.request = Request(scope, self._arriving.get)
        self.bodies = bodies
        self.done = asyncio.Event()
        """Set when what was read may be let go."""
        self.problem: TreeheadError | None = None
        """What is wrong with it then."""

    def send(self, data: bytes, *, more: bool = True) -> None:
        self._arriving.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def hang_up(self) -> None:
        self._arriving.put_nowait({"type": "http.disconnect"})

    async def read(self) -> bytes:
        async with self.bodies.read(self.request, bytes_max=BODY_BYTES_MAX, what="request") as body:
            await self.done.wait()
            if self.problem is not None:
                raise self.problem
            return body


@contextlib.asynccontextmanager
async def reading(caller: Caller) -> AsyncIterator[asyncio.Task[bytes]]:
    task = asyncio.create_task(caller.read())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def counted(bodies: Bodies, expected: int) -> None:
    """Returns when so much is counted."""
    async with asyncio.timeout(10):
        while bodies.counted_bytes != expected:  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0)


async def test_a_long_body_is_counted_as_it_comes_and_until_it_was_read() -> None:
    bodies = Bodies(bytes_max=BODY_BYTES_MAX, quotas=UNBOUNDED)
    caller = Caller(bodies)
    async with reading(caller) as task:
        caller.send(bytes(LONG))
        await counted(bodies, LONG)
        caller.send(b"xyz", more=False)
        await counted(bodies, LONG + 3)
        caller.done.set()
        assert await task == bytes(LONG) + b"xyz"
        assert bodies.counted_bytes == 0


async def test_a_body_for_which_there_is_no_room_is_turned_away_and_the_others_are_not() -> None:
    bodies = Bodies(bytes_max=2 * LONG, quotas=UNBOUNDED)
    first, second, third = Caller(bodies), Caller(bodies), Caller(bodies)
    async with reading(first) as kept, reading(second) as also_kept, reading(third) as refused:
        for caller in (first, second):
            caller.send(bytes(LONG))
        await counted(bodies, 2 * LONG)
        third.send(bytes(LONG))
        with pytest.raises(BusyError, match="busy"):
            await asyncio.wait_for(refused, 10)
        assert bodies.counted_bytes == 2 * LONG
        for caller in (first, second):
            caller.send(b"", more=False)
            caller.done.set()
        assert await kept == await also_kept == bytes(LONG)


async def test_short_bodies_are_taken_even_when_there_is_no_room() -> None:
    bodies = Bodies(bytes_max=LONG, quotas=UNBOUNDED)
    long, short = Caller(bodies), Caller(bodies)
    async with reading(long), reading(short) as task:
        long.send(bytes(LONG))
        await counted(bodies, LONG)
        short.send(bytes(SHORT_BODY_BYTES_MAX), more=False)
        short.done.set()
        assert len(await task) == SHORT_BODY_BYTES_MAX


async def test_what_a_request_says_that_it_will_send_takes_no_room() -> None:
    bodies = Bodies(bytes_max=LONG, quotas=UNBOUNDED)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(reading(Caller(bodies, content_length=str(LONG))))
        caller = Caller(bodies, content_length=str(LONG))
        task = await stack.enter_async_context(reading(caller))
        caller.send(bytes(LONG), more=False)
        caller.done.set()
        assert len(await task) == LONG


async def test_who_hangs_up_gives_back_what_was_counted() -> None:
    bodies = Bodies(bytes_max=LONG, quotas=UNBOUNDED)
    caller = Caller(bodies)
    async with reading(caller) as task:
        caller.send(bytes(LONG))
        await counted(bodies, LONG)
        caller.hang_up()
        with pytest.raises(ClientDisconnect):
            await task
        assert bodies.counted_bytes == 0


async def test_a_request_that_is_given_up_gives_back_what_was_counted() -> None:
    bodies = Bodies(bytes_max=LONG, quotas=UNBOUNDED)
    caller = Caller(bodies)
    async with reading(caller) as task:
        caller.send(bytes(LONG))
        await counted(bodies, LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bodies.counted_bytes == 0


async def test_a_body_that_turns_out_too_large_gives_back_what_was_counted() -> None:
    bodies = Bodies(bytes_max=2 * BODY_BYTES_MAX, quotas=UNBOUNDED)
    caller = Caller(bodies)
    async with reading(caller) as task:
        caller.send(bytes(LONG))
        await counted(bodies, LONG)
        caller.send(bytes(BODY_BYTES_MAX))
        with pytest.raises(TooLargeError, match=f"request is larger than {BODY_BYTES_MAX} bytes"):
            await task
        assert bodies.counted_bytes == 0


async def test_a_body_that_cannot_be_parsed_gives_back_what_was_counted() -> None:
    bodies = Bodies(bytes_max=LONG, quotas=UNBOUNDED)
    caller = Caller(bodies)
    caller.problem = TreeheadError("no request")
    async with reading(caller) as task:
        caller.send(bytes(LONG), more=False)
        await counted(bodies, LONG)
        caller.done.set()
        with pytest.raises(TreeheadError, match="no request"):
            await task
        assert bodies.counted_bytes == 0


@pytest.mark.parametrize("declared", ["0", "3", "03", "0" * 30 + "3", str(BODY_BYTES_MAX)])
async def test_a_declared_length_within_the_bound_may_have_leading_zeros(declared: str) -> None:
    caller = Caller(Bodies(bytes_max=LONG, quotas=UNBOUNDED), content_length=declared)
    caller.send(b"abc", more=False)
    caller.done.set()
    assert await caller.read() == b"abc"


@pytest.mark.parametrize("declared", [str(BODY_BYTES_MAX + 1), "0" + str(BODY_BYTES_MAX + 1), "9" * 30])
async def test_a_declared_length_beyond_the_bound_is_refused_unread(declared: str) -> None:
    with pytest.raises(TooLargeError):
        await Caller(Bodies(bytes_max=LONG, quotas=UNBOUNDED), content_length=declared).read()


async def test_a_compressed_body_is_refused_unread() -> None:
    with pytest.raises(MediaTypeError):
        await Caller(Bodies(bytes_max=LONG, quotas=UNBOUNDED), content_encoding="gzip").read()


async def test_a_long_body_counts_as_so_many_requests_as_it_is_long() -> None:
    quotas = Quotas(Rates(requests=parse_rate("3/h", what="rate")))
    quotas.charge_request(lambda: "192.0.2.1")  # as for any request
    caller = Caller(Bodies(bytes_max=BODY_BYTES_MAX, quotas=quotas))
    caller.send(bytes(3 * SHORT_BODY_BYTES_MAX), more=True)
    caller.send(b"x", more=False)
    with pytest.raises(QuotaError, match=r"rule admission\.rates\.requests"):
        await caller.read()
    quotas.charge_request(lambda: "192.0.2.2")
