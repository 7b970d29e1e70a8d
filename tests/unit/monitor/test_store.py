"""What outlives the process: everything that a turn persisted, in one piece."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG_KEY, OTHER_LOG_KEY, Tree, same_size_evidence
from tests.unit.monitor.desk import ADDRESS, leaves
from tests.unit.monitor.gossiper import LOG_ID, signed_head
from treehead.errors import StorageError
from treehead.evidence import Fork, format_evidence
from treehead.merkle import hash_leaf
from treehead.sqlite import connect
from treehead.tile import RightEdge, TileId
from treehead_monitor.database import SCHEMA, create_database
from treehead_monitor.edge import format_edge, parse_edge
from treehead_monitor.event import KeepEvidence, KeepNote, Park, Unpark
from treehead_monitor.message import evidence_id
from treehead_monitor.peer import PeerRecord
from treehead_monitor.store import Store
from treehead_monitor.suspicion import Doubt, Suspicion

TREE = Tree(leaves(20))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_database(tmp_path / "monitor.sqlite")
    return tmp_path / "monitor.sqlite"


def edge_of(size: int) -> tuple[RightEdge, dict[TileId, bytes]]:
    edge = RightEdge()
    return edge, {tile: full.hashes for tile, full in edge.append(map(hash_leaf, leaves(size))).items()}


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(connect(path, SCHEMA, is_writer=False)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_535, 65_536, 65_537])
def test_an_edge_is_read_back_as_it_was_written(size: int) -> None:
    edge, _ = edge_of(size)
    again = parse_edge(format_edge(edge), size=size)
    assert (again.size, again.root(), again.tiles()) == (size, edge.root(), edge.tiles())
    for wrong in (format_edge(edge) + bytes(32), format_edge(edge)[:-1] + b"xy"):
        with pytest.raises(StorageError):
            parse_edge(wrong, size=size)


async def test_notes_parked_heads_and_evidence_are_there_again(path: Path) -> None:
    note, parked, gone = (signed_head(TREE, size) for size in (5, 9, 12))
    evidence = same_size_evidence()
    data = format_evidence(evidence)
    store = await Store.open(path)
    await store.recall(LOG_KEY, address=ADDRESS)
    kept = KeepEvidence(
        log=LOG_ID, id=evidence_id(data), data=data, fork=Fork.SAME_SIZE, sizes=(7, 7), source="p", at_ms=4
    )
    await store.keep(
        [
            KeepNote(head=note, source="log", at_ms=1),
            *(KeepNote(head=head, source="p", at_ms=2) for head in (parked, gone)),
            *(Park(head=head, source="p", at_ms=3) for head in (parked, gone)),
            Unpark(digest=gone.digest),
            kept,
        ]
    )
    await store.close()
    store = await Store.open(path)
    known = await store.recall(LOG_KEY, address=ADDRESS)
    other = await store.recall(OTHER_LOG_KEY, address=ADDRESS)
    await store.close()
    assert [(park.head, park.source, park.since_ms) for park in known.parked] == [(parked, "p", 3)]
    assert known.evidence == {evidence_id(data)}
    assert (other.parked, other.evidence) == ((), frozenset())
    assert rows(path, "select size, data, source, seen_ms from notes order by size") == [
        (5, note.data, "log", 1),
        (9, parked.data, "p", 2),
        (12, gone.data, "p", 2),
    ]


async def test_the_first_note_of_a_head_is_the_one_that_is_kept(path: Path) -> None:
    store = await Store.open(path)
    for at_ms, source in enumerate(("p", "q")):
        await store.keep([KeepNote(head=signed_head(TREE, 5), source=source, at_ms=at_ms)])
    await store.close()
    assert rows(path, "select source, seen_ms from notes") == [("p", 0)]


async def test_a_step_is_kept_whole_or_not_at_all(path: Path) -> None:
    store = await Store.open(path)
    note = KeepNote(head=signed_head(TREE, 5), source="p", at_ms=0)
    unkeepable = KeepNote(head=signed_head(TREE, 6), source="p", at_ms="then")  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        await store.keep([note, unkeepable])
    await store.keep([])
    await store.close()
    assert rows(path, "select count(*) from notes") == [(0,)]


async def test_dropped_progress_takes_its_tiles_along_and_no_others(path: Path) -> None:
    store = await Store.open(path)
    await store.recall(LOG_KEY, address=ADDRESS)
    verified, tiles = edge_of(600)
    head = signed_head(Tree(leaves(600)))
    await store.advance(head, edge=verified, tiles=tiles, at_ms=0)
    further = verified.copy()
    full = further.append(map(hash_leaf, leaves(66_000)[600:]))
    await store.save_progress(LOG_ID, further, {tile: expanded.hashes for tile, expanded in full.items()})
    assert (await store.recall(LOG_KEY, address=ADDRESS)).progress is not None
    assert rows(path, "select count(*) from tiles where level = 1") == [(1,)]
    await store.drop_progress(LOG_ID)
    known = await store.recall(LOG_KEY, address=ADDRESS)
    await store.close()
    assert known.progress is None
    assert known.edge.root() == head.root
    assert rows(path, "select level, number from tiles order by number") == [(0, 0), (0, 1)]


async def test_suspicions_and_contacts_are_there_again(path: Path) -> None:
    store = await Store.open(path)
    await store.recall(LOG_KEY, address=ADDRESS)
    suspicion = Suspicion(doubt=Doubt.ROLLBACK, reason="because", since_ms=7, count=3, standing=True)
    await store.keep_suspicion(LOG_ID, suspicion)
    peers = [PeerRecord(address="p:1").failed("down", at_ms=5).at_fault(), PeerRecord(address="q:1").answered(at_ms=9)]
    assert await store.recall_peers(["p:1", "q:1"]) == [PeerRecord(address="p:1"), PeerRecord(address="q:1")]
    await store.keep_contacts({LOG_ID: 11}, peers)
    assert await store.recall_peers(["q:1", "p:1"]) == peers[::-1]
    known = await store.recall(LOG_KEY, address=ADDRESS)
    await store.close()
    assert known.suspicions == (suspicion,)
    assert rows(path, "select contact_ms from logs") == [(11,)]


async def test_a_log_that_is_followed_no_longer_is_not_forgotten(path: Path) -> None:
    store = await Store.open(path)
    await store.recall(LOG_KEY, address=ADDRESS)
    await store.follow_only([])
    assert rows(path, "select followed, address from logs") == [(0, ADDRESS)]
    await store.recall(LOG_KEY, address="elsewhere:1")
    await store.follow_only([LOG_ID])
    await store.close()
    assert rows(path, "select followed, address from logs") == [(1, "elsewhere:1")]


async def test_a_file_that_is_no_monitors_is_refused_and_left_alone(tmp_path: Path, path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("create table logs (id)")
    with pytest.raises(StorageError, match="not the database of a Treehead monitor"):
        await Store.open(foreign)
    newer = sqlite3.connect(path)
    newer.execute("pragma user_version = 99")
    newer.close()
    with pytest.raises(StorageError, match="schema version 99"):
        await Store.open(path)
    (tmp_path / "text").write_text("no database " * 100)
    for missing in (tmp_path / "nothing", tmp_path / "text"):
        with pytest.raises(StorageError):
            await Store.open(missing)
