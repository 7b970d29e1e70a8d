"""A short, seeded slice of the soak (`python -m bench.soak`): under mixed load, nothing that the log keeps grows on.

What is asserted is memory and disk, never time. Some growth is no leak: SQLite's page caches fill up with what is
added.
"""

from __future__ import annotations

from pathlib import Path

import grpc

from bench.rig.mixture import Mixture
from bench.rig.process import Usage
from bench.rig.server import LogServer, create_log
from treehead.wire import CHANNEL_OPTIONS

SEED = 20_261_122
CALLERS = 4
WARM_UP_CALLS = 1_500
CALLS = 2 * WARM_UP_CALLS
RSS_RISE_BYTES_MAX = 16 * 1_048_576
"""Of this, what is cached of the new entries takes some 10 MiB; to keep 2 KiB of each call is too much."""
WAL_BYTES_MAX = 20 * 1_048_576
"""The log lets 16 MiB wait; these calls write some 30."""
FILES_RISE_MAX = 4
THREADS_RISE_MAX = 4


async def test_mixed_load_leaves_memory_and_write_ahead_log_bounded(tmp_path: Path) -> None:
    await create_log(tmp_path / "log")
    async with (
        LogServer(tmp_path / "log") as server,
        grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel,
    ):
        mixture = Mixture(channel, server.vkey, seed=SEED)
        await mixture.run(callers=CALLERS, calls=WARM_UP_CALLS)
        warm: Usage = server.usage()
        await mixture.run(callers=CALLERS, calls=CALLS)
        end: Usage = server.usage()
        assert end.rss_bytes - warm.rss_bytes <= RSS_RISE_BYTES_MAX
        assert end.descriptors - warm.descriptors <= FILES_RISE_MAX
        assert end.threads - warm.threads <= THREADS_RISE_MAX
        assert server.wal_bytes() <= WAL_BYTES_MAX
    assert mixture.done.total() == WARM_UP_CALLS + CALLS
    assert len(mixture.done) >= len(mixture.operations), "some kind of call was never made"
    assert mixture.done["refused"] == 0
