"""What a monitor knows, read from its directory: whether it runs or not, and without getting in its way."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from treehead.checkpoint import parse_checkpoint
from treehead.display import printable, printable_name
from treehead.encoding import format_base64, format_hex
from treehead.errors import MalformedError, StorageError
from treehead.note import parse_note
from treehead.sqlite import connect
from treehead_monitor.database import SCHEMA
from treehead_monitor.datadir import DataDirectory
from treehead_monitor.peer import PeerRecord
from treehead_monitor.suspicion import Doubt, Suspicion


class State(Enum):
    """How a log stands."""

    OK = "ok"
    UNVERIFIED = "unverified"
    """Followed, but no head was verified yet."""

    SUSPICION = "suspicion"
    MISBEHAVED = "misbehaved"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedHead:
    """A signed head that is not resolved yet."""

    size: int
    root: bytes
    source: str
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRecord:
    """An evidence file; `id` is its SHA-256 in hexadecimal."""

    id: str
    origin: str
    fork: str
    sizes: tuple[int, int]
    source: str
    kept_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """One log; times are milliseconds since 1970.

    `size`, `root`, `verified_ms` and `checkpoint`, the signed note, are those of the verified head.
    """

    origin: str
    vkey: str
    address: str
    followed: bool
    size: int | None
    root: bytes | None
    checkpoint: bytes | None
    verified_ms: int | None
    contact_ms: int | None
    cosigned_at: int | None
    suspicions: tuple[Suspicion, ...]
    parked: tuple[ParkedHead, ...]
    evidence: tuple[EvidenceRecord, ...]

    @property
    def state(self) -> State:
        """The gravest thing there is to say."""
        if self.evidence:
            return State.MISBEHAVED
        if any(suspicion.standing for suspicion in self.suspicions):
            return State.SUSPICION
        return State.UNVERIFIED if self.size is None else State.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of it. A log that is not followed any more is still listed, since misbehaviour stays proven."""

    logs: tuple[LogStatus, ...]
    peers: tuple[PeerRecord, ...]

    @property
    def is_misbehaviour_proven(self) -> bool:
        """Whether there is evidence against any log."""
        return any(log.evidence for log in self.logs)

    @property
    def is_assured(self) -> bool:
        """Whether every followed log is verified and beyond suspicion, and some peer answers, if there are any."""
        followed = [log for log in self.logs if log.followed]
        answered = [peer for peer in self.peers if peer.contact_ms is not None and not peer.failures]
        return bool(followed) and all(log.state is State.OK for log in followed) and bool(answered or not self.peers)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_status(directory: DataDirectory) -> Status:
    """The status of the monitor in a directory.

    Raises:
        StorageError: its database cannot be read.
    """
    try:
        with contextlib.closing(connect(directory.database, SCHEMA, is_writer=False)) as connection:
            connection.execute("begin")  # one moment, however long the reading takes
            return Status(logs=_read_logs(connection), peers=_read_peers(connection))
    except (sqlite3.Error, MalformedError) as exc:
        raise StorageError(f"cannot read the database {directory.database}: {exc}") from exc


def _read_logs(connection: sqlite3.Connection) -> tuple[LogStatus, ...]:
    rows = connection.execute(
        "select id, vkey, address, followed, size, note, verified_ms, contact_ms, cosigned_at from logs order by vkey"
    ).fetchall()
    return tuple(
        LogStatus(
            origin=_origin(vkey),
            vkey=vkey,
            address=address,
            followed=bool(followed),
            size=size,
            root=None if note is None else parse_checkpoint(parse_note(note).text).root,
            checkpoint=note,
            verified_ms=verified_ms,
            contact_ms=contact_ms,
            cosigned_at=cosigned_at,
            suspicions=_read_suspicions(connection, log),
            parked=_read_parked(connection, log),
            evidence=_read_evidence(connection, log, origin=_origin(vkey)),
        )
        for log, vkey, address, followed, size, note, verified_ms, contact_ms, cosigned_at in rows
    )


def _origin(vkey: str) -> str:
    return vkey.partition("+")[0]


def _read_suspicions(connection: sqlite3.Connection, log: bytes) -> tuple[Suspicion, ...]:
    rows = connection.execute(
        "select doubt, reason, since_ms, count, standing from suspicions where log = ? order by since_ms", (log,)
    )
    return tuple(
        Suspicion(doubt=Doubt(doubt), reason=reason, since_ms=since_ms, count=count, standing=bool(standing))
        for doubt, reason, since_ms, count, standing in rows
    )


