"""Finding entries: all of a term and no others, whatever the index confuses, in pages and calls of bounded work."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from tests.unit.library.specimens import (
    CONTENT,
    P256_PUBLISHER,
    PUBLISHER,
    STRANGER,
    Tree,
    attestation_leaf,
    digests,
    hashedrekord_leaf,
    release,
)
from tests.unit.logserver.directory import ANYTHING
from tests.unit.logserver.parts import Parts, create, parts
from treehead.errors import StorageError
from treehead.lookup import digest_term, name_term, purl_term, signer_term
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.statement import format_release_statement
from treehead_logserver.config import Limits
from treehead_logserver.finder import PAGES_LOOKED_AT_MAX, Finder, Page
from treehead_logserver.heads import Head
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.storage import lookups, sqlite
from treehead_logserver.storage.base import Candidate, Term

LIMITS = Limits(find_entries_max=5)


def attestations(count: int, *, name: str = "acme-tool") -> list[bytes]:
    """Releases of one package by two signers, of which every third has the same bytes."""
    leaves = []
    for number in range(count):
        content = CONTENT if number % 3 == 0 else b"content %d" % number
        what = release(name=name, version=f"1.{number}", filename=f"{name}-1.{number % 7}.zip")
        payload = format_release_statement(what, digests=digests(content))
        leaves.append(attestation_leaf(payload, signer=STRANGER if number % 5 == 0 else PUBLISHER))
    return leaves


def mixed(count: int) -> list[bytes]:
    """Entries of both kinds, of two packages, and bytes that are no entry."""
    kinds: list[Sequence[bytes]] = [
        attestations(count),
        attestations(count, name="other"),
        [hashedrekord_leaf(b"signed %d" % number) for number in range(count)],
        [b"opaque %d" % number for number in range(count)],
    ]
    return [leaves[number] for number in range(count) for leaves in kinds]


def admitted(leaves: Sequence[bytes]) -> list[Candidate]:
    return [admit_leaf(leaf, rules=ANYTHING) for leaf in leaves]


@contextlib.asynccontextmanager
async def logged(folder: Path, leaves: Sequence[bytes]) -> AsyncIterator[Parts]:
    """A log of these leaves."""
    limits = Limits(commit_entries_max=1_024, queue_entries_max=100_000)
    async with parts(create(folder), limits=limits) as log:
        candidates = admitted(leaves)
        for at in range(0, len(candidates), 50):
            await log.sequencer.submit(candidates[at : at + 50])
        yield log


@pytest.fixture
def _narrow_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that tells few terms apart, as if somebody had made all of them collide."""
    key_of_term = lookups.key_of_term

    def narrow(term: Term) -> int:
        return key_of_term(term) % 3

    for module in (lookups, sqlite):
        monkeypatch.setattr(module, "key_of_term", narrow)
    monkeypatch.setattr(lookups, "RUN_PAIRS_MAX", 100)


async def pages_of(finder: Finder, term: Term, head: Head, *, first_index: int = 0) -> list[Page]:
    """All pages; each call comes further."""
    pages: list[Page] = []
    while not pages or pages[-1].more:
        pages.append(await finder.find(term, first_index=first_index, head=head))
        indices = [hit.index for hit in pages[-1].hits]
        assert indices == sorted(set(indices))
        assert all(first_index <= index < pages[-1].next_index for index in indices)
        assert first_index < pages[-1].next_index or not pages[-1].more
        first_index = pages[-1].next_index
    assert first_index == head.size
    return pages


def check_proofs(pages: Sequence[Page], leaves: Sequence[bytes], root: bytes) -> None:
    for hit in (hit for page in pages for hit in page.hits):
        assert hit.leaf == leaves[hit.index]
        verify_inclusion(index=hit.index, size=len(leaves), leaf_hash=hash_leaf(hit.leaf), proof=hit.hashes, root=root)


TERMS = [
    digest_term("sha256", digests(CONTENT)["sha256"]),
    digest_term("sha512", digests(b"content 7")["sha512"]),
    digest_term("sha256", sha256(b"signed 8").digest()),
    digest_term("sha256", bytes(32)),
    name_term("other-1.3.zip"),
    purl_term("pkg:pypi/acme-tool"),
    purl_term("pkg:pypi/acme-tool@1.4"),
    purl_term("pkg:pypi/acme"),
    signer_term(PUBLISHER.public.spki),
    signer_term(STRANGER.public.spki),
    signer_term(P256_PUBLISHER.public.spki),
]


async def check_all(folder: Path) -> int:
    """Every term is found as by reading all entries, and every hit is proven; returns how many pages were empty."""
    leaves = mixed(30)
    candidates = admitted(leaves)
    root, empty = Tree(leaves).root(), 0
    async with logged(folder, leaves) as log:
        finder = Finder(log.storage, log.prover, LIMITS)
        for term in TERMS:
            pages = await pages_of(finder, term, log.heads.newest)
            assert [hit.index for page in pages for hit in page.hits] == [
                index for index, candidate in enumerate(candidates) if term in candidate.terms
            ]
            assert all(len(page.hits) <= LIMITS.find_entries_max for page in pages)
            check_proofs(pages, leaves, root)
            empty += sum(not page.hits for page in pages[:-1])
    return empty


