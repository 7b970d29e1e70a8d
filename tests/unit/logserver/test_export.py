"""Export: the published tree as files, byte for byte and durably, and never from a damaged database."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.test_sqlite_storage import files_no_larger_than
from tests.unit.library.specimens import LOG_KEY, ORIGIN, OTHER_LOG, OTHER_LOG_KEY
from tests.unit.logserver.directory import flip_in_row, flipped, make, run_sql
from tests.unit.logserver.parts import random_leaves
from tests.unit.logserver.published import MANY, Steps, files_in, files_of, publish, published, set_note
from treehead.checkpoint import Checkpoint, sign_checkpoint
from treehead.encoding import format_base64
from treehead.errors import StorageError, UsageError
from treehead.keys import VerifierKey
from treehead.merkle import EMPTY_ROOT
from treehead.note import Note, NoteSignature, format_note, parse_note
from treehead.tile import EXPANDED_BYTES, TILE_BYTES, ExpandedTile, format_expanded_tile
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.export import folder as folder_module
from treehead_logserver.export import tree as tree_module
from treehead_logserver.export.exporter import Export, Exporter, StoppedError, format_export, run_export
from treehead_logserver.export.folder import opened_folder
from treehead_logserver.progress import Progress

SIZES = (0, 1, 2, 255, 256, 257, 511, 512, 700)
SIZE = 700


def export(
    directory: DataDirectory,
    to: Path,
    *,
    vkey: VerifierKey = LOG_KEY,
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Export | None:
    with opened_folder(to) as folder:
        exporter = Exporter(directory.database, folder, vkey=vkey)
        return exporter.catch_up(progress or Progress(), is_stopped=is_stopped)


def inodes(folder: Path) -> dict[str, int]:
    """What tells whether a file was written anew, which is never done in its place."""
    return {path: (folder / path).stat().st_ino for path in files_in(folder)}


@pytest.fixture(scope="module")
async def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    await published(folder / "small", SIZE)
    await published(folder / "large", MANY)
    return folder


def copied(template: Path, to: Path) -> DataDirectory:
    shutil.copytree(template, to)
    return DataDirectory(path=to)


@pytest.fixture
def directory(templates: Path, tmp_path: Path) -> DataDirectory:
    return copied(templates / "small", tmp_path / "log")


@pytest.fixture
def large(templates: Path, tmp_path: Path) -> DataDirectory:
    return copied(templates / "large", tmp_path / "large")


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "www"


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_the_files_are_those_of_the_leaves(tmp_path: Path, to: Path, size: int) -> None:
    directory = await published(tmp_path / "log", size)
    done = export(directory, to)
    expected = files_of(random_leaves(size, seed=1))
    assert files_in(to) == expected
    assert done is not None
    assert (done.path, done.size) == (to, size)
    assert format_base64(done.root) in expected["checkpoint"].decode()


def test_a_tree_with_several_levels_is_written_whole(large: DataDirectory, to: Path) -> None:
    export(large, to)
    files = files_in(to)
    assert files == files_of(random_leaves(MANY, seed=1))
    assert {"tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/0/257.p/208", "tile/entries/256"} <= files.keys()


async def test_what_is_published_is_exported_and_not_what_is_newest(tmp_path: Path, to: Path) -> None:
    directory = await published(tmp_path / "log", 300)
    note = published_note(directory)
    await publish(directory, 600)
    set_note(directory, "published", note)
    done = export(directory, to)
    assert done is not None
    assert done.size == 300
    assert files_in(to) == files_of(random_leaves(300, seed=1))


def test_everything_can_be_read_by_any_web_server(directory: DataDirectory, to: Path) -> None:
    before = os.umask(0o077)
    try:
        export(directory, to)
    finally:
        os.umask(before)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in [to, *to.rglob("*")] if path.name[0] != "."}
    assert modes == {True: 0o755, False: 0o644}
    found = {stat.S_IMODE(path.stat().st_mode) for path in to.rglob("*") if path.is_file() and path.name[0] != "."}
    assert found == {0o644}


def test_an_export_changes_nothing_in_the_logs_directory(directory: DataDirectory, to: Path) -> None:
    before = files_in(directory.path)
    export(directory, to)
    assert files_in(directory.path) == before


def test_the_line_about_an_export_counts(tmp_path: Path) -> None:
    line = format_export(Export(path=tmp_path, size=1, root=EMPTY_ROOT))
    assert line == f"{tmp_path}: 1 entry, root {format_base64(EMPTY_ROOT)}"
    assert ": 2 entries, " in format_export(Export(path=tmp_path, size=2, root=EMPTY_ROOT))


def test_progress_reaches_what_there_is_to_do(directory: DataDirectory, to: Path) -> None:
    steps = Steps()
    export(directory, to, progress=steps)
    assert (steps.total, steps.steps) == (SIZE, [512, SIZE])


# --- what is published later -----------------------------------------------------------------------------------------


async def test_a_folder_goes_on_from_what_it_shows(tmp_path: Path, to: Path) -> None:
    directory = make(tmp_path / "log")
    leaves = random_leaves(MANY, seed=1)
    earlier: dict[str, bytes] = {}
    for size in (0, 3, 256, 300, 600, 65_535, 65_536, MANY):
        await publish(directory, size)
        export(directory, to)
        files, expected = files_in(to), files_of(leaves[:size])
        assert expected.items() <= files.items()
        rest = {path: data for path, data in files.items() if path not in expected}
        assert rest.items() <= earlier.items(), "there is a file that no checkpoint implied"
        earlier |= expected


async def test_full_tiles_are_not_written_again(tmp_path: Path, to: Path) -> None:
    directory = await published(tmp_path / "log", 600)
    export(directory, to)
    before = inodes(to)
    await publish(directory, 900)
    export(directory, to)
    kept = inodes(to).items() & before.items()
    assert before.keys() - dict(kept).keys() == {"checkpoint"}


async def test_partial_tiles_stay_for_a_checkpoint_longer_than_they_are_partial(tmp_path: Path, to: Path) -> None:
    directory = await published(tmp_path / "log", 200)
    with opened_folder(to) as folder:
        exporter = Exporter(directory.database, folder, vkey=LOG_KEY)
        partial = {"tile/0/000.p/200", "tile/entries/000.p/200", "tile/0/000.p/210", "tile/entries/000.p/210"}
        for size in (200, 210, 300):
            await publish(directory, size)
            exporter.catch_up(Progress(), is_stopped=lambda: False)
        assert partial <= files_in(to).keys(), "who has just read the checkpoint before will ask for them"
        await publish(directory, 310)
        exporter.catch_up(Progress(), is_stopped=lambda: False)
    files = files_in(to).keys()
    assert not partial & files
    assert {"tile/0/000", "tile/0/001.p/44", "tile/0/001.p/54", "tile/1/000.p/1"} <= files
    assert not (to / "tile/0/000.p").exists()


async def test_partial_tiles_that_an_earlier_export_has_left_go_as_well(tmp_path: Path, to: Path) -> None:
    directory = await published(tmp_path / "log", 200)
    for size in (200, 300, 310):
        await publish(directory, size)
        export(directory, to)
    assert not any(path.startswith("tile/0/000.p") for path in files_in(to))


async def test_what_is_not_ours_beside_partial_tiles_stays(tmp_path: Path, to: Path) -> None:
    directory = await published(tmp_path / "log", 200)
    export(directory, to)
    (to / "tile" / "0" / "000.p" / "precious").write_text("kept")
    (to / "tile" / "strange.p").mkdir()
    for size in (300, 310):
        await publish(directory, size)
        export(directory, to)
    assert [path.name for path in (to / "tile" / "0" / "000.p").iterdir()] == ["precious"]
    assert (to / "tile" / "strange.p").is_dir()


async def test_more_cosignatures_of_the_same_checkpoint_are_exported(directory: DataDirectory, to: Path) -> None:
    export(directory, to)
    note = parse_note(published_note(directory))
    line = NoteSignature(name="w1.example", key_id=b"1234", signature=b"cosigned")
    amended = format_note(Note(text=note.text, signatures=(*note.signatures, line)))
    set_note(directory, "published", amended)
    before = files_in(to)
    export(directory, to)
    assert files_in(to) == {**before, "checkpoint": amended}


def test_what_is_shown_already_is_not_exported_again(directory: DataDirectory, to: Path) -> None:
    with opened_folder(to) as folder:
        exporter = Exporter(directory.database, folder, vkey=LOG_KEY)
        assert exporter.catch_up(Progress(), is_stopped=lambda: False) is not None
        assert exporter.catch_up(Progress(), is_stopped=lambda: False) is None


def test_a_log_that_has_published_nothing_is_waited_for(tmp_path: Path, to: Path) -> None:
    assert export(make(tmp_path / "log"), to) is None
    assert files_in(to) == {}


async def test_a_log_that_has_published_nothing_cannot_be_exported_once(tmp_path: Path, to: Path) -> None:
    with pytest.raises(StorageError, match="has not published a checkpoint yet: start it once"):
        await run_export(
            make(tmp_path / "log"),
            to,
            vkey=LOG_KEY,
            is_once=True,
            show_progress=lambda: contextlib.nullcontext(Progress()),
            announce=lambda _: None,
        )


# --- beside the log --------------------------------------------------------------------------------------------------


def test_no_transaction_is_held_longer_than_a_piece_takes(
    large: DataDirectory, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between pieces the log can begin its write-ahead log anew, which it cannot while anybody reads."""
    monkeypatch.setattr(tree_module, "PIECE_TILES_MAX", 16)
    moved: list[tuple[int, int, int]] = []
    with contextlib.closing(sqlite3.connect(large.database, isolation_level=None)) as log:
        log.execute("pragma busy_timeout = 0")

        def commit() -> bool:
            log.execute("create table if not exists more (x)")
            moved.append(log.execute("pragma wal_checkpoint(truncate)").fetchone())
            return False

        commit()
        export(large, to, is_stopped=commit)
    assert moved == [(0, 0, 0)] * (1 + MANY // 256 // 16 + 1)
    assert files_in(to) == files_of(random_leaves(MANY, seed=1))


def test_pieces_are_bounded_by_bytes_too(directory: DataDirectory, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "PIECE_BYTES_MAX", 1)
    pieces: list[int] = []

    def count() -> bool:
        pieces.append(len(pieces))
        return False

    export(directory, to, is_stopped=count)
    assert len(pieces) == SIZE // 256
    assert files_in(to) == files_of(random_leaves(SIZE, seed=1))


# --- ended in the middle ---------------------------------------------------------------------------------------------


def stopped_after(pieces: int) -> Callable[[], bool]:
    left = iter(range(pieces))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_an_export_that_is_stopped_shows_nothing_and_is_continued(
    large: DataDirectory, to: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(tree_module, "PIECE_TILES_MAX", 16)
    with pytest.raises(StoppedError):
        export(large, to, is_stopped=stopped_after(pieces))
    there = files_in(to)
    assert "checkpoint" not in there
    assert len(there) in {0, *range(32 * (pieces - 1), 32 * pieces + 1)}
    before = inodes(to)
    export(large, to)
    assert files_in(to) == files_of(random_leaves(MANY, seed=1))
    assert before.items() <= inodes(to).items(), "what was there has been written again"


def test_an_export_whose_checkpoint_is_taken_away_is_checked_and_completed(directory: DataDirectory, to: Path) -> None:
    export(directory, to)
    for path in ("checkpoint", "tile/0/001", "tile/entries/002.p/188"):
        (to / path).unlink()
    before = inodes(to)
    export(directory, to)
    assert files_in(to) == files_of(random_leaves(SIZE, seed=1))
    assert before.items() <= inodes(to).items()
    (to / "checkpoint").unlink()
    (to / "tile/0/001").write_bytes(flipped((to / "tile/0/001").read_bytes(), 7))
    with pytest.raises(UsageError, match=f"--to: {to / 'tile/0/001'} is there already"):
        export(directory, to)


def test_what_an_export_that_was_killed_has_left_is_removed(directory: DataDirectory, to: Path) -> None:
    to.mkdir()
    for name in (".treehead-tile-0123", ".treehead-checkpoint-0123", ".htaccess"):
        (to / name).write_bytes(b"half of it")
    export(directory, to)
    assert {path.name for path in to.iterdir()} == {".htaccess", ".treehead-lock", "checkpoint", "tile"}


def test_a_checkpoint_is_shown_when_all_that_it_implies_is_durable(
    large: DataDirectory, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    pending: dict[Path, set[Path]] = {}
    shown: list[set[Path]] = []

    def sync_data(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)

    def sync_directory(path: Path) -> None:
        pending[path] = set(path.iterdir())

    def replace(path: Path, data: bytes, *, mode: int) -> None:
        named = {file for file in to.rglob("*") if file.name[0] != "."}
        assert named == {file for file in named if file in pending.get(file.parent, set())}
        assert {file.stat().st_ino for file in named if file.is_file()} <= synced
        shown.append(named)

    for name, function in (("sync_data", sync_data), ("sync_directory", sync_directory), ("replace", replace)):
        monkeypatch.setattr(folder_module, name, function)
    export(large, to)
    assert len(shown) == 1
    assert len([path for path in shown[0] if path.is_file()]) == len(files_of(random_leaves(MANY, seed=1))) - 1


def test_an_export_that_follows_one_that_was_killed_syncs_the_names_that_it_finds(
    large: DataDirectory, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (to / "tile" / "0" / "x000").mkdir(parents=True)
    synced: set[Path] = set()
    monkeypatch.setattr(folder_module, "sync_directory", synced.add)
    export(large, to)
    folders = {path.parent for path in to.rglob("*") if path.name[0] != "."}
    assert to in folders
    assert folders <= synced


def test_a_full_disk_leaves_what_was_shown(templates: Path, directory: DataDirectory, to: Path) -> None:
    with files_no_larger_than(4_096), pytest.raises(StorageError, match=f"cannot write {to}.*: File too large"):
        export(directory, to)
    assert [name for name in files_in(to) if "p/" not in name] == []
    assert [path.name for path in to.iterdir() if path.name.startswith(".treehead-tile")] == []
    export(directory, to)
    assert files_in(to) == files_of(random_leaves(SIZE, seed=1))


def test_two_exports_do_not_write_to_one_folder(directory: DataDirectory, to: Path) -> None:
    with opened_folder(to), pytest.raises(StorageError, match="is being written by another export"):
        export(directory, to)


# --- folders that are not exported to --------------------------------------------------------------------------------


def test_a_folder_is_made_but_not_the_one_above_it(directory: DataDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--to .*/none/www: cannot make this folder: No such file or directory"):
        export(directory, tmp_path / "none" / "www")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match=r"--to .*/file: cannot make this folder: File exists"):
        export(directory, tmp_path / "file")


@pytest.mark.parametrize("way", [".", "..", "link"])
async def test_a_folder_that_would_expose_the_logs_key_is_refused(directory: DataDirectory, way: str) -> None:
    (directory.path.parent / "link").symlink_to(directory.path)
    to = directory.path.parent / "link" if way == "link" else directory.path / way
    with pytest.raises(UsageError, match="its key must not be served"):
        await run_export(
            directory,
            to,
            vkey=LOG_KEY,
            is_once=True,
            show_progress=lambda: contextlib.nullcontext(Progress()),
            announce=lambda _: None,
        )
    assert not (to / "checkpoint").exists()


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(sign_checkpoint(Checkpoint(origin=ORIGIN, size=3, root=EMPTY_ROOT), key=OTHER_LOG), id="key"),
        pytest.param(sign_checkpoint(Checkpoint(origin="other", size=3, root=EMPTY_ROOT), key=OTHER_LOG), id="log"),
        pytest.param(b"my notes on checkpoints\n", id="text"),
        pytest.param(b"", id="empty"),
        pytest.param(bytes(600_000), id="large"),
    ],
)
def test_a_folder_of_another_log_is_not_touched(directory: DataDirectory, to: Path, note: bytes) -> None:
    to.mkdir()
    (to / "checkpoint").write_bytes(note)
    with pytest.raises(UsageError, match=f"{to / 'checkpoint'}"):
        export(directory, to)
    assert files_in(to) == {"checkpoint": note}


def test_a_folder_with_another_tree_of_the_log_is_not_touched(directory: DataDirectory, to: Path) -> None:
    for size in (1, 256, 300, 700):
        to.mkdir()
        before = files_of(random_leaves(size, seed=2))
        (to / "checkpoint").write_bytes(before["checkpoint"])
        with pytest.raises(UsageError, match=f"shows another tree of size {size} than the log has: keep both"):
            export(directory, to)
        assert files_in(to) == {"checkpoint": before["checkpoint"]}
        shutil.rmtree(to)


async def test_a_folder_with_a_larger_tree_is_not_touched(directory: DataDirectory, tmp_path: Path, to: Path) -> None:
    export(await published(tmp_path / "newer", 800), to)
    before = files_in(to)
    with pytest.raises(UsageError, match="shows a tree of size 800, and the log has published one of 700: an older"):
        export(directory, to)
    assert files_in(to) == before


def in_the_place_of(kind: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(path.parent / "elsewhere")
        case "longer":
            path.write_bytes(bytes(100_000))
        case "same length":
            path.write_bytes(bytes(TILE_BYTES))
        case _:
            path.write_bytes(b"precious")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "longer", "same length"])
@pytest.mark.parametrize("path", ["tile/0/001", "tile/0/002.p/188", "tile/entries/000", "tile/1/000.p/2"])
def test_what_is_in_the_place_of_a_tile_is_named_and_not_touched(
    directory: DataDirectory, to: Path, path: str, kind: str
) -> None:
    in_the_place_of(kind, to / path)
    before = (to / path).lstat()
    with pytest.raises(UsageError, match=f"--to: {to / path} is there already"):
        export(directory, to)
    assert (to / path).lstat().st_ino == before.st_ino
    assert (to / path).lstat().st_mtime_ns == before.st_mtime_ns
    assert not (to / "checkpoint").exists()


@pytest.mark.parametrize("path", ["tile", "tile/0", "tile/entries", "tile/0/002.p"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_in_the_place_of_a_folder_is_named_and_not_touched(
    directory: DataDirectory, to: Path, path: str, kind: str
) -> None:
    in_the_place_of(kind, to / path)
    with pytest.raises(UsageError, match=f"--to: {to / path} is there already"):
        export(directory, to)
    assert not (to / "checkpoint").exists()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_in_the_place_of_the_checkpoint_is_named_and_not_touched(
    directory: DataDirectory, to: Path, kind: str
) -> None:
    in_the_place_of(kind, to / "checkpoint")
    with pytest.raises(UsageError, match=f"--to: {to / 'checkpoint'} is there already"):
        export(directory, to)
    assert [path.name for path in to.iterdir() if path.name[0] != "."] == ["checkpoint"]


# --- damaged databases -----------------------------------------------------------------------------------------------


def published_note(directory: DataDirectory) -> bytes:
    with contextlib.closing(sqlite3.connect(directory.database)) as connection:
        (note,) = connection.execute("select note from notes where name = 'published'").fetchone()
    assert isinstance(note, bytes)
    return note


Damage = Callable[[DataDirectory], None]


def bit(table: str, column: str, where: str, number: int) -> Damage:
    return lambda directory: flip_in_row(directory.database, table, column, where, number)


def sql(statement: str) -> Damage:
    return lambda directory: run_sql(directory.database, statement)


LEVEL_1 = 1 << 56
DAMAGES = [
    pytest.param(bit("entries", "leaf", "leaf_index = 17", 9), "entry 17 does not hash to what tile 0/0", id="entry"),
    pytest.param(bit("entries", "leaf", "leaf_index = 65535", 0), "entry 65535 does not hash", id="last_of_level_1"),
    pytest.param(bit("entries", "leaf", "leaf_index = 65999", 3), "entries from 65792 on are damaged", id="newest"),
    pytest.param(bit("tiles", "hashes", "place = 5", 70), "tile 0/5 is damaged: its inner nodes", id="tile_bottom"),
    pytest.param(bit("tiles", "hashes", "place = 5", 8 * TILE_BYTES + 1), "tile 0/5 is damaged", id="tile_inner"),
    pytest.param(bit("tiles", "hashes", "place = 5", 8 * EXPANDED_BYTES - 1), "tile 0/5 is damaged", id="tile_top"),
    pytest.param(bit("tiles", "hashes", f"place = {LEVEL_1}", 70), "tile 1/0 is damaged", id="level_1"),
    pytest.param(bit("tiles", "hashes", f"place = {LEVEL_1}", -1), "tile 1/0 is damaged", id="top_of_level_1"),
    pytest.param(bit("tiles", "hashes", "place = 256", -1), "tile 0/256 is damaged", id="top_that_is_in_the_edge"),
    pytest.param(sql("update tiles set hashes = zeroblob(16352) where place = 7"), "tile 0/7 is damaged", id="zeros"),
    pytest.param(
        sql("update tiles set hashes = (select hashes from tiles where place = 8) where place = 7"),
        "tile 0/7 is not what tile 1/0 has for it",
        id="another_tile",
    ),
    pytest.param(sql("update tiles set hashes = zeroblob(9) where place = 7"), "tile 0/7 is damaged", id="cut_tile"),
    pytest.param(sql("delete from tiles where place = 7"), "has lost tile 0/7", id="no_tile"),
    pytest.param(sql("delete from tiles where place = 1 << 56"), "has lost tile 1/0", id="no_tile_of_level_1"),
    pytest.param(sql("delete from entries where leaf_index = 600"), "has lost entry 600", id="no_entry"),
    pytest.param(sql("delete from entries where leaf_index = 767"), "has lost entry 767", id="no_last_entry"),
    pytest.param(sql("delete from entries where leaf_index > 65900"), "has lost entry 65901", id="no_newest"),
    pytest.param(sql("update entries set leaf = 'text' where leaf_index = 600"), "entry 600 is damaged", id="text"),
    pytest.param(bit("notes", "note", "name = 'published'", 240), "published checkpoint is not by", id="checkpoint"),
    pytest.param(bit("notes", "note", "name = 'published'", -30), "published checkpoint is not by", id="signature"),
    pytest.param(sql("update notes set note = 'text'"), "is not stored as bytes", id="note_of_text"),
    pytest.param(sql("drop table notes"), "cannot read the database", id="no_notes"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGES)
def test_a_damaged_database_is_not_exported(large: DataDirectory, to: Path, damage: Damage, complaint: str) -> None:
    damage(large)
    with pytest.raises(StorageError, match=complaint):
        export(large, to)
    written = files_in(to)
    assert "checkpoint" not in written
    assert written.items() <= files_of(random_leaves(MANY, seed=1)).items(), "something damaged was written"


async def test_a_database_that_was_damaged_since_the_last_export_is_not_exported(tmp_path: Path, to: Path) -> None:
    directory = await published(tmp_path / "log", 300)
    export(directory, to)
    before = files_in(to)
    await publish(directory, 900)
    flip_in_row(directory.database, "entries", "leaf", "leaf_index = 600", 9)
    with pytest.raises(StorageError, match="entry 600 does not hash"):
        export(directory, to)
    assert files_in(to)["checkpoint"] == before["checkpoint"]


def test_an_entry_whose_tile_was_changed_along_with_it_is_found(directory: DataDirectory, to: Path) -> None:
    """What a forger would do: each fits the other, and neither the signed root."""
    forged = files_of([b"forged", *random_leaves(SIZE, seed=1)[1:]])
    tile = format_expanded_tile(ExpandedTile.of(forged["tile/0/000"]))
    with contextlib.closing(sqlite3.connect(directory.database, isolation_level=None)) as connection:
        connection.execute("update entries set leaf = ? where leaf_index = 0", (b"forged",))
        connection.execute("update tiles set hashes = ? where place = 0", (tile,))
    with pytest.raises(StorageError, match="do not make the root that is signed"):
        export(directory, to)
    assert files_in(to) == {}


def test_a_published_checkpoint_that_is_lost_meanwhile_is_noticed(directory: DataDirectory, to: Path) -> None:
    with opened_folder(to) as folder:
        exporter = Exporter(directory.database, folder, vkey=LOG_KEY)
        exporter.catch_up(Progress(), is_stopped=lambda: False)
        run_sql(directory.database, "delete from notes")
        with pytest.raises(StorageError, match="has lost the checkpoint that was published"):
            exporter.catch_up(Progress(), is_stopped=lambda: False)


def test_another_logs_key_exports_nothing(directory: DataDirectory, to: Path) -> None:
    with pytest.raises(StorageError, match="published checkpoint is not by"):
        export(directory, to, vkey=OTHER_LOG_KEY)
    assert files_in(to) == {}
