"""The log's key under the log's name: the one place that signs checkpoints."""

from __future__ import annotations

from treehead.checkpoint import Checkpoint, sign_checkpoint
from treehead.privatekey import SigningKey
from treehead.tile import RightEdge
from treehead_logserver.storage.base import TreeState


class Signer:
    """Signs for one origin. The caller sees to it that the trees follow one another."""

    def __init__(self, *, key: SigningKey, origin: str) -> None:
        self._key = key
        self._origin = origin

    def state_of(self, edge: RightEdge) -> TreeState:
        """The state, with a fresh checkpoint, of the tree that ends in `edge`.

        Raises:
            UsageError: the key is not Ed25519, or the origin cannot be a key name.
            StorageError: the key is in a token that does not sign; to try again is safe.
        """
        checkpoint = Checkpoint(origin=self._origin, size=edge.size, root=edge.root())
        return TreeState(
            size=edge.size,
            compact_range=edge.compact_range(),
            checkpoint=sign_checkpoint(checkpoint, key=self._key),
        )
