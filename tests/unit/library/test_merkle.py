"""Merkle trees against a slow transcription of RFC 6962, with every hash of every proof damaged once."""

import random
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256

import pytest

from tests.unit.library.specimens import Tree
from treehead.errors import ConsistencyError, InclusionError, RefusedError
from treehead.merkle import (
    EMPTY_ROOT,
    PROOF_HASHES_MAX,
    CompactRange,
    NodeId,
    cover,
    hash_leaf,
    plan_consistency,
    plan_inclusion,
    plan_root,
    root_from_inclusion,
    roots_from_consistency,
    verify_consistency,
    verify_inclusion,
)

LEAVES = 200
SEED = 6962


# --- RFC 6962 section 2.1, as it is written there: the leaves begin..end-1 stand for D[begin:end] ---------------------


def entry(index: int) -> bytes:
    return b"entry %d" % index


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@cache
def mth(begin: int, end: int) -> bytes:
    n = end - begin
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return sha256(b"\x00" + entry(begin)).digest()
    k = split(n)
    return sha256(b"\x01" + mth(begin, begin + k) + mth(begin + k, end)).digest()


def path(m: int, begin: int, end: int) -> list[bytes]:
    n = end - begin
    if n == 1:
        return []
    k = split(n)
    if m < k:
        return [*path(m, begin, begin + k), mth(begin + k, end)]
    return [*path(m - k, begin + k, end), mth(begin, begin + k)]


def proof(m: int, n: int) -> list[bytes]:
    return subproof(m, 0, n, whole=True)


def subproof(m: int, begin: int, end: int, *, whole: bool) -> list[bytes]:
    n = end - begin
    if m == n:
        return [] if whole else [mth(begin, end)]
    k = split(n)
    if m <= k:
        return [*subproof(m, begin, begin + k, whole=whole), mth(begin + k, end)]
    return [*subproof(m - k, begin + k, end, whole=False), mth(begin, begin + k)]


# --- damage ----------------------------------------------------------------------------------------------------------


def flipped(hash_: bytes, randomness: random.Random) -> bytes:
    bit = randomness.randrange(256)
    damaged = bytearray(hash_)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def is_refused(error: type[RefusedError], verify: Callable[..., None], **arguments: object) -> bool:
    try:
        verify(**arguments)
    except error as exc:
        return type(exc) is error
    return False


TREE = Tree(entry(index) for index in range(LEAVES))


def test_roots_are_those_of_the_rfc() -> None:
    compact = CompactRange()
    for size in range(LEAVES + 1):
        assert compact.size == size
        assert compact.root() == TREE.root(size) == mth(0, size)
        assert len(compact.hashes) == size.bit_count()
        compact.append(hash_leaf(entry(size)))


def test_every_inclusion_proof_to_200_leaves_is_the_rfcs_and_verifies() -> None:
    for size in range(1, LEAVES + 1):
        root = mth(0, size)
        for index in range(size):
            made = TREE.inclusion(index, size)
            assert list(made) == path(index, 0, size)
            verify_inclusion(index=index, size=size, leaf_hash=mth(index, index + 1), proof=made, root=root)


def test_every_inclusion_proof_with_a_bit_flipped_is_refused() -> None:
    randomness = random.Random(SEED)
    for size in range(1, LEAVES + 1):
        root = mth(0, size)
        for index in range(size):
            good = {"index": index, "size": size, "leaf_hash": mth(index, index + 1), "root": root}
            made = TREE.inclusion(index, size)
            for place, hash_ in enumerate(made):
                bad = [*made[:place], flipped(hash_, randomness), *made[place + 1 :]]
                assert is_refused(InclusionError, verify_inclusion, **good, proof=bad), (index, size, place)
            for name in ("leaf_hash", "root"):
                bad_hash = {name: flipped(good[name], randomness)}  # type: ignore[arg-type]
                assert is_refused(InclusionError, verify_inclusion, **{**good, **bad_hash}, proof=made)


