"""What a log is held to when its abusers have gone: all that it acknowledged is there, and all it says is so."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc

from tests.abuse.behaved import RETRY_SECONDS
from tests.abuse.record import Told
from tests.fault.load import CALL_SECONDS_MAX
from tests.fault.oracle import LostError, check_clean, check_head, entries
from treehead.merkle import CompactRange, hash_leaf
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

_Answer = TypeVar("_Answer")
_ADDRESS = re.compile("0x[0-9a-f]+")
_DEFECT = "raceback"
"""Of the interpreter, or the member of a line that holds it."""

DEFECT_CHARS = 400
SHOWN_CHARS_MAX = 4_000
HEADS = 8
"""How many heads of all that were handed out the log proves to be prefixes of its newest."""


async def check_log(address: str, told: Told, *, seed: str) -> None:
    """A log that still runs has all that was acknowledged, and all of its heads are of one tree.

    Raises:
        LostError: acknowledged entries are missing, or elsewhere.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub = LogStub(channel)
        leaves = await _patiently(lambda: entries(stub))
        check_entries(told, [hash_leaf(leaf) for leaf in leaves])
        response = await _patiently(
            lambda: stub.GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=CALL_SECONDS_MAX)
        )
        newest = max(told.note_head(response.checkpoint), *told.heads.values(), key=lambda head: head.size)
        rng = random.Random(seed)
        for size in rng.sample(sorted(told.heads), min(HEADS, len(told.heads))):
            await _patiently(partial(check_head, stub, told.heads[size], newest))


async def _patiently(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """The answer, from a log that counts whoever looks into it as one more caller."""
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as exc:
            if exc.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            await asyncio.sleep(RETRY_SECONDS)


def check_entries(told: Told, hashes: Sequence[bytes]) -> None:
    """The log, of which these are the leaf hashes, is what it said it is, and holds nothing that nobody sent.

    Raises:
        LostError: acknowledged entries are missing, or elsewhere.
    """
    lost = [index for index, leaf_hash in told.places.items() if index >= len(hashes) or hashes[index] != leaf_hash]
    if lost:
        raise LostError(
            len(lost), f"{len(lost)} of {len(told.places)} acknowledged entries are lost, the first at {min(lost)}"
        )
    assert len(set(hashes)) == len(hashes), "the log has an entry twice"
    strange = [index for index, leaf_hash in enumerate(hashes) if leaf_hash not in told.submitted]
    assert not strange, f"nobody submitted {len(strange)} of the log's entries, the first at {strange[0]}"
    tree, false = CompactRange(), []
    for size in range(len(hashes) + 1):
        if size:
            tree.append(hashes[size - 1])
        if (head := told.heads.get(size)) is not None and head.root != tree.root():
            false.append(size)
    false += [size for size in told.heads if size > len(hashes)]
    assert not false, f"checkpoints of the sizes {false} were handed out that the log contradicts"


async def check_stopped(data: Path, journal: Path) -> None:
    """A log that was stopped is in good order, and came upon no defect of its own."""
    await check_clean(data)
    if defects := find_defects(journal):
        shown = "\n".join(dict.fromkeys(defects))
        raise AssertionError(f"{len(defects)} defects; these, each once:\n{shown[:SHOWN_CHARS_MAX]}")


def find_defects(journal: Path) -> list[str]:
    """What a journal says of what was not foreseen: for each the end of its traceback."""
    lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
    return [_ADDRESS.sub("0x…", line[-DEFECT_CHARS:]) for line in lines if _DEFECT in line]
