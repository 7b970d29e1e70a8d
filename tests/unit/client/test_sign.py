"""What `treehead sign` makes of a file, before any log sees it."""

from pathlib import Path

import pytest

from tests.unit.library.specimens import P256_PUBLISHER, PUBLISHER, digests
from treehead.entry import parse_entry, verify_entry
from treehead.errors import UsageError
from treehead.privatekey import PrivateKey
from treehead_client.commands.sign import draft


@pytest.mark.parametrize("key", [PUBLISHER, P256_PUBLISHER])
def test_a_draft_is_a_signed_release_of_the_file(tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "six-1.17.0-py2.py3-none-any.whl"
    path.write_bytes(b"wheel")
    drafted = draft(str(path), purl=None, key=key)
    entry = parse_entry(drafted.leaf)
    verify_entry(entry)
    assert (drafted.label, entry.signer) == ("pypi:six 1.17.0", key.public)
    assert entry.artifacts[0].digests == digests(b"wheel")
    assert entry.release is not None
    assert (entry.release.filename, entry.release.size) == (path.name, 5)


@pytest.mark.parametrize("key", [PUBLISHER, P256_PUBLISHER])
def test_the_same_file_is_the_same_draft(tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"content")
    assert draft(str(path), purl=None, key=key) == draft(str(path), purl=None, key=key)


@pytest.mark.parametrize("filename", ["\x1b[31m.whl", "a\nb", "\u202egpj.whl", "\udcff.whl"])
def test_a_file_name_that_no_entry_could_hold_is_refused(tmp_path: Path, filename: str) -> None:
    path = tmp_path / filename
    path.write_bytes(b"content")
    with pytest.raises(UsageError):
        draft(str(path), purl="pkg:generic/file", key=PUBLISHER)


@pytest.mark.parametrize(
    "purl", ["pkg:generic/%1B%5B31m@1", "pkg:generic/name@1%0A2", "pkg:unnamed/name@1", "pkg:generic/" + "n" * 600]
)
def test_a_package_that_no_entry_could_name_is_refused(tmp_path: Path, purl: str) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"content")
    with pytest.raises(UsageError, match="cannot be signed as"):
        draft(str(path), purl=purl, key=PUBLISHER)
