"""The data directory: whole or not there, one process at a time, and never overwritten."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.contracts.test_sqlite_storage import files_no_larger_than
from treehead import files
from treehead.datadir import locked, read_key, read_vkey
from treehead.errors import StorageError, UsageError
from treehead.keyfile import create_private_key
from treehead.keys import NoteKeyType, Scheme, VerifierKey, format_vkey, parse_vkey
from treehead_logserver import datadir
from treehead_logserver.datadir import DataDirectory, create_log

ORIGIN = "log.example/2026"


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    return DataDirectory(path=tmp_path / "nested" / "log")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_log_has_a_key_of_its_own_that_nobody_else_can_read(directory: DataDirectory) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=None)
    assert (vkey.name, vkey.key_type) == (ORIGIN, NoteKeyType.ED25519)
    assert directory.vkey.read_text() == f"{format_vkey(vkey)}\n"
    assert read_vkey(directory) == vkey
    assert mode(directory.path) == 0o700
    assert mode(directory.key) == 0o600
    key = read_key(directory, vkey=vkey, passphrase=None)
    assert key.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519) == vkey


def test_two_logs_of_one_origin_have_different_keys(tmp_path: Path) -> None:
    first, second = (
        create_log(DataDirectory(path=tmp_path / name), origin=ORIGIN, passphrase=None) for name in ("a", "b")
    )
    assert first.public_key != second.public_key


def test_a_directory_that_is_there_keeps_its_mode_and_its_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / "notes").write_text("the operator's own")
    create_log(DataDirectory(path=tmp_path), origin=ORIGIN, passphrase=None)
    assert mode(tmp_path) == 0o750
    assert (tmp_path / "notes").read_text() == "the operator's own"


def test_a_passphrase_encrypts_the_key_and_opens_it(directory: DataDirectory) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=b"secret")
    assert b"ENCRYPTED" in directory.key.read_bytes()
    read_key(directory, vkey=vkey, passphrase=b"secret")
    with pytest.raises(UsageError, match="encrypted"):
        read_key(directory, vkey=vkey, passphrase=None)
    with pytest.raises(UsageError, match="passphrase"):
        read_key(directory, vkey=vkey, passphrase=b"wrong")


def test_a_log_is_never_made_twice(directory: DataDirectory) -> None:
    create_log(directory, origin=ORIGIN, passphrase=None)
    before = contents(directory.path)
    with pytest.raises(UsageError, match="holds a log already"):
        create_log(directory, origin="other.example", passphrase=None)
    assert contents(directory.path) == before


@pytest.mark.parametrize("name", ["key.pem", "log.sqlite", "high-water"])
def test_what_an_unfinished_init_left_is_no_log_and_is_not_touched(directory: DataDirectory, name: str) -> None:
    create_log(directory, origin=ORIGIN, passphrase=None)
    for path in (directory.key, directory.database, directory.mark, directory.vkey):
        if path.name != name:
            path.unlink()
    before = contents(directory.path)
    with pytest.raises(UsageError, match=f"{name} is there, but no log"):
        create_log(directory, origin=ORIGIN, passphrase=None)
    assert contents(directory.path) == before
    with pytest.raises(UsageError, match="holds no log"):
        read_vkey(directory)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u00a0b", "x" * 256, "\u00e9" * 128, "\udc80"])
def test_an_origin_that_cannot_name_a_log_is_refused_before_anything_is_written(
    directory: DataDirectory, origin: str
) -> None:
    with pytest.raises(UsageError, match="cannot name a log"):
        create_log(directory, origin=origin, passphrase=None)
    assert not directory.path.parent.exists()


@pytest.mark.parametrize("size_bytes", [0, 64, 4_096])
def test_an_init_that_fails_leaves_nothing(tmp_path: Path, size_bytes: int) -> None:
    directory = DataDirectory(path=tmp_path / "log")
    with files_no_larger_than(size_bytes), pytest.raises(StorageError, match="cannot"):
        create_log(directory, origin=ORIGIN, passphrase=None)
    assert list(tmp_path.iterdir()) == []
    create_log(directory, origin=ORIGIN, passphrase=None)


def test_an_init_that_fails_at_its_last_step_leaves_no_log(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(directory: DataDirectory, vkey: VerifierKey) -> None:
        raise StorageError(f"cannot write {directory.vkey} ({vkey})")

    directory.path.mkdir(parents=True)
    monkeypatch.setattr(datadir, "write_vkey", fail)
    with pytest.raises(StorageError, match="cannot write"):
        create_log(directory, origin=ORIGIN, passphrase=None)
    assert not {"key.pem", "log.sqlite", "vkey"} & set(contents(directory.path))


def test_an_init_whose_last_sync_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = DataDirectory(path=tmp_path / "log")

    def fail(path: Path) -> None:
        if directory.vkey.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "sync_directory", fail)
    with pytest.raises(StorageError, match=f"cannot write {directory.vkey}: Input/output error"):
        create_log(directory, origin=ORIGIN, passphrase=None)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--data"):
        create_log(DataDirectory(path=tmp_path / "file"), origin=ORIGIN, passphrase=None)
    with pytest.raises(UsageError, match="--data"):
        create_log(DataDirectory(path=tmp_path / "file" / "below"), origin=ORIGIN, passphrase=None)


def test_one_process_at_a_time(directory: DataDirectory) -> None:
    create_log(directory, origin=ORIGIN, passphrase=None)
    with locked(directory):
        with pytest.raises(StorageError, match="in use by another process"), locked(directory):
            pass
        with pytest.raises(StorageError, match="in use by another process"):
            create_log(directory, origin=ORIGIN, passphrase=None)
    with locked(directory):
        pass


def test_a_directory_without_a_log_has_no_vkey(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="holds no log: make one with treehead-log init"):
            read_vkey(DataDirectory(path=path))


@pytest.mark.parametrize("content", [b"", b"\xff", b"log.example", b"x" * 10_000])
def test_a_damaged_vkey_is_refused(directory: DataDirectory, content: bytes) -> None:
    create_log(directory, origin=ORIGIN, passphrase=None)
    directory.vkey.write_bytes(content)
    with pytest.raises(UsageError, match=str(directory.vkey)):
        read_vkey(directory)


@pytest.mark.parametrize("scheme", Scheme)
def test_a_key_that_is_not_the_logs_is_refused(directory: DataDirectory, scheme: Scheme) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=None)
    directory.key.unlink()
    create_private_key(directory.key, scheme=scheme, passphrase=None)
    with pytest.raises(UsageError, match=r"is not the key that|need an Ed25519 key"):
        read_key(directory, vkey=vkey, passphrase=None)


def test_the_vkey_on_disk_is_the_vkey_printed(directory: DataDirectory) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=None)
    assert parse_vkey(directory.vkey.read_text().strip()) == vkey
