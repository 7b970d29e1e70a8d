"""Key files: made so that nobody else can read them, and refused when somebody can."""

import os
from pathlib import Path

import pytest

from treehead.errors import UsageError
from treehead.keyfile import create_private_key, read_passphrase, read_private_key
from treehead.publickey import PRIVATE_KEY_SCHEMES, Scheme


@pytest.mark.parametrize("scheme", PRIVATE_KEY_SCHEMES)
@pytest.mark.parametrize("passphrase", [None, b"secret"])
def test_a_key_file_is_made_for_its_owner_alone(tmp_path: Path, scheme: Scheme, passphrase: bytes | None) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        key = create_private_key(path, scheme=scheme, passphrase=passphrase)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private_key(path, passphrase=passphrase).public == key.public
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = create_private_key(path, scheme=Scheme.ED25519, passphrase=None)
    with pytest.raises(UsageError, match="exists already"):
        create_private_key(path, scheme=Scheme.ED25519, passphrase=None)
    assert read_private_key(path, passphrase=None).public == key.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666, 0o677])
def test_a_key_file_that_others_can_use_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    create_private_key(path, scheme=Scheme.ED25519, passphrase=b"secret")
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"mode {mode:04o}\): run chmod 600 "):
        read_private_key(path, passphrase=b"secret")


def test_each_fault_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(UsageError, match=f"{path}.*No such file"):
        read_private_key(path, passphrase=None)
    with pytest.raises(UsageError, match=r"cannot create .*No such file"):
        create_private_key(tmp_path / "none" / "key", scheme=Scheme.ED25519, passphrase=None)
    create_private_key(path, scheme=Scheme.ED25519, passphrase=b"right")
    with pytest.raises(UsageError, match=f"{path}: wrong passphrase"):
        read_private_key(path, passphrase=b"wrong")
    with pytest.raises(UsageError, match=f"{path}: .*give its passphrase"):
        read_private_key(path, passphrase=None)
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(UsageError, match=f"{path}.*larger than"):
        read_private_key(path, passphrase=None)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=f"{path}: not a PKCS#8 private key"):
        read_private_key(path, passphrase=None)


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    with pytest.raises(UsageError, match=str(folder)):
        read_private_key(folder, passphrase=None)


def test_no_file_is_left_when_the_passphrase_cannot_encrypt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="passphrase has 0 bytes"):
        create_private_key(tmp_path / "key", scheme=Scheme.ED25519, passphrase=b"")
    assert list(tmp_path.iterdir()) == []


def passphrase_file(folder: Path, content: bytes, *, mode: int = 0o600) -> Path:
    path = folder / "passphrase"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_passphrase_is_the_one_line_of_its_file(tmp_path: Path, end: bytes) -> None:
    path = passphrase_file(tmp_path, b" from the file " + end)
    assert read_passphrase(path, environment={"TREEHEAD_PASSPHRASE": "from the variable"}) == b" from the file "


def test_without_a_file_the_passphrase_is_in_the_environment_or_nowhere() -> None:
    assert read_passphrase(None, environment={"TREEHEAD_PASSPHRASE": "from the variable"}) == b"from the variable"
    assert read_passphrase(None, environment={"TREEHEAD_PASSPHRASE": "\udcff"}) == b"\xff"
    assert read_passphrase(None, environment={}) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"one\ntwo\n", "more than one line"), (b"x" * 5_000, "larger than")],
)
def test_a_passphrase_file_with_anything_else_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = passphrase_file(tmp_path, content)
    with pytest.raises(UsageError, match=reason):
        read_passphrase(path, environment={})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o440, 0o644])
def test_a_passphrase_file_that_others_can_use_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = passphrase_file(tmp_path, b"secret\n", mode=mode)
    with pytest.raises(UsageError, match=rf"{path} is accessible to others \(mode {mode:04o}\): run chmod 600 {path}"):
        read_passphrase(path, environment={})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
@pytest.mark.parametrize(("mode", "is_read"), [(0o440, True), (0o640, True), (0o460, False), (0o444, False)])
def test_a_passphrase_that_root_lets_a_group_read_is_a_credential_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_read: bool
) -> None:
    path = passphrase_file(tmp_path, b"secret\n", mode=mode)
    key = tmp_path / "key"
    create_private_key(key, scheme=Scheme.ED25519, passphrase=None)
    key.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    if is_read:
        assert read_passphrase(path, environment={}) == b"secret"
    else:
        with pytest.raises(UsageError, match="accessible to others"):
            read_passphrase(path, environment={})
    with pytest.raises(UsageError, match="accessible to others"):
        read_private_key(key, passphrase=None)


def test_a_passphrase_that_was_meant_but_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    # A variable that is set and empty is what a secret looks like that a CI job could not read.
    with pytest.raises(UsageError, match="TREEHEAD_PASSPHRASE is empty"):
        read_passphrase(None, environment={"TREEHEAD_PASSPHRASE": ""})
    with pytest.raises(UsageError, match="missing"):
        read_passphrase(tmp_path / "missing", environment={})
