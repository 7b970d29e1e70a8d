"""The demonstration's wheels are real ones."""

from hashlib import new
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.utils import parse_wheel_filename

from treehead.errors import UsageError
from treehead_client.demo.wheel import bundled_wheel, rebuilt_wheel


@pytest.mark.parametrize("name", ["packaging", "packageurl-python", "rfc8785"])
def test_a_rebuilt_wheel_holds_what_its_record_says(tmp_path: Path, name: str) -> None:
    wheel = rebuilt_wheel(name, tmp_path)
    project, version, _, tags = parse_wheel_filename(wheel.name)
    assert project == name
    assert {tag.platform for tag in tags} == {"any"}
    with ZipFile(wheel) as archive:
        (record,) = (member for member in archive.namelist() if member.endswith(".dist-info/RECORD"))
        lines = archive.read(record).decode().splitlines()
        assert {line.split(",")[0] for line in lines} == set(archive.namelist())
        for line in lines:
            path, digest, size = line.split(",")
            if path != record:
                algorithm, _, expected = digest.partition("=")
                content = archive.read(path)
                assert len(content) == int(size)
                assert urlsafe_base64(new(algorithm, content).digest()) == expected
    assert f"-{version}-" in wheel.name


def urlsafe_base64(digest: bytes) -> str:
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(digest).decode().rstrip("=")


def test_a_distribution_without_a_record_makes_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "lost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lost\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="no record"):
        rebuilt_wheel("lost", tmp_path)


def test_the_wheel_that_python_brings_is_copied(tmp_path: Path) -> None:
    wheel = bundled_wheel(tmp_path)
    if wheel is None:
        pytest.skip("this Python brings no wheel of pip")
    assert wheel.parent == tmp_path
    with ZipFile(wheel) as archive:
        assert archive.testzip() is None
