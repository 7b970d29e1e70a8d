"""A log that is killed at random moments under load keeps its promises: what was acknowledged stays, and no head lies.

The seed decides who submits what and after how many answers the log is killed. What the log was doing at that moment is
up to the machine. This one needs nothing but Python; `test_faults` aims at the single steps of a log.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import grpc

from tests.fault.ledger import Ledger
from tests.fault.load import EVENT_SECONDS_MAX, Load, Pool, newest_head, submit_batch
from tests.fault.oracle import check_entry, check_head, check_service
from tests.processes import LogProcess, create_log
from treehead.keys import parse_vkey
from treehead.v1.log_pb2_grpc import LogStub

SEED = 20_261_122
KILLS = 10
SUBMITTERS = 64
ANSWERS_MAX = 120
"""The log is killed after 1 to this many answers, of which every fourth is for a batch."""
SAMPLE = 200
BATCH_ENTRIES = 500


async def kill_under_load(log: LogProcess, load: Load, *, kill: int) -> None:
    """Put the log under load, and kill it at a random moment."""
    rng = random.Random(f"{SEED}:{kill}")
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(EVENT_SECONDS_MAX):
        tasks.create_task(load.run(log.address, over, seed=f"{SEED}:{kill}", submitters=SUBMITTERS))
        await load.answers(rng.randint(1, ANSWERS_MAX))
        await asyncio.sleep(rng.random() * 0.005)  # the commits do not wait for our count
        await log.kill()
        over.set()


async def check_all(log: LogProcess, ledger: Ledger, rng: random.Random) -> None:
    """Every head is a prefix, every entry known when it is submitted again, and many are proven and found."""
    async with grpc.aio.insecure_channel(log.address) as channel:
        stub = LogStub(channel)
        newest = await newest_head(stub, ledger)
        for size in sorted(ledger.heads):
            await check_head(stub, ledger.heads[size], newest)
        leaves = list(ledger.index_of)
        for at in range(0, len(leaves), BATCH_ENTRIES):
            response = await submit_batch(stub, ledger, leaves[at : at + BATCH_ENTRIES])
            assert all(result.added.duplicate for result in response.results)
        for leaf in rng.sample(leaves, min(SAMPLE, len(leaves))):
            await check_entry(stub, ledger, leaf, ledger.index_of[leaf])


async def test_a_log_killed_ten_times_under_load_keeps_every_promise(tmp_path: Path, pool: Pool) -> None:
    rng = random.Random(SEED)
    ledger = Ledger(vkey=parse_vkey(await create_log(tmp_path / "log", origin="log.example/killed")))
    load = Load(ledger=ledger, pool=pool)
    log = LogProcess(tmp_path / "log")
    for kill in range(KILLS):
        async with log:
            await check_service(log, load, rng)
            await kill_under_load(log, load, kill=kill)
    async with log:
        await check_service(log, load, rng)
        await check_all(log, ledger, rng)
        assert await log.stop() == 0
    assert len(ledger.leaf_at) > KILLS
