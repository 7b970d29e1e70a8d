"""Finding entries by a term: all of them, page by page, each proven under the head that the caller brings.

The index of an engine is narrow: it leaves out no entry of a term, and may name some of another term whose key is the
same. By chance that never happens; who means it to can find two such terms, log any number of entries of the one, and
have them all looked at whenever somebody asks for the other. So a call looks at a bounded number of entries, whatever
they are, and says where to go on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from treehead.entry import parse_entry
from treehead.errors import StorageError, TreeheadError
from treehead.lookup import terms_of
from treehead_logserver.config import Limits
from treehead_logserver.heads import Head
from treehead_logserver.prover import Prover
from treehead_logserver.storage.base import Reading, Term

PAGES_LOOKED_AT_MAX = 4
"""Entries that a call looks at for one page, and their bytes, in pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An entry that was found, with its inclusion proof."""

    index: int
    leaf: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Entries in the order of the log: all from the index that was asked for to before `next_index`.

    `more` says that there may be others from there on; otherwise `next_index` is the size of the head.
    """

    hits: tuple[Hit, ...]
    more: bool
    next_index: int


class Finder:
    """Finds entries in one log."""

    def __init__(self, storage: Reading, prover: Prover, limits: Limits) -> None:
        self._storage = storage
        self._prover = prover
        self._limits = limits

    async def find(self, term: Term, *, first_index: int, head: Head) -> Page:
        """A page of the entries with a term, from `first_index` on, in the tree of `head`.

        Each call comes further; a page may yet be empty, even if it is not the last.

        Raises:
            StorageError: an entry or a tile cannot be read.
        """
        async with aclosing(self._candidates(term, first_index, head.size)) as candidates:
            return await self._page(term, candidates, head)

    async def _page(self, term: Term, candidates: AsyncIterator[int], head: Head) -> Page:
        limits = self._limits
        hits: list[Hit] = []
        hits_bytes = looked_at = looked_at_bytes = 0
        async for index in candidates:
            if (
                len(hits) == limits.find_entries_max
                or looked_at >= PAGES_LOOKED_AT_MAX * limits.find_entries_max
                or looked_at_bytes >= PAGES_LOOKED_AT_MAX * limits.page_bytes_max
            ):
                return Page(hits=tuple(hits), more=True, next_index=index)
            leaf = await self._read_leaf(index)
            looked_at += 1
            looked_at_bytes += len(leaf)
            if not _has_term(leaf, term):
                continue
            hits_bytes += len(leaf)
            if hits and hits_bytes > limits.page_bytes_max:
                return Page(hits=tuple(hits), more=True, next_index=index)
            hashes = await self._prover.prove_inclusion(index=index, size=head.size, head=head)
            hits.append(Hit(index=index, leaf=leaf, hashes=hashes))
        return Page(hits=tuple(hits), more=False, next_index=head.size)

    async def _candidates(self, term: Term, first_index: int, end_index: int) -> AsyncGenerator[int, None]:
        """The indices that the engine has for a term: of all its entries, in order, and perhaps of others."""
        while indices := await self._storage.find_term(
            term, first_index=first_index, end_index=end_index, count_max=self._limits.find_entries_max
        ):
            for index in indices:
                yield index
            first_index = indices[-1] + 1

    async def _read_leaf(self, index: int) -> bytes:
        leaves = await self._storage.read_leaves(
            first_index=index, end_index=index + 1, bytes_max=self._limits.chunk_bytes_max
        )
        if not leaves:
            raise StorageError(f"the database has lost entry {index}")
        return leaves[0]


def _has_term(leaf: bytes, term: Term) -> bool:
    """Whether an entry does have a term; a log may hold bytes that are no entry, and have none."""
    try:
        return term in terms_of(parse_entry(leaf))
    except TreeheadError:
        return False
