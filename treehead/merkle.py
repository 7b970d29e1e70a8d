"""RFC 6962 Merkle trees: hashes, appending, and inclusion and consistency proofs, made and verified.

    leaf hash = SHA-256(00 || leaf)        node hash = SHA-256(01 || left || right)

A tree of n leaves splits at the largest power of two smaller than n (RFC 6962 section 2.1). Only *complete* subtrees
have hashes that never change as the tree grows; a proof is planned as a list of leaf ranges, each the disjoint union of
complete subtrees, and assembled from their hashes. A store therefore needs to answer one question only,
`HashReader.read_hashes`, and a proof at any earlier size needs nothing more than the present store.

Indices start at 0; a size is a count; hashes and roots are 32 bytes; proofs run from the leaf to the root. Nothing here
recurses, and all loops are bounded by the 63 levels of the largest tree.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from treehead.errors import ConsistencyError, InclusionError

HASH_BYTES = 32
PROOF_HASHES_MAX = 63
"""No inclusion or consistency proof of a tree with a 63-bit size needs more hashes than this plus one."""

EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""


def hash_leaf(leaf: bytes) -> bytes:
    """The leaf hash of an entry's bytes."""
    return sha256(b"\x00" + leaf).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class NodeId(NamedTuple):
    """A complete subtree: the leaves from `number << level` up to, not including, `(number + 1) << level`."""

    level: int
    number: int


class HashReader(Protocol):
    """Access to the hashes of the complete subtrees of one log."""

    def read_hashes(self, nodes: Sequence[NodeId]) -> Sequence[bytes]:
        """The hashes of `nodes`, in their order.

        Every node asked for is complete at the tree size for which the proof was planned. An implementation raises
        `StorageError` when it cannot answer; it never guesses.
        """


Plan = tuple[tuple[NodeId, ...], ...]
"""A proof before its hashes are read: for each of its hashes the complete subtrees that make it up, left to right."""


# --- appending -------------------------------------------------------------------------------------------------------


class CompactRange:
    """The roots of the maximal complete subtrees of a tree, largest first: all that appending and the root need.

    Their number is the number of one bits of the size.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, *, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count() or any(len(hash_) != HASH_BYTES for hash_ in hashes):
            raise ValueError(f"a compact range of size {size} has {size.bit_count()} hashes of {HASH_BYTES} bytes")
        self._size = size
        self._hashes = list(hashes)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The subtree roots, largest subtree first."""
        return tuple(self._hashes)

    def append(self, leaf_hash: bytes) -> list[bytes]:
        """Add a leaf; returns the hashes of all complete subtrees that end with it, from level 0 up.

        The first is the leaf hash itself; there are as many as the new size has trailing zero bits, plus one.
        """
        completed = [leaf_hash]
        size = self._size
        while size & 1:
            leaf_hash = hash_children(self._hashes.pop(), leaf_hash)
            completed.append(leaf_hash)
            size >>= 1
        self._hashes.append(leaf_hash)
        self._size += 1
        return completed

    def root(self) -> bytes:
        """The root of the tree."""
        return fold_roots(self._hashes)

    def copy(self) -> CompactRange:
        """An independent copy."""
        return CompactRange(size=self._size, hashes=self._hashes)


def fold_roots(roots: Sequence[bytes]) -> bytes:
    """The root of the tree whose maximal complete subtrees have these roots, largest first; `EMPTY_ROOT` for none."""
    if not roots:
        return EMPTY_ROOT
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = hash_children(left, root)
    return root


# --- planning and making proofs --------------------------------------------------------------------------------------


def cover(begin: int, end: int) -> tuple[NodeId, ...]:
    """The maximal complete subtrees that make up the leaves `begin..end-1` of a split range, left to right.

    `begin` is a multiple of the largest power of two that is not larger than `end - begin`, as every range that
    splitting a tree yields is; other ranges are not checked for.
    """
    nodes = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        nodes.append(NodeId(level, begin >> level))
        begin += 1 << level
    return tuple(nodes)