def test_every_inclusion_proof_of_another_length_or_place_is_refused() -> None:
    for size in range(1, LEAVES + 1):
        root = mth(0, size)
        for index in range(size):
            leaf_hash = mth(index, index + 1)
            made = TREE.inclusion(index, size)
            lengthened = [(*made, root), (root, *made), (leaf_hash, *made), (*made, leaf_hash)]
            shortened = [made[1:], made[:-1]] if made else []
            for bad in (*lengthened, *shortened):
                assert is_refused(
                    InclusionError, verify_inclusion, index=index, size=size, leaf_hash=leaf_hash, proof=bad, root=root
                )
            for other in (index - 1, index + 1, index ^ 1, size, -1, index + 2**64):
                if other != index:
                    assert is_refused(
                        InclusionError,
                        verify_inclusion,
                        index=other,
                        size=size,
                        leaf_hash=leaf_hash,
                        proof=made,
                        root=root,
                    )


def test_every_consistency_proof_to_200_leaves_is_the_rfcs_and_verifies() -> None:
    for size2 in range(1, LEAVES + 1):
        root2 = mth(0, size2)
        for size1 in range(1, size2 + 1):
            made = TREE.consistency(size1, size2)
            assert list(made) == proof(size1, size2)
            verify_consistency(size1=size1, size2=size2, root1=mth(0, size1), root2=root2, proof=made)


def test_every_consistency_proof_with_a_bit_flipped_is_refused() -> None:
    randomness = random.Random(SEED)
    for size2 in range(1, LEAVES + 1):
        for size1 in range(1, size2 + 1):
            good = {"size1": size1, "size2": size2, "root1": mth(0, size1), "root2": mth(0, size2)}
            made = TREE.consistency(size1, size2)
            for place, hash_ in enumerate(made):
                bad = [*made[:place], flipped(hash_, randomness), *made[place + 1 :]]
                assert is_refused(ConsistencyError, verify_consistency, **good, proof=bad), (size1, size2, place)
            for name in ("root1", "root2"):
                bad_root = {name: flipped(good[name], randomness)}  # type: ignore[arg-type]
                assert is_refused(ConsistencyError, verify_consistency, **{**good, **bad_root}, proof=made)


def test_every_consistency_proof_of_another_length_or_size_is_refused() -> None:
    for size2 in range(1, LEAVES + 1):
        root2 = mth(0, size2)
        for size1 in range(1, size2 + 1):
            root1 = mth(0, size1)
            made = TREE.consistency(size1, size2)
            lengthened = [(*made, root2), (root1, *made), (*made, EMPTY_ROOT)]
            shortened = [made[1:], made[:-1]] if made else []
            for bad in (*lengthened, *shortened):
                assert is_refused(
                    ConsistencyError, verify_consistency, size1=size1, size2=size2, root1=root1, root2=root2, proof=bad
                )
            for other1, other2 in ((size1 - 1, size2), (size1 + 1, size2), (size2, size1), (0, size2), (-1, size2)):
                if (other1, other2) != (size1, size2):
                    assert is_refused(
                        ConsistencyError,
                        verify_consistency,
                        size1=other1,
                        size2=other2,
                        root1=root1,
                        root2=root2,
                        proof=made,
                    ), (size1, size2, other1, other2)


# --- the edges -------------------------------------------------------------------------------------------------------


def test_a_tree_is_a_prefix_of_itself_and_the_empty_tree_of_every_tree() -> None:
    root = mth(0, 7)
    verify_consistency(size1=7, size2=7, root1=root, root2=root, proof=[])
    verify_consistency(size1=0, size2=7, root1=EMPTY_ROOT, root2=root, proof=[])
    verify_consistency(size1=0, size2=0, root1=EMPTY_ROOT, root2=EMPTY_ROOT, proof=[])


