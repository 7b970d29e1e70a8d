"""The data directory: whole or not there, one process at a time, and never overwritten."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.contracts.test_sqlite_storage import files_no_larger_than
from tests.tokens import PIN, SoftToken, make_token
from treehead import files
from treehead.datadir import locked, read_key, read_key_uri, read_vkey, signing_key
from treehead.errors import StorageError, UsageError
from treehead.keyfile import create_private_key
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.publickey import PRIVATE_KEY_SCHEMES, Scheme
from treehead_logserver import datadir
from treehead_logserver.datadir import DataDirectory, create_log
from treehead_logserver.highwater import read_mark

ORIGIN = "log.example/2026"
URI = "pkcs11:token=log;object=key?module-path=/usr/lib/p11.so\n"


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


@pytest.mark.parametrize("name", ["key.pem", "key.uri", "log.sqlite", "high-water"])
def test_what_an_unfinished_init_left_is_no_log_and_is_not_touched(directory: DataDirectory, name: str) -> None:
    create_log(directory, origin=ORIGIN, passphrase=None)
    directory.key_uri.write_text(URI)
    for path in (directory.key, directory.key_uri, directory.database, directory.mark, directory.vkey):
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


@pytest.mark.parametrize("scheme", PRIVATE_KEY_SCHEMES)
def test_a_key_that_is_not_the_logs_is_refused(directory: DataDirectory, scheme: Scheme) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=None)
    directory.key.unlink()
    create_private_key(directory.key, scheme=scheme, passphrase=None)
    with pytest.raises(UsageError, match=r"is not the key that|need an Ed25519 key"):
        read_key(directory, vkey=vkey, passphrase=None)


def test_the_vkey_on_disk_is_the_vkey_printed(directory: DataDirectory) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=None)
    assert parse_vkey(directory.vkey.read_text().strip()) == vkey


# --- a key in a token ------------------------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftToken:
    token = make_token(tmp_path / "token")
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    token.generate()
    return token


def test_a_log_whose_key_is_in_a_token_has_no_key_file(directory: DataDirectory, token: SoftToken) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=PIN.encode(), key_uri=token.uri())
    assert vkey == read_vkey(directory)
    assert not directory.key.exists()
    assert directory.key_uri.read_text() == f"{token.uri()}\n"
    assert mode(directory.key_uri) == 0o600
    assert read_mark(directory.mark, vkey=vkey).size == 0  # signed by that key
    with signing_key(directory, vkey=vkey, passphrase=PIN.encode()) as key:
        assert key.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519) == vkey
    with pytest.raises(UsageError, match=f"{directory.key_uri} says that the key is in a token"):
        read_key(directory, vkey=vkey, passphrase=PIN.encode())


def test_a_key_file_gives_a_signing_key_as_well(directory: DataDirectory) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=b"secret")
    with signing_key(directory, vkey=vkey, passphrase=b"secret") as key:
        assert key.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519) == vkey


@pytest.mark.parametrize("found", ["both", "neither"])
def test_a_log_has_one_key_in_one_place(directory: DataDirectory, found: str) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=None)
    if found == "both":
        directory.key_uri.write_text(URI)
    else:
        directory.key.unlink()
    with (
        pytest.raises(UsageError, match=rf"of {directory.key} and {directory.key_uri} .* there are {found}"),
        signing_key(directory, vkey=vkey, passphrase=None),
    ):
        pass


def test_a_token_with_another_key_than_the_logs_is_refused(directory: DataDirectory, token: SoftToken) -> None:
    vkey = create_log(directory, origin=ORIGIN, passphrase=PIN.encode(), key_uri=token.uri())
    token.generate(label="other", id_=b"\x02")
    directory.key_uri.write_text(token.uri(label="other"))
    with (
        pytest.raises(UsageError, match=f"{directory.key_uri} is not the key that {directory.vkey} names"),
        signing_key(directory, vkey=vkey, passphrase=PIN.encode()),
    ):
        pass


@pytest.mark.parametrize("passphrase", [b"wrong", None])
def test_an_init_without_the_right_pin_leaves_nothing(tmp_path: Path, token: SoftToken, passphrase: bytes) -> None:
    directory = DataDirectory(path=tmp_path / "log")
    with pytest.raises(UsageError, match="PIN"):
        create_log(directory, origin=ORIGIN, passphrase=passphrase, key_uri=token.uri())
    assert not directory.path.exists()


def test_an_init_that_fails_over_a_token_key_leaves_nothing(
    tmp_path: Path, token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(directory: DataDirectory, vkey: VerifierKey) -> None:
        raise StorageError(f"cannot write {directory.vkey} ({vkey})")

    directory = DataDirectory(path=tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr(datadir, "write_vkey", fail)
        with pytest.raises(StorageError, match="cannot write"):
            create_log(directory, origin=ORIGIN, passphrase=PIN.encode(), key_uri=token.uri())
    assert not directory.path.exists()
    create_log(directory, origin=ORIGIN, passphrase=PIN.encode(), key_uri=token.uri())  # the token was let go of


@pytest.mark.parametrize(
    "uri", ["", "key.pem", "pkcs11:token=log;object=key", "pkcs11:token=a;object=b?module-path=/m&pin-value=4711"]
)
def test_an_init_with_a_uri_that_is_none_makes_nothing(directory: DataDirectory, uri: str) -> None:
    with pytest.raises(UsageError, match=r"^--pkcs11: ") as refused:
        create_log(directory, origin=ORIGIN, passphrase=None, key_uri=uri)
    assert "4711" not in str(refused.value)
    assert not directory.path.parent.exists()


@pytest.mark.parametrize("content", ["", "\n", "\xff", "a" * 10_000, URI * 2, URI.replace("\n", "&pin-value=4711\n")])
def test_a_damaged_key_uri_is_refused(directory: DataDirectory, content: str) -> None:
    directory.path.mkdir(parents=True)
    directory.key_uri.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=str(directory.key_uri)) as refused:
        read_key_uri(directory)
    assert "4711" not in str(refused.value)


@pytest.mark.parametrize("others", [0o620, 0o602, 0o666])
def test_a_key_uri_that_others_could_have_written_is_refused(directory: DataDirectory, others: int) -> None:
    directory.path.mkdir(parents=True)
    directory.key_uri.write_text(URI)
    directory.key_uri.chmod(0o644)
    assert str(read_key_uri(directory)) == URI.removesuffix("\n")
    directory.key_uri.chmod(others)
    with pytest.raises(UsageError, match=rf"mode {others:04o}\): run chmod 600 {directory.key_uri}"):
        read_key_uri(directory)