def _split(begin: int, end: int) -> int:
    """Where RFC 6962 splits the leaves `begin..end-1`: after the largest power of two smaller than their number."""
    return begin + (1 << ((end - begin - 1).bit_length() - 1))


def plan_root(size: int) -> Plan:
    """The plan for the root at `size`; empty for size 0."""
    return (cover(0, size),) if size else ()


def plan_inclusion(*, index: int, size: int) -> Plan:
    """The plan for PATH(index, D[size]) of RFC 6962 section 2.1.1.

    Raises:
        ValueError: not 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of size {size}")
    # The way up from this leaf meets that from the last one at some height. Below, each sibling is complete, but for
    # the one just below, which reaches to the end of the tree. Above, there is nothing to the right, and what is to the
    # left is complete.
    meet = (index ^ (size - 1)).bit_length()
    siblings = [(NodeId(level, (index >> level) ^ 1),) for level in range(meet - 1)]
    ragged = [cover((size - 1) >> (meet - 1) << (meet - 1), size)] if meet else []
    left = [(NodeId(level, (index >> level) - 1),) for level in range(meet, index.bit_length()) if index >> level & 1]
    return (*siblings, *ragged, *left)


def plan_consistency(*, size1: int, size2: int) -> Plan:
    """The plan for PROOF(size1, D[size2]) of RFC 6962 section 2.1.2; empty when size1 is 0 or equals size2.

    Raises:
        ValueError: not 0 <= size1 <= size2.
    """
    if not 0 <= size1 <= size2:
        raise ValueError(f"size {size1} is not a prefix of size {size2}")
    if size1 in (0, size2):
        return ()
    parts = []
    begin, end = 0, size2
    while size1 < end:
        middle = _split(begin, end)
        if size1 <= middle:
            parts.append(cover(middle, end))
            end = middle
        else:
            parts.append(cover(begin, middle))
            begin = middle
    if begin:
        parts.append(cover(begin, end))
    return tuple(reversed(parts))


def assemble(
    plan: Plan, reader: HashReader, *, folded: MutableMapping[tuple[NodeId, ...], bytes] | None = None
) -> tuple[bytes, ...]:
    """Read the hashes that `plan` needs and combine them into the proof.

    `folded` remembers what was combined, for the next proofs about the same log: complete subtrees never change. The
    caller bounds it.

    Raises:
        StorageError: the reader cannot answer.
    """
    folded = {} if folded is None else folded
    hashes = reader.read_hashes([node for part in plan if part not in folded for node in part])
    proof: list[bytes] = []
    at = 0
    for part in plan:
        if len(part) == 1:
            proof.append(hashes[at])
            at += 1
            continue
        known = folded.get(part)
        if known is None:
            known = folded[part] = fold_roots(hashes[at : at + len(part)])
            at += len(part)
        proof.append(known)
    return tuple(proof)


def prove_inclusion(*, index: int, size: int, reader: HashReader) -> tuple[bytes, ...]:
    """The inclusion proof of leaf `index` in the tree of `size`; raises as `plan_inclusion` and `assemble` do."""
    return assemble(plan_inclusion(index=index, size=size), reader)


def prove_consistency(*, size1: int, size2: int, reader: HashReader) -> tuple[bytes, ...]:
    """The consistency proof between two sizes; raises as `plan_consistency` and `assemble` do."""
    return assemble(plan_consistency(size1=size1, size2=size2), reader)


def root_at(*, size: int, reader: HashReader) -> bytes:
    """The root that the tree had at `size`."""
    return assemble(plan_root(size), reader)[0] if size else EMPTY_ROOT


# --- verifying -------------------------------------------------------------------------------------------------------


def root_from_inclusion(*, index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes]) -> bytes:
    """The root to which an inclusion proof leads (RFC 9162 section 2.1.3.2); the caller compares it.

    Raises:
        InclusionError: the leaf is not within the tree, or the proof has a length that no such proof has.
    """
    if not 0 <= index < size:
        raise InclusionError(f"leaf {index} is not in a tree of size {size}")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(proof) != inner + border:
        raise InclusionError(f"inclusion proof has {len(proof)} hashes; leaf {index} of {size} needs {inner + border}")
    root = _checked_hash(leaf_hash, InclusionError)
    for level, sibling in enumerate(proof):
        _checked_hash(sibling, InclusionError)
        if level >= inner or index >> level & 1:
            root = hash_children(sibling, root)
        else:
            root = hash_children(root, sibling)
    return root


def verify_inclusion(*, index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Returns only if `leaf_hash` is leaf `index` of the tree with this size and root.

    Not checked: who vouches for the root.

    Raises:
        InclusionError: the proof does not show it.
    """
    if root_from_inclusion(index=index, size=size, leaf_hash=leaf_hash, proof=proof) != root:
        raise InclusionError(f"inclusion proof of leaf {index} does not lead to the root at size {size}")