@pytest.mark.parametrize(
    ("size1", "size2", "root1", "root2", "made"),
    [
        pytest.param(7, 7, mth(0, 7), mth(0, 6), (), id="same_size_other_root"),
        pytest.param(7, 7, mth(0, 7), mth(0, 7), (mth(0, 7),), id="same_size_with_a_proof"),
        pytest.param(0, 7, mth(0, 1), mth(0, 7), (), id="empty_tree_with_a_root"),
        pytest.param(0, 7, EMPTY_ROOT, mth(0, 7), (mth(0, 7),), id="empty_tree_with_a_proof"),
        pytest.param(0, 0, EMPTY_ROOT, mth(0, 7), (), id="two_empty_trees_with_two_roots"),
        pytest.param(0, 0, mth(0, 7), mth(0, 7), (), id="two_empty_trees_with_a_root"),
        pytest.param(7, 0, mth(0, 7), EMPTY_ROOT, (), id="shrunk_to_nothing"),
        pytest.param(-1, 7, EMPTY_ROOT, mth(0, 7), (), id="negative"),
        pytest.param(7, 7, b"", b"", (), id="no_roots"),
        pytest.param(0, 7, EMPTY_ROOT, b"", (), id="no_newer_root"),
        pytest.param(0, 7, b"", mth(0, 7), (), id="no_older_root"),
        pytest.param(4, 7, mth(0, 4), mth(0, 7) + b"\0", tuple(proof(4, 7)), id="root_with_a_byte_more"),
        pytest.param(4, 7, mth(0, 4), mth(0, 7), (b"",), id="empty_hash"),
        pytest.param(6, 7, mth(0, 6), mth(0, 7), (b"",) * 3, id="empty_hashes"),
    ],
)
def test_a_consistency_proof_that_shows_nothing_is_refused(
    size1: int, size2: int, root1: bytes, root2: bytes, made: tuple[bytes, ...]
) -> None:
    with pytest.raises(ConsistencyError):
        verify_consistency(size1=size1, size2=size2, root1=root1, root2=root2, proof=made)


@pytest.mark.parametrize(
    ("index", "size", "leaf_hash", "made", "root"),
    [
        pytest.param(0, 0, mth(0, 1), (), mth(0, 1), id="empty_tree"),
        pytest.param(0, 1, mth(0, 1), (), b"", id="no_root"),
        pytest.param(0, 1, b"", (), b"", id="neither_root_nor_leaf"),
        pytest.param(0, 1, b"x" * 31, (), b"x" * 31, id="short_leaf_hash_as_root"),
        pytest.param(0, 2, mth(0, 1), (b"",), mth(0, 2), id="empty_hash"),
        pytest.param(0, 2, b"", (b"\x00" * 32 + mth(1, 2),), mth(0, 2), id="two_hashes_in_one"),
    ],
)
def test_an_inclusion_proof_that_shows_nothing_is_refused(
    index: int, size: int, leaf_hash: bytes, made: tuple[bytes, ...], root: bytes
) -> None:
    with pytest.raises(InclusionError):
        verify_inclusion(index=index, size=size, leaf_hash=leaf_hash, proof=made, root=root)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_refused_even_where_it_leads_to_the_root(length: int) -> None:
    leaf_hash, sibling = mth(0, 1), b"s" * length
    root = sha256(b"\x01" + leaf_hash + sibling).digest()
    with pytest.raises(InclusionError, match=f"hash has {length} bytes"):
        verify_inclusion(index=0, size=2, leaf_hash=leaf_hash, proof=[sibling], root=root)
    with pytest.raises(ConsistencyError, match=f"hash has {length} bytes"):
        verify_consistency(size1=1, size2=2, root1=leaf_hash, root2=root, proof=[sibling])


def test_a_leaf_cannot_pass_for_an_inner_node() -> None:
    inner = mth(0, 1) + mth(1, 2)
    with pytest.raises(InclusionError):
        verify_inclusion(index=0, size=1, leaf_hash=hash_leaf(b"\x01" + inner), proof=(), root=mth(0, 2))
    assert hash_leaf(inner) != mth(0, 2)


