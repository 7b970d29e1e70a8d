"""An artifact is read once, in little memory, whatever its size."""

import tracemalloc
from hashlib import sha256, sha512
from pathlib import Path

import pytest

from treehead.errors import UsageError
from treehead_client.artifact import read_artifact


@pytest.mark.parametrize("size", [0, 1, 1_048_575, 1_048_576, 1_048_577, 3_000_000])
def test_the_digests_are_those_of_the_whole_file(tmp_path: Path, size: int) -> None:
    content = bytes(index * 7 & 0xFF for index in range(size))
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    artifact = read_artifact(str(path))
    assert (artifact.filename, artifact.size) == ("file.bin", size)
    assert artifact.digests == {"sha256": sha256(content).digest(), "sha512": sha512(content).digest()}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(64_000_000)
    tracemalloc.start()
    try:
        assert read_artifact(str(path)).size == 64_000_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: No such file"):
        read_artifact(str(tmp_path / "nowhere"))
