"""A disk that is full when a commit is written: nobody is told of an entry logged, and a restart finds the truth."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import grpc
import pytest

from tests.processes import LogProcess, create_log
from tests.unit.library.specimens import hashedrekord_leaf
from treehead.checkpoint import open_checkpoint
from treehead.keys import parse_vkey
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

CALL_SECONDS_MAX = 30


def limit_file_sizes(pid: int, size_bytes: int) -> None:
    """Let a process's writes beyond a size fail, as they do on a full disk."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


def wal_bytes(data: Path) -> int:
    return (data / "log.sqlite-wal").stat().st_size


async def add(address: str, leaf: bytes) -> log_pb2.AddEntryResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        return await LogStub(channel).AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=CALL_SECONDS_MAX)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the files of another process")
async def test_a_log_whose_commit_fails_stops_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    vkey = parse_vkey(await create_log(tmp_path / "log", origin="log.example/full"))
    first, second = hashedrekord_leaf(b"first"), hashedrekord_leaf(b"second")
    log = LogProcess(tmp_path / "log")
    async with log:
        await add(log.address, first)
        limit_file_sizes(log.pid, wal_bytes(log.data))
        with pytest.raises(grpc.aio.AioRpcError, match="try again") as caught:
            await add(log.address, second)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await log.wait() == 1
    complaint = log.stderr.splitlines()[-1]
    assert complaint.startswith("treehead-log: ")
    assert "the commit failed" in complaint
    assert "Traceback" not in log.stderr
    async with log:
        responses = [await add(log.address, leaf) for leaf in (first, second)]
        assert [response.proof.leaf_index for response in responses] == [0, 1]
        assert responses[0].duplicate
        assert open_checkpoint(responses[1].proof.checkpoint, key=vkey).size == 2
        assert await log.stop() == 0