@pytest.mark.parametrize("size", [2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_the_largest_trees_need_no_more_hashes_than_the_limit(size: int) -> None:
    levels = min(size.bit_length(), PROOF_HASHES_MAX)
    for index in (0, 1, size // 2, size - 2, size - 1):
        made = [bytes(32)] * len(plan_inclusion(index=index, size=size))
        root = root_from_inclusion(index=index, size=size, leaf_hash=bytes(32), proof=made)
        verify_inclusion(index=index, size=size, leaf_hash=bytes(32), proof=made, root=root)
        if size < 2**63:
            assert len(made) <= levels
    for size1 in (1, 2, 3, size // 2, size - 2, size - 1):
        made = [bytes(32)] * len(plan_consistency(size1=size1, size2=size))
        root1, root2 = roots_from_consistency(size1=size1, size2=size, root1=bytes(32), proof=made)
        verify_consistency(size1=size1, size2=size, root1=root1, root2=root2, proof=made)
        if size < 2**63:
            assert len(made) <= PROOF_HASHES_MAX + 1


def test_a_proof_without_end_is_refused_by_its_length() -> None:
    with pytest.raises(InclusionError, match="hashes"):
        root_from_inclusion(index=0, size=2**63 - 1, leaf_hash=bytes(32), proof=[bytes(32)] * 1_000_000)
    with pytest.raises(ConsistencyError, match="hashes"):
        roots_from_consistency(size1=3, size2=2**63 - 1, root1=bytes(32), proof=[bytes(32)] * 1_000_000)


@pytest.mark.parametrize(("size1", "size2"), [(0, 5), (5, 5), (6, 5), (-1, 5)])
def test_no_proof_leads_between_sizes_in_any_other_order(size1: int, size2: int) -> None:
    with pytest.raises(ConsistencyError, match=f"from size {size1} to size {size2}"):
        roots_from_consistency(size1=size1, size2=size2, root1=bytes(32), proof=[])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_there_is_no_plan_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        plan_inclusion(index=index, size=size)


@pytest.mark.parametrize(("size1", "size2"), [(6, 5), (-1, 5)])
def test_there_is_no_plan_between_sizes_in_the_wrong_order(size1: int, size2: int) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        plan_consistency(size1=size1, size2=size2)


def test_a_cover_is_made_of_maximal_complete_subtrees() -> None:
    for size in range(1, 70):
        nodes = cover(0, size)
        assert [node.level for node in nodes] == [bit for bit in reversed(range(8)) if size >> bit & 1]
        assert sum(1 << node.level for node in nodes) == size
        assert plan_root(size) == (nodes,)
    assert plan_root(0) == ()


def test_a_compact_range_takes_as_many_hashes_as_its_size_has_one_bits() -> None:
    compact = CompactRange(size=5, hashes=[mth(0, 4), mth(4, 5)])
    assert compact.root() == mth(0, 5)
    assert compact.copy().hashes == compact.hashes
    cases: list[tuple[int, Sequence[bytes]]] = [(5, [mth(0, 4)]), (4, [b"short"]), (-1, [mth(0, 1)]), (0, [mth(0, 1)])]
    for size, hashes in cases:
        with pytest.raises(ValueError, match="compact range"):
            CompactRange(size=size, hashes=hashes)


def test_a_copy_grows_by_itself() -> None:
    compact = CompactRange()
    compact.append(mth(0, 1))
    copy = compact.copy()
    copy.append(mth(1, 2))
    assert (compact.root(), copy.root()) == (mth(0, 1), mth(0, 2))


def test_appending_tells_which_subtrees_became_complete() -> None:
    compact = CompactRange()
    for size in range(1, 130):
        completed = compact.append(mth(size - 1, size))
        nodes = [NodeId(level, (size >> level) - 1) for level in range(len(completed))]
        assert len(completed) == (size & -size).bit_length()
        assert completed == [mth(node.number << node.level, (node.number + 1) << node.level) for node in nodes]
