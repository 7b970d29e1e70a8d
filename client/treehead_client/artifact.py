"""The artifact at hand, read once from end to end in little memory."""

from __future__ import annotations

import hashlib

from treehead.errors import UsageError
from treehead.files import open_regular
from treehead.verify import ArtifactFile

_CHUNK_BYTES = 1_048_576


def read_artifact(path: str) -> ArtifactFile:
    """The size and the digests of a file, under the last part of its path.

    Raises:
        UsageError: it cannot be read, or is no regular file.
    """
    sha256, sha512 = hashlib.sha256(), hashlib.sha512()
    size = 0
    chunk = memoryview(bytearray(_CHUNK_BYTES))
    try:
        with open_regular(path, what="file") as file:
            while count := file.readinto(chunk):
                size += count
                sha256.update(chunk[:count])
                sha512.update(chunk[:count])
    except OSError as exc:
        raise UsageError(f"cannot read file {path}: {exc.strerror}") from exc
    return ArtifactFile(
        filename=path.rpartition("/")[2], size=size, digests={"sha256": sha256.digest(), "sha512": sha512.digest()}
    )
