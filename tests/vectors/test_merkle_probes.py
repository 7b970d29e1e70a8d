"""The proof probes of transparency-dev/merkle: one attack a file, accepted or refused as the file says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treehead.encoding import Fields, JsonValue, parse_base64, parse_json_object
from treehead.errors import ConsistencyError, InclusionError, RefusedError
from treehead.merkle import verify_consistency, verify_inclusion

FILE_BYTES_MAX = 65_536


def probes(folder: Path) -> Iterator[tuple[str, Fields]]:
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        pytest.skip(f"no probes in {folder}")
    for path in paths:
        yield (
            str(path.relative_to(folder)),
            Fields(parse_json_object(path.read_bytes(), what=path.name, bytes_max=FILE_BYTES_MAX), path=path.name),
        )


def number(fields: Fields, name: str) -> int:
    """A number as Go's unsigned 64-bit arithmetic left it in the file."""
    value = fields.value(name)
    assert isinstance(value, int)
    return value


def hash_(value: JsonValue) -> bytes:
    """A hash; null stands for an empty one, and is an attack like any other."""
    assert value is None or isinstance(value, str)
    return parse_base64(value or "", what="hash")


def hashes(value: JsonValue) -> tuple[bytes, ...]:
    assert value is None or isinstance(value, list)
    return tuple(map(hash_, value or []))


def outcome(verify: Any, error: type[RefusedError], **arguments: object) -> bool:
    """Whether it was accepted. Anything but the one error is let through, and fails the test."""
    try:
        verify(**arguments)
    except error:
        return False
    return True


def test_inclusion_probes(vectors: Path) -> None:
    wrong, seen = [], set()
    for name, fields in probes(vectors / "merkle" / "inclusion"):
        accepted = outcome(
            verify_inclusion,
            InclusionError,
            index=number(fields, "leafIdx"),
            size=number(fields, "treeSize"),
            leaf_hash=hash_(fields.value("leafHash")),
            proof=hashes(fields.value("proof")),
            root=hash_(fields.value("root")),
        )
        expected = fields.value("wantErr") is False
        seen.add(expected)
        if accepted is not expected:
            wrong.append(name)
    assert wrong == []
    assert seen == {True, False}, "probes of both directions are there"


def test_consistency_probes(vectors: Path) -> None:
    wrong, seen = [], set()
    for name, fields in probes(vectors / "merkle" / "consistency"):
        size1, size2 = number(fields, "size1"), number(fields, "size2")
        accepted = outcome(
            verify_consistency,
            ConsistencyError,
            size1=size1,
            size2=size2,
            root1=hash_(fields.value("root1")),
            root2=hash_(fields.value("root2")),
            proof=hashes(fields.value("proof")),
        )
        expected = fields.value("wantErr") is False
        seen.add(expected)
        if accepted is not expected:
            wrong.append(name)
    assert wrong == []
    assert seen == {True, False}, "probes of both directions are there"