async def test_every_entry_of_a_term_is_found_and_proven_and_no_other(tmp_path: Path) -> None:
    assert await check_all(tmp_path) == 0, "nothing collides by chance"


@pytest.mark.usefixtures("_narrow_keys")
async def test_entries_of_terms_that_collide_are_told_apart(tmp_path: Path) -> None:
    assert await check_all(tmp_path) > 0, "no call came to its bound, so the test shows too little"


class Counting:
    """Counts the entries that are read from a storage."""

    def __init__(self, log: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[bytes] = []
        self._read_leaves = log.storage.read_leaves
        monkeypatch.setattr(log.storage, "read_leaves", self.read_leaves)

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
        leaves = await self._read_leaves(first_index=first_index, end_index=end_index, bytes_max=bytes_max)
        self.reads += leaves
        return leaves


async def test_a_term_of_very_many_entries_takes_no_more_work_for_a_page_than_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = [hashedrekord_leaf(b"signed %d" % number) for number in range(3_000)]
    async with logged(tmp_path, leaves) as log:
        finder, counting = Finder(log.storage, log.prover, Limits()), Counting(log, monkeypatch)
        for first_index in (0, 1_234, 2_900):
            counting.reads.clear()
            page = await finder.find(
                signer_term(P256_PUBLISHER.public.spki), first_index=first_index, head=log.heads.newest
            )
            assert [hit.index for hit in page.hits] == list(range(first_index, first_index + 64))
            assert (page.more, page.next_index) == (True, first_index + 64)
            assert len(counting.reads) == 64


@pytest.mark.usefixtures("_narrow_keys")
async def test_however_many_entries_collide_a_call_looks_at_a_few_pages_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = [hashedrekord_leaf(b"signed %d" % number) for number in range(600)]
    absent = digest_term("sha256", bytes(32))
    async with logged(tmp_path, leaves) as log:
        counting, head = Counting(log, monkeypatch), log.heads.newest
        finder = Finder(log.storage, log.prover, LIMITS)
        first_index = 0
        while (page := await finder.find(absent, first_index=first_index, head=head)).more:
            assert page.hits == ()
            assert len(counting.reads) == PAGES_LOOKED_AT_MAX * LIMITS.find_entries_max
            assert page.next_index > first_index
            counting.reads.clear()
            first_index = page.next_index
        assert first_index > 100
        small = Limits(page_bytes_max=3 * len(leaves[0]))
        counting.reads.clear()
        page = await Finder(log.storage, log.prover, small).find(absent, first_index=0, head=head)
        assert page.more
        assert sum(map(len, counting.reads)) <= PAGES_LOOKED_AT_MAX * small.page_bytes_max + len(leaves[0])


async def test_a_page_has_a_bound_in_bytes_and_holds_one_entry_at_least(tmp_path: Path) -> None:
    leaves = attestations(9)
    package = purl_term("pkg:pypi/acme-tool")
    largest = max(map(len, leaves))
    async with logged(tmp_path, leaves) as log:
        for bytes_max, most in ((1, 1), (2 * largest, 2), (4 * largest, 4)):
            finder = Finder(log.storage, log.prover, Limits(page_bytes_max=bytes_max))
            pages = await pages_of(finder, package, log.heads.newest)
            assert max(len(page.hits) for page in pages) == most
            assert all(page.hits for page in pages)
            assert sum(len(page.hits) for page in pages) == len(leaves)


async def test_what_is_beyond_the_head_is_not_found(tmp_path: Path) -> None:
    leaves = attestations(20)
    package = purl_term("pkg:pypi/acme-tool")
    async with parts(create(tmp_path)) as log:
        await log.sequencer.submit(admitted(leaves[:12]))
        older = log.heads.newest
        await log.sequencer.submit(admitted(leaves[12:]))
        finder = Finder(log.storage, log.prover, LIMITS)
        pages = await pages_of(finder, package, older)
        assert [hit.index for page in pages for hit in page.hits] == list(range(12))
        check_proofs(pages, leaves[:12], Tree(leaves[:12]).root())
        assert await finder.find(package, first_index=12, head=older) == Page(hits=(), more=False, next_index=12)


async def test_an_entry_that_the_database_has_lost_is_said_to_be_and_not_left_out(tmp_path: Path) -> None:
    async with logged(tmp_path, attestations(3)) as log:
        with contextlib.closing(sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)) as connection:
            connection.execute("delete from entries where leaf_index = 1")
        with pytest.raises(StorageError, match="lost entry 1"):
            await Finder(log.storage, log.prover, LIMITS).find(
                purl_term("pkg:pypi/acme-tool"), first_index=0, head=log.heads.newest
            )
