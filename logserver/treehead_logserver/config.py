"""What the operator decides, and the limits of everything that grows; each limit's name ends in its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from treehead.errors import TooLargeError, UsageError
from treehead.files import read_limited
from treehead.wire import is_loopback, parse_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one server process.

    Attributes:
        batch_entries_max: entries in one AddEntries call.
        find_entries_max: entries in one page of FindEntries; with the largest entries a page still fits a message.
        chunk_entries_max, chunk_bytes_max: entries, and bytes of entries, in one message of GetEntries.
        commit_entries_max, commit_bytes_max: entries, and bytes of entries, in one transaction (one batch always fits).
        queue_entries_max, queue_bytes_max: entries, and bytes of entries, that wait to be checked; as many again may
            wait to be logged.
        admission_threads: threads that check entries; parsing holds the interpreter lock, so a second one gains little.
        admission_entries_max: entries that such a thread takes at a time.
        tiles_max: expanded tiles in memory, of 41 KB each.
        calls_max: calls under way at once.
        watchers_max: of these, calls of WatchCheckpoints.
        retry_ms: after how long a submitter who found the log busy should come again.
        drain_ms: how long calls under way may take to end when the server stops.
    """

    batch_entries_max: int = 1_024
    find_entries_max: int = 64
    chunk_entries_max: int = 1_024
    chunk_bytes_max: int = 1_048_576
    commit_entries_max: int = 4_096
    commit_bytes_max: int = 16_777_216
    queue_entries_max: int = 16_384
    queue_bytes_max: int = 67_108_864
    admission_threads: int = 1
    admission_entries_max: int = 64
    tiles_max: int = 1_024
    calls_max: int = 4_096
    watchers_max: int = 1_024
    retry_ms: int = 100
    drain_ms: int = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """How to serve one log: from the directory `data`, on the address `grpc` (HOST:PORT, port 0 for a free one).

    `insecure` permits an address that others can reach, although there is no TLS.

    Raises:
        UsageError: the address is malformed, or others can reach it and `insecure` is not given.
    """

    data: Path
    grpc: str
    insecure: bool = False
    passphrase: bytes | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parse_address(self.grpc)
        if not self.insecure and not is_loopback(self.grpc):
            raise UsageError(
                f"--grpc {self.grpc} can be reached from other machines, and this version has no TLS: "
                "use a loopback address, or add --insecure if the network between is yours"
            )


PASSPHRASE_VARIABLE = "TREEHEAD_PASSPHRASE"  # noqa: S105 -- where to find one
PASSPHRASE_BYTES_MAX = 4_096


def read_passphrase(path: Path | None, environment: Mapping[str, str]) -> bytes | None:
    """The passphrase of the log's key: the first line of the file, else the variable, else None for a plain key file.

    Raises:
        UsageError: the file cannot be read or is too large, or the passphrase is empty.
    """
    if path is not None:
        try:
            line = read_limited(path, bytes_max=PASSPHRASE_BYTES_MAX, what="passphrase file").partition(b"\n")[0]
        except TooLargeError as exc:
            raise UsageError(f"--passphrase-file: {exc}") from exc
        where = f"--passphrase-file {path}"
    elif PASSPHRASE_VARIABLE in environment:
        line, where = environment[PASSPHRASE_VARIABLE].encode(), PASSPHRASE_VARIABLE
    else:
        return None
    if not line:
        raise UsageError(f"{where} is empty: give a passphrase, or leave it out for a key file that is not encrypted")
    return line
