"""Admission: what a leaf has to be before it may wait for its place in the log.

It is parsed strictly, its signature verifies, and it is hashed: all before the transaction, and on threads of their
own, for checking a signature takes longer than most of what the event loop does and lets other threads run meanwhile.
Who may sign what is not decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from treehead.entry import parse_entry, verify_entry
from treehead.errors import TreeheadError
from treehead.merkle import hash_leaf
from treehead_logserver.backlog import Backlog
from treehead_logserver.config import Limits
from treehead_logserver.storage.base import Candidate, Digest


def admit_leaf(leaf: bytes) -> Candidate:
    """The candidate that a leaf makes.

    Raises:
        MalformedError, UnsupportedError: it is not an entry of a known kind; the message names the field.
        SignatureError: its signature does not verify.
    """
    entry = parse_entry(leaf)
    verify_entry(entry)
    digests = {Digest(*item) for artifact in entry.artifacts for item in artifact.digests.items()}
    return Candidate(leaf=leaf, leaf_hash=hash_leaf(leaf), digests=frozenset(digests))


def _admit(leaves: Sequence[bytes]) -> list[Candidate | TreeheadError]:
    outcomes: list[Candidate | TreeheadError] = []
    for leaf in leaves:
        try:
            outcomes.append(admit_leaf(leaf))
        except TreeheadError as exc:
            outcomes.append(exc)
    return outcomes


class Admission:
    """Admits leaves on a few threads. For one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._threads = limits.admission_threads
        self._pool = ThreadPoolExecutor(limits.admission_threads, thread_name_prefix="admission")
        self._backlog = Backlog(entries_max=limits.queue_entries_max, bytes_max=limits.queue_bytes_max)

    async def admit(self, leaves: Sequence[bytes]) -> list[Candidate | TreeheadError]:
        """For each leaf, in order, the candidate that it makes or the reason why it makes none.

        Raises:
            BusyError: too many wait already.
        """
        self._backlog.enter(leaves)
        share = -(-len(leaves) // self._threads) or 1
        shares = [leaves[at : at + share] for at in range(0, len(leaves), share)]
        loop = asyncio.get_running_loop()
        admitted = asyncio.gather(*(loop.run_in_executor(self._pool, _admit, each) for each in shares))
        admitted.add_done_callback(lambda _: self._backlog.leave(leaves))
        # Shielded, so that the leaves of a caller who went away count for as long as they are in the pool's queue.
        return [outcome for outcomes in await asyncio.shield(admitted) for outcome in outcomes]

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
