"""A search in a log, page by page, and what each page has to prove before anyone sees it. It does no I/O itself.

Each entry is proven to be in the tree of a checkpoint, does have what was asked for, and comes in its place; each page
goes on where the one before ended, in the same tree or in one that is shown to have grown from it. That there are no
others is what the log says, and nothing here proves it; whoever reads all entries can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from treehead.checkpoint import Checkpoint, parse_checkpoint
from treehead.entry import Entry, parse_entry, verify_entry
from treehead.errors import MalformedError, MisbehaviourError, RefusedError, SignatureError, UnsupportedError
from treehead.evidence import same_size_fork
from treehead.lookup import terms_of
from treehead.merkle import hash_leaf, verify_consistency, verify_inclusion
from treehead.note import parse_note
from treehead.policy import Policy, SignedHead, check_quorum, verify_head
from treehead.v1 import log_pb2
from treehead.wire import hashes_from_wire
from treehead_client.query import Query

EMPTY_PAGES_MAX = 1_024
"""How many pages in a row may have no entry. An honest log has such pages only where somebody took pains over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry that a log was shown to hold at `index`. `entry` is None if it is of a kind not known here."""

    index: int
    entry: Entry | None


class Search:
    """One search: ask with `request`, and give each page to `accept`, until it `is_over`.

    Attributes:
        is_over: there are no more pages; the log says that it left out no entry of the tree of `checkpoint`.
        checkpoint: that of the newest page; None before the first.
        head: the same, as a log of the policy signed it; None without a policy.
    """

    def __init__(self, query: Query, *, policy: Policy | None, peer: str) -> None:
        self.is_over = False
        self.checkpoint: Checkpoint | None = None
        self.head: SignedHead | None = None
        self._query = query
        self._policy = policy
        self._peer = peer
        self._first_index = 0
        self._empty_pages = 0

    def request(self) -> log_pb2.FindEntriesRequest:
        """What asks for the next page."""
        request = log_pb2.FindEntriesRequest(first_index=self._first_index)
        request.MergeFrom(self._query.request)
        return request

    def link_request(self, page: log_pb2.FindEntriesResponse) -> log_pb2.GetConsistencyProofRequest | None:
        """What asks for the consistency proof that `accept` needs for the next page; None if it needs none."""
        size = 0 if self.checkpoint is None else self.checkpoint.size
        if 0 < size < page.tree_size:
            return log_pb2.GetConsistencyProofRequest(first_size=size, second_size=page.tree_size)
        return None

    def accept(self, page: log_pb2.FindEntriesResponse, *, link: Sequence[bytes] = ()) -> tuple[Found, ...]:
        """The entries of the next page, all of them proven; `link` is the consistency proof.

        Raises:
            RefusedError, MalformedError: the page does not prove what it says, or does not go on where the last ended.
            MisbehaviourError: a log of the policy signed two trees of one size.
        """
        checkpoint = self._follow(page, link)
        begun = self._first_index
        found = tuple(self._verified(item, checkpoint) for item in page.entries)
        if not page.more:
            self.is_over = True
            return found
        if not max(self._first_index, begun + 1) <= page.next_index <= checkpoint.size:
            raise self._refused(
                f"says that there are more entries from {page.next_index} on, where this page does not end"
            )
        self._first_index = page.next_index
        self._empty_pages = 0 if found else self._empty_pages + 1
        if self._empty_pages > EMPTY_PAGES_MAX:
            raise self._refused(f"sent {self._empty_pages} pages in a row without an entry, and none that is the last")
        return found

    def _follow(self, page: log_pb2.FindEntriesResponse, link: Sequence[bytes]) -> Checkpoint:
        """The checkpoint of a page, which the policy accepts, of the tree of the last page or one that grew from it."""
        note, head = parse_note(page.checkpoint), None
        if self._policy is None:
            checkpoint = parse_checkpoint(note.text)
        else:
            head = verify_head(self._policy, note)
            check_quorum(self._policy, head.cosigned)
            checkpoint = head.checkpoint
        if page.tree_size != checkpoint.size:
            raise self._refused(f"sent a page of size {page.tree_size} with a checkpoint of size {checkpoint.size}")
        if self.head is not None and head is not None:
            self._compare(self.head, head)
        if (before := self.checkpoint) is not None:
            if checkpoint.size < before.size:
                raise self._refused(f"went back from size {before.size} to size {checkpoint.size}")
            verify_consistency(
                size1=before.size, size2=checkpoint.size, root1=before.root, root2=checkpoint.root, proof=link
            )
        self.checkpoint, self.head = checkpoint, head
        return checkpoint

    def _compare(self, before: SignedHead, head: SignedHead) -> None:
        """Two heads that one server shows are of one log, and those of one size are one head."""
        if head.log != before.log:
            raise self._refused("went on with another log's entries")
        size = head.checkpoint.size
        if size == before.checkpoint.size and head.checkpoint.root != before.checkpoint.root:
            raise MisbehaviourError(
                f"log {head.checkpoint.origin!r} signed two trees of size {size}, shown on two pages of one answer",
                evidence=same_size_fork(before.note, head.note, key=head.log),
            )

    def _verified(self, item: log_pb2.FoundEntry, checkpoint: Checkpoint) -> Found:
        """The next entry of a page: in its place in the tree, and one that was asked for."""
        index = item.leaf_index
        if index < self._first_index:
            raise self._refused(f"sent entry {index} out of order")
        verify_inclusion(
            index=index,
            size=checkpoint.size,
            leaf_hash=hash_leaf(item.leaf),
            proof=hashes_from_wire(item.hashes, what="entries.hashes"),
            root=checkpoint.root,
        )
        self._first_index = index + 1
        return Found(index=index, entry=self._read(item.leaf, index=index))

    def _read(self, leaf: bytes, *, index: int) -> Entry | None:
        """The entry in a leaf: it has what was asked for, and its signature verifies. None if its kind is unknown."""
        try:
            entry = parse_entry(leaf)
        except UnsupportedError:
            return None
        except MalformedError as exc:
            raise self._refused(f"sent entry {index}, which is none: {exc}") from exc
        if self._query.term not in terms_of(entry):
            raise self._refused(f"sent entry {index}, which is not found by {self._query.text!r}")
        try:
            verify_entry(entry)
        except SignatureError as exc:
            raise SignatureError(f"entry {index}: {exc}") from exc
        return entry

    def _refused(self, what: str) -> RefusedError:
        return RefusedError(f"{self._peer} {what}")
