"""Starting again: the right edge from the database, at every shape of tree, and the refusal of what does not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG, OTHER_LOG_KEY, Tree
from tests.unit.logserver.parts import SIGNER, candidate, create, parts, random_leaves
from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import StorageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.merkle import hash_leaf
from treehead.tile import RightEdge
from treehead_logserver.freeze import sign_freeze
from treehead_logserver.recovery import RolledBackError, check_mark, is_freeze_lost, recover_edge, recover_freeze
from treehead_logserver.signer import Signer
from treehead_logserver.storage.base import Extension
from treehead_logserver.storage.sqlite import SqliteStorage

SIZES = (0, 1, 2, 255, 256, 257, 511, 512, 513, 65_279, 65_535, 65_536, 65_537, 65_792, 66_000)


async def append(storage: SqliteStorage, edge: RightEdge, leaves: Sequence[bytes]) -> None:
    """Log leaves at one go, and move the edge on."""

    def extend(_size: int, leaf_hashes: Sequence[bytes]) -> Extension:
        tiles = edge.append(leaf_hashes)
        return Extension(state=SIGNER.state_of(edge), tiles=tiles)

    await storage.append([candidate(leaf) for leaf in leaves], extend, lambda state: None)


async def recovered(path: Path) -> RightEdge:
    storage = await SqliteStorage.open(path)
    try:
        return await recover_edge(storage, await storage.read_state(), vkey=LOG_KEY)
    finally:
        await storage.close()


async def test_the_edge_is_rebuilt_at_every_shape_of_tree(tmp_path: Path) -> None:
    path, edge = create(tmp_path), RightEdge()
    leaves = random_leaves(SIZES[-1], seed=1)
    for size in SIZES:
        storage = await SqliteStorage.open(path)
        if size:
            await append(storage, edge, leaves[edge.size : size])
        await storage.close()
        rebuilt = await recovered(path)
        assert (rebuilt.size, rebuilt.root(), rebuilt.tiles()) == (size, edge.root(), edge.tiles())
        # It goes on as the one that was never rebuilt does, past the next tile boundary.
        more, same = [hash_leaf(b"%d" % number) for number in range(300)], edge.copy()
        assert rebuilt.append(more) == same.append(more)
        assert rebuilt.root() == same.root()


@pytest.fixture(scope="module")
async def log_of_700(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log_of_700")
    path = create(folder)
    async with parts(path) as log:
        await log.submit(*random_leaves(600, seed=2))
        await log.submit(*random_leaves(100, seed=3))
    return path


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        pytest.param("update entries set leaf = x'00' where leaf_index = 699", "damaged", id="an_entry_was_changed"),
        pytest.param("delete from entries where leaf_index = 699", "lost entry 699", id="the_last_entry_was_lost"),
        pytest.param("delete from entries where leaf_index = 512", "lost entry 512", id="an_entry_was_lost"),
        pytest.param("delete from tiles where place = 1", "lost tile 0/1", id="a_tile_was_lost"),
        pytest.param("update tiles set hashes = zeroblob(16352) where place = 1", "damaged", id="a_tile_was_changed"),
        pytest.param("update tiles set hashes = zeroblob(16320) where place = 1", "damaged", id="a_tile_was_cut"),
        pytest.param("update tiles set hashes = zeroblob(16351) where place = 1", "damaged", id="a_tile_was_torn"),
        pytest.param(
            "update tree set size = 699", "has 699 entries, and its checkpoint 700", id="the_size_was_changed"
        ),
        pytest.param("update tree set compact_range = zeroblob(6 * 32)", "damaged", id="the_range_was_changed"),
        pytest.param("update tree set checkpoint = x'00'", "is not by", id="the_checkpoint_was_overwritten"),
    ],
)
async def test_a_database_that_does_not_fit_its_checkpoint_is_not_served(
    log_of_700: Path, tmp_path: Path, statement: str, complaint: str
) -> None:
    path = tmp_path / "log.sqlite"
    shutil.copy(log_of_700, path)
    assert (await recovered(path)).size == 700
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    with pytest.raises(StorageError, match=complaint):
        await recovered(path)


async def test_a_checkpoint_by_another_key_is_not_served(log_of_700: Path) -> None:
    storage = await SqliteStorage.open(log_of_700)
    try:
        state = await storage.read_state()
        with pytest.raises(StorageError, match=f"is not by {ORIGIN}"):
            await recover_edge(storage, state, vkey=OTHER_LOG_KEY)
        forged = Signer(key=OTHER_LOG, origin=ORIGIN).state_of(RightEdge())
        with pytest.raises(StorageError, match=f"is not by {ORIGIN}"):
            await recover_edge(storage, forged, vkey=LOG_KEY)
    finally:
        await storage.close()


async def test_a_checkpoint_of_another_tree_of_that_size_is_not_served(log_of_700: Path) -> None:
    storage, other = await SqliteStorage.open(log_of_700), RightEdge()
    other.append(hash_leaf(b"another %d" % index) for index in range(700))
    try:
        state = await storage.read_state()
        mixed = dataclasses.replace(state, checkpoint=SIGNER.state_of(other).checkpoint)
        with pytest.raises(StorageError, match="damaged"):
            await recover_edge(storage, mixed, vkey=LOG_KEY)
    finally:
        await storage.close()


# --- the high-water mark


def marked(tree: Tree, size: int) -> Checkpoint:
    return Checkpoint(origin=ORIGIN, size=size, root=tree.root(size))


@pytest.fixture(scope="module")
def tree_of_700() -> Tree:
    return Tree([*random_leaves(600, seed=2), *random_leaves(100, seed=3)])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 600, 699, 700])
async def test_a_tree_that_has_grown_out_of_the_marked_one_may_go_on(
    log_of_700: Path, tree_of_700: Tree, size: int
) -> None:
    storage, edge = await SqliteStorage.open(log_of_700), await recovered(log_of_700)
    await check_mark(storage, edge, marked(tree_of_700, size))
    await storage.close()


async def test_a_tree_smaller_than_the_marked_one_was_put_back(log_of_700: Path, tree_of_700: Tree) -> None:
    storage, edge = await SqliteStorage.open(log_of_700), await recovered(log_of_700)
    later = Tree([*random_leaves(600, seed=2), *random_leaves(100, seed=3), b"one more"])
    with pytest.raises(RolledBackError, match=r"has 700 entries, but this log has signed a tree of 701"):
        await check_mark(storage, edge, marked(later, 701))
    await storage.close()


@pytest.mark.parametrize("size", [1, 256, 600, 700])
async def test_another_tree_than_the_marked_one_is_not_gone_on_from(log_of_700: Path, size: int) -> None:
    storage, edge = await SqliteStorage.open(log_of_700), await recovered(log_of_700)
    other = Tree(b"another %d" % index for index in range(700))
    with pytest.raises(StorageError, match=f"another tree of size {size}"):
        await check_mark(storage, edge, marked(other, size))
    await storage.close()


# --- the end

LEAVES = random_leaves(20, seed=4)
SUCCESSOR, ANOTHER = (
    OTHER_LOG.verifier_key(name=name, key_type=NoteKeyType.ED25519) for name in ("log.example/2027", "log.example/2028")
)


def edge_of(size: int) -> RightEdge:
    edge = RightEdge()
    edge.append(map(hash_leaf, LEAVES[:size]))
    return edge


def ended(size: int, *, leaves: Sequence[bytes] = LEAVES, successor: VerifierKey = SUCCESSOR) -> bytes:
    return sign_freeze(marked(Tree(leaves), size), successor=successor, key=LOG)


def test_what_ended_the_log_is_of_its_tree() -> None:
    assert recover_freeze(None, edge=edge_of(7), vkey=LOG_KEY) is None
    freeze = recover_freeze(ended(7), edge=edge_of(7), vkey=LOG_KEY)
    assert freeze is not None
    assert (freeze.size, freeze.root, freeze.successor) == (7, Tree(LEAVES).root(7), SUCCESSOR)
    for size in (6, 8):
        with pytest.raises(StorageError, match=f"was frozen at {size} entries, and its database has 7"):
            recover_freeze(ended(size), edge=edge_of(7), vkey=LOG_KEY)
    with pytest.raises(StorageError, match="another tree of size 7 than the one that the log was frozen with"):
        recover_freeze(ended(7, leaves=random_leaves(20, seed=5)), edge=edge_of(7), vkey=LOG_KEY)


@pytest.mark.parametrize(
    ("note", "mark", "is_lost"),
    [
        pytest.param(None, marked(Tree(LEAVES), 7), False, id="goes_on"),
        pytest.param(ended(7), marked(Tree(LEAVES), 7), False, id="the_mark_was_not_written_yet"),
        pytest.param(ended(7), open_checkpoint(ended(7), key=LOG_KEY), False, id="both"),
        pytest.param(None, open_checkpoint(ended(7), key=LOG_KEY), True, id="put_back"),
        pytest.param(None, open_checkpoint(ended(8), key=LOG_KEY), False, id="of_a_larger_tree"),
    ],
)
def test_an_end_is_lost_if_only_the_mark_knows_it(note: bytes | None, mark: Checkpoint, is_lost: bool) -> None:
    edge = edge_of(7)
    freeze = recover_freeze(note, edge=edge, vkey=LOG_KEY)
    assert is_freeze_lost(freeze, mark, edge=edge) == is_lost


@pytest.mark.parametrize(
    ("note", "mark", "complaint"),
    [
        (None, ended(6), "was frozen at 6 entries, and its database has 7"),
        (ended(7), ended(6), "was frozen at 6 entries, and its database has 7"),
        (ended(7, successor=ANOTHER), ended(7), r"was frozen twice.*log\.example/2028.*log\.example/2027"),
        (None, ended(7, successor=LOG_KEY), "a log cannot succeed itself"),
    ],
)
def test_two_ends_that_differ_or_one_that_was_passed_are_not_gone_on_from(
    note: bytes | None, mark: bytes, complaint: str
) -> None:
    edge = edge_of(7)
    freeze = recover_freeze(note, edge=edge, vkey=LOG_KEY)
    with pytest.raises(StorageError, match=complaint):
        is_freeze_lost(freeze, open_checkpoint(mark, key=LOG_KEY), edge=edge)
