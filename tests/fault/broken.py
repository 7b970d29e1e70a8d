"""Storages that break the contract on purpose, around one that keeps it: what must not get past the tests.

Everything but `append` is the storage's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from treehead_logserver.storage.base import Candidate, Extend, Extension, Placed, Settle, Storage

DELAY_SECONDS = 0.02


class Whole:
    """Breaks nothing: shows that the others fail for what they do, and not for being wrapped."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class _Hasty(Whole):
    """Answers from memory; the last append is held."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._turn = asyncio.Lock()
        self._held: tuple[Sequence[Candidate], Extension, Settle] | None = None

    async def append(self, candidates: Sequence[Candidate], extend: Extend, settle: Settle) -> Sequence[Placed]:
        async with self._turn:
            await self._write_held()
            next_index = (await self._storage.read_state()).size
            placed, fresh = [], []
            for candidate in candidates:
                known = await self._storage.find_leaf(candidate.leaf_hash)
                if known is None:
                    fresh.append(candidate)
                    placed.append(Placed(next_index + len(fresh) - 1, duplicate=False))
                else:
                    placed.append(Placed(known, duplicate=True))
            if fresh:
                extension = extend(next_index, [candidate.leaf_hash for candidate in fresh])
                self._held = fresh, extension, settle
            return placed

    async def _write_held(self) -> None:
        if self._held is not None:
            candidates, extension, settle = self._held
            self._held = None
            await self._storage.append(candidates, lambda _size, _hashes: extension, settle)


class DropsTheLastWrite(_Hasty):
    """Writes what was appended when the next append comes, so that nobody sees the last one again."""


class AnswersBeforeTheCommit(_Hasty):
    """Writes what was appended a moment after it has answered."""

    async def append(self, candidates: Sequence[Candidate], extend: Extend, settle: Settle) -> Sequence[Placed]:
        placed = await super().append(candidates, extend, settle)
        self._writing = asyncio.create_task(self._write_later())
        return placed

    async def _write_later(self) -> None:
        await asyncio.sleep(DELAY_SECONDS)
        async with self._turn:
            await self._write_held()

    async def close(self) -> None:
        try:
            async with self._turn:
                await self._write_held()
        finally:
            await self._storage.close()


class SwapsTwoEntries(Whole):
    """Writes the first two entries of a batch in each other's place."""

    async def append(self, candidates: Sequence[Candidate], extend: Extend, settle: Settle) -> Sequence[Placed]:
        if len(candidates) > 1:
            first, second, *others = candidates
            candidates = [first._replace(leaf=second.leaf), second._replace(leaf=first.leaf), *others]
        return await self._storage.append(candidates, extend, settle)


BROKEN: dict[str, type[Whole]] = {
    "drops_the_last_write": DropsTheLastWrite,
    "answers_before_the_commit": AnswersBeforeTheCommit,
    "swaps_two_entries": SwapsTwoEntries,
}


def broken(kind: type[Whole]) -> Callable[[Storage], Storage]:
    """What makes a storage a broken one."""
    return lambda storage: cast("Storage", kind(storage))
