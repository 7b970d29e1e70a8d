"""Following one log: fetch its head, hash every entry into our own tree, and believe the head only if the roots agree.

What is fetched is *progress*: hashed page by page, kept on disk so that a restart need not fetch it again, and bound
to nothing. Only when the tree reaches the size of a signed head and has its root does it become the verified tree, in
one transaction; if the roots differ, all progress is dropped. So whatever counts as verified was bound to a signed
root, and whatever lies beyond the verified size counts for nothing.

When the roots differ twice, the log is asked how its new head relates to our tree. If its own proofs show another root
at our size, the log proves that it forked (E2). Anything less - no answer, a proof that leads nowhere, or one that
confirms our tree - is a suspicion: what was sent may have been damaged on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from treehead.errors import MalformedError, RefusedError, TooLargeError, TreeheadError, UnavailableError, UndecidedError
from treehead.evidence import Evidence, prefix_fork
from treehead.keys import VerifierKey
from treehead.merkle import (
    EMPTY_ROOT,
    NodeId,
    hash_leaf,
    plan_inclusion,
    roots_from_consistency,
)
from treehead.tile import RightEdge, TileId
from treehead_monitor.head import LogHead, LogId, log_id, open_head
from treehead_monitor.source import LogSource


class ContradictedError(RefusedError):
    """What the log sent does not hash to what it signed, and it gave no proof of a fork either."""


class Ledger(Protocol):
    """What an audit reads from and reports to; every method that writes returns when its change is durable."""

    def verified(self, log: LogId) -> tuple[LogHead | None, RightEdge]:
        """The verified head, if there is one yet, and the right edge of the verified tree."""

    def is_misbehaved(self, log: LogId) -> bool:
        """Whether misbehaviour of the log is proven."""

    async def see(self, head: LogHead) -> None:
        """Keep and judge a head that the log served."""

    async def advance(self, head: LogHead, *, edge: RightEdge, tiles: Mapping[TileId, bytes]) -> None:
        """Make `head` the verified one; `tiles` are the full ones that progress did not save."""

    async def confirm(self, log: LogId) -> None:
        """The log still shows the verified head."""

    async def accuse(self, log: LogId, evidence: Evidence) -> None:
        """Keep verified evidence."""

    async def save_progress(self, log: LogId, edge: RightEdge, tiles: Mapping[TileId, bytes]) -> None:
        """Keep hashes that no signed root covers yet."""

    async def drop_progress(self, log: LogId) -> None:
        """Forget them."""


class Audit:
    """The audit of one log, one look after the other."""

    def __init__(
        self,
        *,
        key: VerifierKey,
        source: LogSource,
        ledger: Ledger,
        progress: RightEdge | None,
        page_entries_max: int,
        look_pages_max: int,
        unverified_entries_max: int,
    ) -> None:
        self._key = key
        self._log = log_id(key)
        self._source = source
        self._ledger = ledger
        self._progress = progress
        self._page_entries_max = page_entries_max
        self._look_pages_max = look_pages_max
        self._unverified_entries_max = unverified_entries_max

    async def look(self) -> None:
        """Look at the log once; the verified head is then the one that it shows, unless that is too far for one look.

        Then progress is kept, and the next look takes it up towards the head that is shown by then.

        Nor is there anything to do if its misbehaviour is proven, now or before: there is no one tree left to follow.

        Raises:
            MalformedError, SignatureError, UnsupportedError: it shows no signed checkpoint, or sends no entries.
            ContradictedError: its entries do not hash to the root it signed, which proves nothing yet.
            UnavailableError, RefusedError, UndecidedError: it does not answer.
            StorageError: our own disk failed.
        """
        if self._ledger.is_misbehaved(self._log):
            return
        head = open_head(await self._source.newest_checkpoint(), key=self._key)
        await self._ledger.see(head)
        verified, edge = self._ledger.verified(self._log)
        if self._ledger.is_misbehaved(self._log):
            return
        if verified is None or head.size > edge.size:
            await self._follow(head)
        elif head.digest == verified.digest:
            await self._ledger.confirm(self._log)

    async def _follow(self, head: LogHead) -> None:
        """Grow our tree to the size of `head`, and see whether it has the signed root then."""
        _, verified = self._ledger.verified(self._log)
        if head.size - verified.size > self._unverified_entries_max:
            limit = f"more than {self._unverified_entries_max} entries beyond what is verified"
            raise TooLargeError(f"it signed a head of size {head.size}, {limit}: they are not fetched")
        for _ in range(2):
            fetched = await self._fetch(head.size)
            if fetched is None:
                return
            edge, tiles = fetched
            if edge.root() == head.root:
                await self._ledger.advance(head, edge=edge, tiles=tiles)
                self._progress = None
                return
            self._progress = None
            await self._ledger.drop_progress(self._log)
        try:
            evidence = await self._ask_for_fork(head)
        except (MalformedError, UnavailableError, RefusedError, UndecidedError) as exc:
            wrong = f"its entries do not hash to the root that it signed at size {head.size}"
            raise ContradictedError(f"{wrong}, and that it forked is not proven: {exc}") from exc
        await self._ledger.accuse(self._log, evidence)

    async def _fetch(self, size: int) -> tuple[RightEdge, dict[TileId, bytes]] | None:
        """Our tree grown to `size`, and the full tiles of it that were not saved; None if that takes another look."""
        if self._progress is not None and self._progress.size > size:
            self._progress = None
            await self._ledger.drop_progress(self._log)
        if self._progress is None:
            _, self._progress = self._ledger.verified(self._log)
        edge, unsaved, pages = self._progress, dict[TileId, bytes](), 0
        while edge.size < size:
            if unsaved:
                await self._ledger.save_progress(self._log, edge, unsaved)
                unsaved = {}
            if pages == self._look_pages_max:
                return None
            pages += 1
            before, end = edge.size, min(edge.size + self._page_entries_max, size)
            try:
                async for leaves in self._source.entries(begin=before, end=end):
                    unsaved |= await asyncio.to_thread(_append, edge, leaves)
            except TreeheadError:
                if edge.size > before:
                    await self._ledger.save_progress(self._log, edge, unsaved)
                raise
            if edge.size == before:
                raise MalformedError(f"it sent no entries from {before} on, though it signed a head of size {size}")
        return edge, unsaved

    async def _ask_for_fork(self, head: LogHead) -> Evidence:
        """Evidence from the log's own proofs that `head` does not extend our verified head.

        Raises:
            RefusedError: the proofs do not show that.
            MalformedError, UnavailableError, UndecidedError: there are none.
        """
        verified, edge = self._ledger.verified(self._log)
        size = edge.size
        if verified is None or size == 0:
            raise RefusedError("an empty tree is a prefix of every tree")
        other = EMPTY_ROOT  # stands for nothing: the proof carries the older root, unless the size is a power of two
        if size.bit_count() == 1:
            other = await self._ask_for_prefix_root(head, size)
        path = await self._source.consistency_proof(size1=size, size2=head.size)
        older, _ = roots_from_consistency(size1=size, size2=head.size, root1=other, proof=path)
        return prefix_fork(verified.note, head.note, prefix_root=older, path=path, key=self._key)

    async def _ask_for_prefix_root(self, head: LogHead, size: int) -> bytes:
        """The root that the tree of `head` is said to have at `size`, a power of two.

        Consistency proofs leave it out there. It is the sibling of what begins with leaf `size`, and so is part of the
        inclusion proof of that leaf. The consistency proof will bind it to the signed root.
        """
        plan = plan_inclusion(index=size, size=head.size)
        proof = await self._source.inclusion_proof(index=size, size=head.size)
        if len(proof) != len(plan):
            raise RefusedError(f"its inclusion proof of leaf {size} of {head.size} does not have {len(plan)} hashes")
        return proof[plan.index((NodeId(size.bit_length() - 1, 0),))]


def _append(edge: RightEdge, leaves: Sequence[bytes]) -> dict[TileId, bytes]:
    return {tile: expanded.hashes for tile, expanded in edge.append(map(hash_leaf, leaves)).items()}
