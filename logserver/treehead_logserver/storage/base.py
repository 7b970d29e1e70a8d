"""What the log asks of a database, as values and contracts; every engine passes tests/contracts/storage_suite.py.

**The transaction is the sequencer.** `Sequencing.append` is the one call that adds anything. In a single transaction,
under the database's own write lock, an engine

 1. looks each candidate's leaf hash up, by all of its 32 bytes,
 2. gives those that are new the next indices, in the order of the call,
 3. has `extend` compute the tree that they make, and sign its checkpoint,
 4. inserts entries, look-up rows and the tiles that became full, and replaces the one row of tree state,

and commits; then, and before it returns, it has `settle` note the new state outside of the database. When there is
nothing new it writes nothing, and neither is called. Once the log is frozen (`Publishing.freeze`) every call fails, one
that would add nothing as well: whoever serves the log refuses entries before, and this is in case it does not.

**Durability.** What a call of `append` returned survives the loss of power, whatever the operating system had cached.

**Isolation.** Calls of `append` take effect one after the other. A read sees whole commits only, and at least all whose
`append` has returned; it may see a commit an instant before its `append` returns, so a reader that must not show what
is not acknowledged bounds its questions by the size of the newest released head.

**Failure.** A call that raises `StorageError` or whatever `extend` raised had no effect, and may be repeated. A call
that raises `UnknownOutcomeError`, because the commit itself or `settle` failed, had either all of its effect or none,
and nobody can say which: what a failed fsync leaves in the caches is not to be trusted. From then on the engine refuses
every call, and the process must end; opening the database anew finds out.

**Cancellation.** To cancel a call does not undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from treehead.errors import StorageError
from treehead.lookup import Term as Term
from treehead.tile import ExpandedTile, TileId


class UnknownOutcomeError(StorageError):
    """The commit failed: the transaction is durable as a whole, or not there at all. The process must end."""


class Candidate(NamedTuple):
    """An entry that may enter the log: checked, hashed, and with the terms that it is to be found by.

    What follows the terms is for `quota`, and not stored. `signer` is the SHA-256 of the signer's key
    (SubjectPublicKeyInfo), or of the certificate that it came in; None for what nobody signed. `twin_hash` is the leaf
    hash of the same entry with the other form of its signature, if that has another (`twin`).
    """

    leaf: bytes
    leaf_hash: bytes
    terms: frozenset[Term] = frozenset()
    signer: bytes | None = None
    twin_hash: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeState:
    """The tree as of one commit: all that the next one needs to know.

    Attributes:
        size: the number of entries.
        compact_range: the roots of the maximal complete subtrees, largest first.
        checkpoint: the signed note that commits to the tree.
    """

    size: int
    compact_range: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What new leaves make of a tree: its next state, and the tiles that they filled."""

    state: TreeState
    tiles: Mapping[TileId, ExpandedTile]


class Placed(NamedTuple):
    """Where an entry is in the log; `duplicate` says that it was there before."""

    leaf_index: int
    duplicate: bool


Extend = Callable[[int, Sequence[bytes]], Extension]
"""Computes the extension of the tree of a given size by some leaf hashes, at least one.

It is called inside the transaction, perhaps on another thread, at most once a call of `append`. It has no effect that
would matter if the transaction were not to commit.
"""

Settle = Callable[[TreeState], None]
"""Notes, durably, that a state is committed and about to be shown; raises `StorageError` when it cannot.

It is called after the commit, perhaps on another thread.
"""


class Sequencing(Protocol):
    """The writing half of an engine."""

    async def read_state(self) -> TreeState:
        """The newest tree state.

        Raises:
            StorageError: it cannot be read.
        """

    async def append(self, candidates: Sequence[Candidate], extend: Extend, settle: Settle) -> Sequence[Placed]:
        """Make candidates, whose leaf hashes differ from one another, part of the log; see the module for the rest.

        Returns one place for each, in their order.

        Raises:
            StorageError: nothing was written; the log is frozen, for one.
            UnknownOutcomeError: the commit failed, or what was to follow it.
        """

    async def tidy(self) -> bool:
        """Do some of what can wait and would only get longer; returns whether there is more of it.

        The log calls this in idle moments, again and again. A call may take tens of ms.

        Raises:
            StorageError: it could not be done, which harms nothing yet: the disk is full, for one.
            UnknownOutcomeError: a commit failed; see the module.
        """


class Publishing(Protocol):
    """What an engine keeps of the checkpoints that the log has shown to everyone, and of its end."""

    async def publish(self, note: bytes, *, size: int) -> None:
        """Keep the published checkpoint, of a tree of `size`, in the place of the one before; durable on return.

        The sizes of all that were published are kept.

        Raises:
            StorageError: nothing was written.
            UnknownOutcomeError: the commit failed; see the module.
        """

    async def read_published(self) -> bytes | None:
        """The note that was published last; None for a log that never did.

        Raises:
            StorageError: it cannot be read.
        """

    async def was_published(self, *, first_size: int, end_size: int) -> bool:
        """Whether a checkpoint of a size from `first_size` to before `end_size` was ever published.

        Raises:
            StorageError: that cannot be read.
        """

    async def freeze(self, note: bytes) -> None:
        """Keep the note that ends the log, once and for all; durable on return. Nothing can be appended after it.

        Raises:
            StorageError: there is one already, or it was not written.
            UnknownOutcomeError: the commit failed; see the module.
        """

    async def read_freeze(self) -> bytes | None:
        """The note that ended the log; None for one that goes on.

        Raises:
            StorageError: it cannot be read.
        """


class Reading(Protocol):
    """The reading half of an engine. Each method raises `StorageError` when it cannot answer."""

    async def read_tiles(self, tiles: Sequence[TileId]) -> Mapping[TileId, ExpandedTile]:
        """The tiles, which must be full; not checked: that the inner nodes are those of the hashes at the bottom."""

    async def read_leaves(self, *, first_index: int, end_index: int, bytes_max: int) -> Sequence[bytes]:
        """The leaves from `first_index` on, up to the end of the log, `end_index` (exclusive) or `bytes_max`.

        There is at least one if there is one at all, however large.
        """

    async def read_leaf_sizes(self, *, first_index: int, end_index: int) -> Sequence[int]:
        """How many bytes each of the leaves has, from `first_index` to before `end_index`, all of which there are."""

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        """The index of the leaf with this hash, of which there is at most one."""

    async def find_term(self, term: Term, *, first_index: int, end_index: int, count_max: int) -> Sequence[int]:
        """The smallest indices, in order, of entries found by a term, from `first_index` to before `end_index`.

        None is left out that was added with the term; an entry may be among them that was not, for an index may be
        narrow. The entry itself says so.
        """


class Storage(Sequencing, Publishing, Reading, Protocol):
    """An engine, open on one log."""

    async def close(self) -> None:
        """Wait for calls under way, and let go of the database; closing twice does nothing."""