def roots_from_consistency(*, size1: int, size2: int, root1: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The two roots to which a consistency proof leads, for 0 < size1 < size2 (RFC 9162 section 2.1.4.2).

    When size1 is a power of two the proof leaves out the older root, and `root1` stands in for it; otherwise `root1` is
    not used. The caller compares both results.

    Raises:
        ConsistencyError: the sizes are not in that order, or the proof has a length that no such proof has.
    """
    if not 0 < size1 < size2:
        raise ConsistencyError(f"no proof leads from size {size1} to size {size2}")
    shift = (size1 & -size1).bit_length() - 1
    inner = ((size1 - 1) ^ (size2 - 1)).bit_length() - shift
    border = ((size1 - 1) >> (inner + shift)).bit_count()
    seeded = size1 == 1 << shift
    expected = inner + border + (0 if seeded else 1)
    if len(proof) != expected:
        raise ConsistencyError(f"consistency proof has {len(proof)} hashes; {size1} to {size2} needs {expected}")
    for hash_ in proof:
        _checked_hash(hash_, ConsistencyError)
    old = new = _checked_hash(root1 if seeded else proof[0], ConsistencyError)
    mask = (size1 - 1) >> shift
    for level, sibling in enumerate(proof if seeded else proof[1:]):
        if level >= inner or mask >> level & 1:
            old = hash_children(sibling, old)
            new = hash_children(sibling, new)
        else:
            new = hash_children(new, sibling)
    return old, new


def verify_consistency(*, size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Returns only if the tree (size1, root1) is a prefix of the tree (size2, root2).

    A tree is a prefix of itself, and the empty tree of every tree, both with an empty proof.

    Raises:
        ConsistencyError: the proof does not show it.
    """
    _checked_hash(root1, ConsistencyError)
    _checked_hash(root2, ConsistencyError)
    if not 0 <= size1 <= size2:
        raise ConsistencyError(f"a tree of size {size1} is not a prefix of one of size {size2}")
    if size1 in (0, size2):
        if proof:
            raise ConsistencyError(f"the proof from size {size1} to size {size2} must be empty")
        old, new = (EMPTY_ROOT if size1 == 0 else root2), (EMPTY_ROOT if size2 == 0 else root2)
    else:
        old, new = roots_from_consistency(size1=size1, size2=size2, root1=root1, proof=proof)
    if new != root2:
        raise ConsistencyError(f"consistency proof does not lead to the root at size {size2}")
    if old != root1:
        raise ConsistencyError(f"the tree at size {size2} has another root at size {size1}")


def _checked_hash(hash_: bytes, error: type[InclusionError | ConsistencyError]) -> bytes:
    if len(hash_) != HASH_BYTES:
        raise error(f"a hash has {len(hash_)} bytes, not {HASH_BYTES}")
    return hash_