def _read_parked(connection: sqlite3.Connection, log: bytes) -> tuple[ParkedHead, ...]:
    rows = connection.execute(
        "select size, root, source, since_ms from parked where log = ? order by size, root", (log,)
    )
    return tuple(
        ParkedHead(size=size, root=root, source=source, since_ms=since_ms) for size, root, source, since_ms in rows
    )


def _read_evidence(connection: sqlite3.Connection, log: bytes, *, origin: str) -> tuple[EvidenceRecord, ...]:
    rows = connection.execute(
        "select id, fork, size1, size2, source, kept_ms from evidence where log = ? order by kept_ms, id", (log,)
    )
    return tuple(
        EvidenceRecord(
            id=format_hex(id_), origin=origin, fork=fork, sizes=(size1, size2), source=source, kept_ms=kept_ms
        )
        for id_, fork, size1, size2, source, kept_ms in rows
    )


def _read_peers(connection: sqlite3.Connection) -> tuple[PeerRecord, ...]:
    rows = connection.execute(
        "select address, contact_ms, failures, failing_since_ms, error, faults from peers"
        " where configured order by address"
    )
    return tuple(
        PeerRecord(
            address=address,
            contact_ms=contact_ms,
            failures=failures,
            failing_since_ms=failing_since_ms,
            error=error,
            faults=faults,
        )
        for address, contact_ms, failures, failing_since_ms, error, faults in rows
    )


# --- printing --------------------------------------------------------------------------------------------------------


def format_status(status: Status) -> str:
    """The status for people, one fact a line."""
    lines: list[str] = []
    for log in status.logs:
        lines.append(f"log {log.origin}: {log.state.value}{'' if log.followed else ' (not followed any more)'}")
        if log.size is not None and log.root is not None:
            lines.append(f"  verified size {log.size}, root {format_base64(log.root)}, {_when(log.verified_ms)}")
        lines += [
            f"  suspicion ({doubt.doubt.value}) since {_when(doubt.since_ms)}: {doubt.reason}"
            for doubt in log.suspicions
            if doubt.standing
        ]
        lines += [
            f"  unresolved head of size {head.size}, root {format_base64(head.root)}, from {head.source}, "
            f"{_when(head.since_ms)}"
            for head in log.parked
        ]
        lines += [f"  evidence {evidence.id}" for evidence in log.evidence]
    for peer in status.peers:
        last = "has not answered yet" if peer.contact_ms is None else f"answered last {_when(peer.contact_ms)}"
        failing = f", failing since {_when(peer.failing_since_ms)}: {peer.error}" if peer.failures else ""
        faults = f", sent {peer.faults} items that count for nothing" if peer.faults else ""
        lines.append(f"peer {peer.address}: {last}{failing}{faults}")
    return "".join(f"{printable(line)}\n" for line in lines or ["nothing is followed yet"])


def format_status_json(status: Status) -> str:
    """The status for programs, on one line."""
    return json.dumps({"logs": list(map(_log_to_json, status.logs)), "peers": list(map(_peer_to_json, status.peers))})


def format_evidence_line(evidence: EvidenceRecord) -> str:
    """One piece of evidence: id, origin, kind, sizes."""
    return f"{evidence.id} {printable_name(evidence.origin)} {evidence.fork} {evidence.sizes[0]} {evidence.sizes[1]}"


def _log_to_json(log: LogStatus) -> dict[str, object]:
    return {
        "origin": log.origin,
        "vkey": log.vkey,
        "address": log.address,
        "followed": log.followed,
        "state": log.state.value,
        "size": log.size,
        "root": None if log.root is None else format_base64(log.root),
        "checkpoint": None if log.checkpoint is None else log.checkpoint.decode(),
        "verified_ms": log.verified_ms,
        "contact_ms": log.contact_ms,
        "cosigned_at": log.cosigned_at,
        "suspicions": [
            {
                "doubt": suspicion.doubt.value,
                "reason": suspicion.reason,
                "since_ms": suspicion.since_ms,
                "count": suspicion.count,
                "standing": suspicion.standing,
            }
            for suspicion in log.suspicions
        ],
        "parked": [
            {"size": head.size, "root": format_base64(head.root), "source": head.source, "since_ms": head.since_ms}
            for head in log.parked
        ],
        "evidence": [evidence.id for evidence in log.evidence],
    }


def _peer_to_json(peer: PeerRecord) -> dict[str, object]:
    return {
        "address": peer.address,
        "contact_ms": peer.contact_ms,
        "failures": peer.failures,
        "failing_since_ms": peer.failing_since_ms,
        "error": peer.error,
        "faults": peer.faults,
    }


def _when(at_ms: int | None) -> str:
    if at_ms is None:
        return "never"
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
