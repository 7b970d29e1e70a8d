"""What the load generator checks: every answer, and at the end the whole log.

An answer counts only when it proves what was asked for: the signature of its checkpoint (once for each distinct one),
and the inclusion of each entry for which there is a proof. The answers to batches and to `POST /add` hold no proofs; so
at the end the generator makes the tree of everything that was acknowledged itself, and compares its root with the one
that the log signs.
"""

from __future__ import annotations

from collections import OrderedDict

from bench.rig.entries import Submission
from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.encoding import parse_decimal
from treehead.errors import RefusedError
from treehead.keys import VerifierKey
from treehead.merkle import CompactRange, verify_inclusion
from treehead.note import parse_note
from treehead.policy import Policy, check_quorum, verify_head
from treehead.v1 import log_pb2

_CHECKPOINTS_MAX = 64


class Verifier:
    """Verifies the answers of one log, and remembers which leaf it put where.

    With a policy, a checkpoint counts only with the cosignatures that it asks for.
    """

    def __init__(self, vkey: VerifierKey, *, policy: Policy | None = None) -> None:
        self._vkey = vkey
        self._policy = policy
        self._opened: OrderedDict[bytes, Checkpoint] = OrderedDict()
        self._places: list[tuple[int, bytes]] = []

    @property
    def acknowledged(self) -> int:
        """The number of entries that were acknowledged as new."""
        return len(self._places)

    def checkpoint(self, data: bytes) -> Checkpoint:
        """The checkpoint, which the log signed, and with a policy its witnesses."""
        checkpoint = self._opened.get(data)
        if checkpoint is None:
            checkpoint = open_checkpoint(data, key=self._vkey)
            if self._policy is not None:
                check_quorum(self._policy, verify_head(self._policy, parse_note(data)).cosigned)
            self._opened[data] = checkpoint
            if len(self._opened) > _CHECKPOINTS_MAX:
                self._opened.popitem(last=False)
        return checkpoint

    def added(self, submission: Submission, answer: bytes) -> None:
        """The answer to AddEntry proves that the entry, a new one, is in the log."""
        response = log_pb2.AddEntryResponse.FromString(answer)
        proof = response.proof
        checkpoint = self.checkpoint(proof.checkpoint)
        (leaf_hash,) = submission.leaf_hashes
        verify_inclusion(
            index=proof.leaf_index,
            size=checkpoint.size,
            leaf_hash=leaf_hash,
            proof=proof.hashes,
            root=checkpoint.root,
        )
        if response.duplicate:
            raise RefusedError(f"the log calls entry {proof.leaf_index} a duplicate, which it is not")
        self._places.append((proof.leaf_index, leaf_hash))

    def placed(self, submission: Submission, answer: bytes) -> None:
        """The answer to `POST /add` is the index of a new entry. Not checked before `audit`: that it is there."""
        (leaf_hash,) = submission.leaf_hashes
        self._places.append((parse_decimal(answer.decode(errors="replace"), what="index"), leaf_hash))

    def added_batch(self, submission: Submission, answer: bytes) -> None:
        """The answer to AddEntries gives each new entry a place in the tree that its checkpoint signs.

        What was known has its first place again. Not checked before `audit`: that the new entries are there.
        """
        response = log_pb2.AddEntriesResponse.FromString(answer)
        size = self.checkpoint(response.checkpoint).size
        for position, (leaf_hash, result) in enumerate(zip(submission.leaf_hashes, response.results, strict=True)):
            added = result.added
            known = submission.known.get(position)
            if not result.HasField("added") or added.leaf_index >= size or added.duplicate != (known is not None):
                raise RefusedError(f"the log did not add a new entry, or missed a duplicate: {result}")
            if known is None:
                self._places.append((added.leaf_index, leaf_hash))
            elif added.leaf_index != known:
                raise RefusedError(f"the log took entry {known} for entry {added.leaf_index}")

    def proven(self, index: int, leaf_hash: bytes, answer: bytes) -> None:
        """The answer to GetInclusionProof proves the entry in the newest tree."""
        response = log_pb2.GetInclusionProofResponse.FromString(answer)
        checkpoint = self.checkpoint(response.checkpoint)
        if response.leaf_index != index:
            raise RefusedError(f"the log proved entry {response.leaf_index} instead of {index}")
        verify_inclusion(
            index=index, size=checkpoint.size, leaf_hash=leaf_hash, proof=response.hashes, root=checkpoint.root
        )

    def audit(self, newest: bytes, *, before: CompactRange | None = None) -> None:
        """The newest checkpoint signs the tree of exactly what was there `before` and what was acknowledged since.

        Raises:
            RefusedError: it does not: an acknowledged entry is missing, in another place, or there are others.
        """
        checkpoint = self.checkpoint(newest)
        tree = CompactRange() if before is None else before.copy()
        for index, leaf_hash in sorted(self._places):
            if index != tree.size:
                raise RefusedError(f"nobody was told of entry {tree.size}, or two were told of entry {index}")
            tree.append(leaf_hash)
        if (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
            raise RefusedError(
                f"the log signs a tree of size {checkpoint.size}, and what it acknowledged makes another of {tree.size}"
            )
