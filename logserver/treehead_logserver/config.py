"""What the operator decides, and the limits of everything that grows; each limit's name ends in its unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from treehead.server import check_listening_address
from treehead.tls import ServerTls
from treehead_logserver.configfile import Witnessing
from treehead_logserver.quota import Rates
from treehead_logserver.rules import AdmissionRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one server process.

    What callers can make it hold without our taking it up is bounded by `calls_max` times `message_bytes_max`, 3 GiB,
    of which they have to send each byte; calls that gRPC has not handed out yet (`treehead.wire.PENDING_CALLS_MAX`)
    hold what one window of their connection does. What they do not take from it is bounded by `readers_max` and
    `finders_max` times a chunk or page, 32 MiB, and about four times that with the copies of SQLite, protobuf and gRPC.
    Such calls keep their place until the caller takes the answer or its connection ends
    (`treehead.wire.SERVER_OPTIONS`); together with all other streams they have at most half of the places.

    Over HTTP, what they have begun to send is bounded by `bodies_bytes_max`, and for each connection by its bounds
    (`treehead.httpconnection.HttpBounds`) and a short body (`http.bodies`), 64 MiB for all of them.

    Attributes:
        message_bytes_max: bytes in one request; a batch of 1,024 entries of 2 KB each fits.
        batch_entries_max: entries in one AddEntries call.
        find_entries_max, page_bytes_max: entries, and bytes of entries, in one page of FindEntries.
        chunk_entries_max, chunk_bytes_max: entries, and bytes of entries, in one message of GetEntries.
        commit_entries_max, commit_bytes_max: entries, and bytes of entries, in one transaction (one batch always fits).
        commit_terms_max: what these entries are found by, all together, likewise.
        queue_entries_max, queue_bytes_max: entries, and bytes of entries, that wait to be checked; as many again may
            wait to be logged.
        checkers: processes that check entries.
        entries_a_checker: entries that wait for each such process at work, before one more is asked.
        admission_entries_max: entries that such a process takes at a time, or 32 times as many of other bytes.
        admission_ms: how long it may take for them; then it is replaced.
        bodies_bytes_max: bytes of long bodies of HTTP requests, all together, from when they come until they are read.
        tiles_max: full tiles in memory, of 17 KB each.
        calls_max: calls under way at once.
        watchers_max, readers_max, finders_max: of these, calls of WatchCheckpoints, of GetEntries and of FindEntries.
        witnessed_max: submitters that wait for a published checkpoint.
        write_ms: how long the caller of a stream may take to make room for one message.
        retry_ms: after how long a submitter who found the log busy should come again.
        publish_ms: how long after one publication the next may follow.
        refresh_s: after how long the witnesses of an idle log are asked to cosign its checkpoint again.
        witness_ms: how long a witness may take to answer.
        grace_ms: how long those that are slower than the quorum are waited for.
        witnessed_ms: how long a submitter may wait for a published checkpoint with its entry.
        stall_ms: after how long a commit or publication that does not come about is a failure of the log.
        idle_ms: after how long without submissions the log does what it has put off.
        drain_ms: how long calls under way may take to end when the server stops.
    """

    message_bytes_max: int = 2_097_152
    batch_entries_max: int = 1_024
    find_entries_max: int = 64
    page_bytes_max: int = 262_144
    chunk_entries_max: int = 1_024
    chunk_bytes_max: int = 262_144
    commit_entries_max: int = 4_096
    commit_bytes_max: int = 16_777_216
    commit_terms_max: int = 32_768
    queue_entries_max: int = 16_384
    queue_bytes_max: int = 67_108_864
    checkers: int = 2
    entries_a_checker: int = 16
    admission_entries_max: int = 32
    admission_ms: int = 10_000
    bodies_bytes_max: int = 67_108_864
    tiles_max: int = 4_096
    calls_max: int = 1_536
    watchers_max: int = 256
    readers_max: int = 64
    finders_max: int = 64
    witnessed_max: int = 256
    write_ms: int = 30_000
    retry_ms: int = 100
    publish_ms: int = 1_000
    refresh_s: int = 600
    witness_ms: int = 2_000
    grace_ms: int = 100
    witnessed_ms: int = 10_000
    stall_ms: int = 30_000
    idle_ms: int = 50
    drain_ms: int = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """How to serve one log: from the directory `data`, on the addresses `grpc` and `http` (HOST:PORT, port 0: free).

    `insecure` permits addresses that others can reach without TLS.

    Raises:
        UsageError: an address is malformed, or others can reach it, and there is neither TLS nor `insecure`.
    """

    data: Path
    grpc: str
    http: str
    tls: ServerTls | None = None
    rules: AdmissionRules = field(default_factory=AdmissionRules)
    rates: Rates = field(default_factory=Rates)
    witnessing: Witnessing | None = None
    insecure: bool = False
    passphrase: bytes | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)

    @property
    def http_scheme(self) -> str:
        """How the address of the HTTP listener begins."""
        return "http" if self.tls is None else "https"

    def __post_init__(self) -> None:
        for address, flag in ((self.grpc, "--grpc"), (self.http, "--http")):
            check_listening_address(address, insecure=self.insecure, tls=self.tls is not None, flag=flag)
