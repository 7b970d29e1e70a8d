"""What a log said to its submitters and watchers: what it is held to, however it was treated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.keys import VerifierKey
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.v1 import log_pb2


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What the log told its submitters and watchers, over all its lives.

    Attributes:
        index_of, leaf_at: the acknowledged entries.
        heads: the checkpoints that were handed out, by their sizes.
        submitted: every leaf that was ever sent.
        unanswered: leaves that were sent and got no answer, so that they may be in the log or not.
        answers, refusals: calls that were answered, and that were told to try again.
    """

    vkey: VerifierKey
    index_of: dict[bytes, int] = field(default_factory=dict)
    leaf_at: dict[int, bytes] = field(default_factory=dict)
    heads: dict[int, Checkpoint] = field(default_factory=dict)
    submitted: set[bytes] = field(default_factory=set)
    unanswered: list[bytes] = field(default_factory=list)
    answers: int = 0
    refusals: int = 0
    _placed: set[bytes] = field(default_factory=set)
    _opened: dict[bytes, Checkpoint] = field(default_factory=dict)

    def copy(self) -> Ledger:
        """A ledger that goes on from here by itself."""
        return Ledger(
            vkey=self.vkey,
            index_of=dict(self.index_of),
            leaf_at=dict(self.leaf_at),
            heads=dict(self.heads),
            submitted=set(self.submitted),
            unanswered=list(self.unanswered),
            _placed=set(self._placed),
            _opened=dict(self._opened),
        )

    def note_head(self, data: bytes) -> Checkpoint:
        """Keep a checkpoint that was handed out; two of one size must be equal."""
        checkpoint = self._opened.get(data)
        if checkpoint is None:
            checkpoint = self._opened[data] = open_checkpoint(data, key=self.vkey)
            assert self.heads.setdefault(checkpoint.size, checkpoint) == checkpoint
        return checkpoint

    def note_answer(self, leaf: bytes, response: log_pb2.AddEntryResponse) -> None:
        """Keep an acknowledged entry, after checking its proof and that no other entry has its index."""
        checkpoint = self.note_head(response.proof.checkpoint)
        verify_inclusion(
            index=response.proof.leaf_index,
            size=checkpoint.size,
            leaf_hash=hash_leaf(leaf),
            proof=response.proof.hashes,
            root=checkpoint.root,
        )
        self._note(leaf, index=response.proof.leaf_index, duplicate=response.duplicate)
        self.answers += 1

    def note_batch(self, leaves: Sequence[bytes], response: log_pb2.AddEntriesResponse) -> None:
        """Keep the acknowledged entries of a batch, which must be in the tree of its checkpoint."""
        checkpoint = self.note_head(response.checkpoint)
        for leaf, result in zip(leaves, response.results, strict=True):
            assert result.WhichOneof("outcome") == "added", result.refused.reason
            assert result.added.leaf_index < checkpoint.size, "an entry was acknowledged with a tree that has it not"
            self._note(leaf, index=result.added.leaf_index, duplicate=result.added.duplicate)
        self.answers += 1

    def _note(self, leaf: bytes, *, index: int, duplicate: bool) -> None:
        if not duplicate:
            assert leaf not in self._placed, f"the leaf at index {index} became an entry twice"
            self._placed.add(leaf)
        assert self.index_of.setdefault(leaf, index) == index, "a leaf has two indices"
        assert self.leaf_at.setdefault(index, leaf) == leaf, f"index {index} has two leaves"
