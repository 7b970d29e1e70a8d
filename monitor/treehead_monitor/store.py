"""What a monitor must not forget, in one SQLite file: see `database` for the tables.

Every method that writes returns when its change is durable, all of it or nothing. One process uses the file; calls may
come from any task of its event loop and are carried out one after the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from treehead.errors import StorageError, TreeheadError
from treehead.keys import VerifierKey, format_vkey
from treehead.note import format_note, parse_note
from treehead.sqlite import Connection
from treehead.tile import RightEdge, TileId
from treehead_monitor.cosigner import Cosigned
from treehead_monitor.database import SCHEMA
from treehead_monitor.edge import format_edge, parse_edge
from treehead_monitor.event import KeepEvidence, KeepNote, Park, Persist, Unpark
from treehead_monitor.head import LogHead, LogId, log_id, open_head
from treehead_monitor.memory import Parked
from treehead_monitor.message import EvidenceId
from treehead_monitor.peer import PeerRecord
from treehead_monitor.suspicion import Doubt, Suspicion

RECENT_HEADS_MAX = 64
"""As many as one message may bring, and so as many as a crash may have left unjudged."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """What the store knows of one log.

    Attributes:
        edge: the right edge at the verified head, or of an empty tree.
        progress: the edge of entries fetched beyond it, not yet bound to a signed root; or None.
        recent: the heads that were kept last.
        evidence: the names of the evidence files against it.
    """

    head: LogHead | None = None
    edge: RightEdge = field(default_factory=RightEdge)
    progress: RightEdge | None = None
    parked: tuple[Parked, ...] = ()
    recent: tuple[LogHead, ...] = ()
    evidence: frozenset[EvidenceId] = frozenset()
    cosigned: Cosigned | None = None
    suspicions: tuple[Suspicion, ...] = ()


class Store:
    """The database of one monitor, open for writing."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open the file of a monitor.

        Raises:
            StorageError: there is none, it is no monitor's, or one of another version.
        """
        connection = Connection(path, SCHEMA)
        await connection.open()
        return cls(path, connection)

    async def close(self) -> None:
        """Move what was written into the file, and let go of it."""
        await self._connection.close()

    async def recall(self, key: VerifierKey, *, address: str) -> Recollection:
        """Follow a log from now on; returns what is known of it.

        Raises:
            StorageError: what is stored does not hold together, and nothing can be built on it.
        """
        return await self._run(_recall, key, address)

    async def follow_only(self, logs: Sequence[LogId]) -> None:
        """Mark every other log as not followed. What is known of it stays, and so does its misbehaviour."""
        follow: list[_Statement] = [("update logs set followed = 1 where id = ?", (log,)) for log in logs]
        await self._run(_transaction, [("update logs set followed = 0", ()), *follow])

    async def keep(self, work: Sequence[Persist]) -> None:
        """Carry out one step's persistence, in its order; the files of evidence are written before."""
        if work:
            await self._run(_transaction, [_statement(item) for item in work])

    async def save_progress(self, log: LogId, edge: RightEdge, tiles: Mapping[TileId, bytes]) -> None:
        """Keep entries' hashes that no signed root covers yet: `tiles` are full, `edge` is what follows them."""
        progress = "update logs set progress_size = ?, progress_edge = ? where id = ?"
        await self._run(_transaction, [*_insert_tiles(log, tiles), (progress, (edge.size, format_edge(edge), log))])

    async def drop_progress(self, log: LogId) -> None:
        """Forget them: they hash to no root that the log signed."""
        await self._run(_transaction, _drop_progress(log))

    async def advance(
        self,
        head: LogHead,
        *,
        edge: RightEdge,
        tiles: Mapping[TileId, bytes],
        at_ms: int,
    ) -> None:
        """Make `head` the verified head, with the tree that was hashed to its root."""
        verified = (
            "update logs set size = ?, note = ?, edge = ?, verified_ms = ?, progress_size = null, progress_edge = null"
            " where id = ?"
        )
        statements = [
            *_insert_tiles(head.log, tiles),
            (verified, (head.size, head.data, format_edge(edge), at_ms, head.log)),
        ]
        await self._run(_transaction, statements)

    async def keep_cosigned(self, log: LogId, cosigned: Cosigned) -> None:
        """Keep a cosignature before anyone sees it."""
        await self._run(_transaction, [_cosign(log, cosigned)])

    async def keep_suspicion(self, log: LogId, suspicion: Suspicion) -> None:
        """Keep a doubt about a log as it stands now."""
        row = (log, suspicion.doubt.value, suspicion.reason, suspicion.since_ms, suspicion.count, suspicion.standing)
        await self._run(_transaction, [("insert or replace into suspicions values (?, ?, ?, ?, ?, ?)", row)])

    async def keep_contacts(self, logs: Mapping[LogId, int], peers: Sequence[PeerRecord]) -> None:
        """Keep when each log answered last (milliseconds since 1970), and how calls to the peers went."""
        contact = "update logs set contact_ms = ? where id = ?"
        statements: list[_Statement] = [(contact, (at_ms, log)) for log, at_ms in logs.items()]
        for peer in peers:
            row = (peer.address, peer.contact_ms, peer.failures, peer.failing_since_ms, peer.error, peer.faults)
            statements.append(("insert or replace into peers values (?, 1, ?, ?, ?, ?, ?)", row))
        await self._run(_transaction, statements)

    async def recall_peers(self, addresses: Sequence[str]) -> list[PeerRecord]:
        """Have these peers from now on; returns what is known of each."""
        return await self._run(_recall_peers, addresses)

    async def read_tiles(self, log: LogId, tiles: Sequence[TileId]) -> Mapping[TileId, bytes]:
        """See `history.TileStore`."""
        return await self._run(_read_tiles, log, tiles)

    async def _run(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        try:
            return await self._connection.run(function, *args, **kwargs)
        except sqlite3.Error as exc:
            raise StorageError(f"database {self._path}: {exc}") from exc


# --- what runs on the connection's thread ----------------------------------------------------------------------------

_Value = bytes | str | int | None
_Statement = tuple[str, tuple[_Value, ...]]


def _transaction(connection: sqlite3.Connection, statements: Sequence[_Statement]) -> None:
    connection.execute("begin immediate")
    try:
        for sql, values in statements:
            connection.execute(sql, values)
        connection.execute("commit")
    except BaseException:
        # Some errors, a full disk for one, have rolled the transaction back already.
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def _statement(item: Persist) -> _Statement:
    match item:
        case KeepNote(head=head, source=source, at_ms=at_ms):
            note = (head.log, head.size, head.root, head.data, source, at_ms)
            return "insert or ignore into notes values (?, ?, ?, ?, ?, ?)", note
        case Park(head=head, source=source, at_ms=at_ms):
            parked = (head.log, head.size, head.root, source, at_ms)
            return "insert or ignore into parked values (?, ?, ?, ?, ?)", parked
        case Unpark(digest=digest):
            return "delete from parked where log = ? and size = ? and root = ?", digest
        case KeepEvidence(log=log, id=id_, fork=fork, sizes=(size1, size2), source=source, at_ms=at_ms):
            evidence = (id_, log, fork.value, size1, size2, source, at_ms)
            return "insert or ignore into evidence values (?, ?, ?, ?, ?, ?, ?)", evidence


def _insert_tiles(log: LogId, tiles: Mapping[TileId, bytes]) -> list[_Statement]:
    # Replaced, and not ignored, when there: what progress once left behind must not outlive it.
    insert = "insert or replace into tiles values (?, ?, ?, ?)"
    return [(insert, (log, tile.level, tile.number, hashes)) for tile, hashes in tiles.items()]


def _drop_progress(log: LogId) -> list[_Statement]:
    # A tile's last leaf is (number + 1) << 8 (level + 1), exclusive. Level 7 has no full tile in a tree of 63 bits.
    beyond = (
        "delete from tiles where log = ? and"
        " ((number + 1) << (8 * (level + 1))) > (select coalesce(size, 0) from logs where id = ?)"
    )
    return [(beyond, (log, log)), ("update logs set progress_size = null, progress_edge = null where id = ?", (log,))]


def _cosign(log: LogId, cosigned: Cosigned) -> _Statement:
    values = (cosigned.size, cosigned.timestamp, format_note(cosigned.note), log)
    return "update logs set cosigned_size = ?, cosigned_at = ?, cosigned = ? where id = ?", values


def _recall(connection: sqlite3.Connection, key: VerifierKey, address: str) -> Recollection:
    log = log_id(key)
    known = (
        "insert into logs (id, vkey, address, followed) values (?, ?, ?, 1) on conflict (id) do update set address = ?"
    )
    _transaction(connection, [(known, (log, format_vkey(key), address, address))])
    columns = "size, note, edge, progress_size, progress_edge, cosigned_size, cosigned_at, cosigned"
    row = connection.execute(f"select {columns} from logs where id = ?", (log,)).fetchone()  # noqa: S608 -- a constant
    size, note, edge, progress_size, progress_edge, cosigned_size, cosigned_at, cosigned = row
    try:
        head = None if note is None else open_head(note, key=key)
        recollection = Recollection(
            head=head,
            edge=RightEdge() if head is None else parse_edge(edge, size=size),
            progress=None if progress_size is None else parse_edge(progress_edge, size=progress_size),
            parked=_recall_parked(connection, key),
            recent=_recall_recent(connection, key),
            evidence=frozenset(
                EvidenceId(id_) for (id_,) in connection.execute("select id from evidence where log = ?", (log,))
            ),
            cosigned=None
            if cosigned is None
            else Cosigned(size=cosigned_size, timestamp=cosigned_at, note=parse_note(cosigned)),
            suspicions=_recall_suspicions(connection, log),
        )
    except (TreeheadError, ValueError) as exc:
        raise StorageError(f"what is stored of the log {key.name} is damaged: {exc}") from exc
    if head is not None and recollection.edge.root() != head.root:
        raise StorageError(f"what is stored of the log {key.name} is damaged: its tree does not have its head's root")
    return recollection


def _recall_parked(connection: sqlite3.Connection, key: VerifierKey) -> tuple[Parked, ...]:
    rows = connection.execute(
        "select data, parked.source, since_ms from parked join notes using (log, size, root)"
        " where log = ? order by size",
        (log_id(key),),
    )
    return tuple(
        Parked(head=open_head(data, key=key), source=source, since_ms=since_ms) for data, source, since_ms in rows
    )


def _recall_recent(connection: sqlite3.Connection, key: VerifierKey) -> tuple[LogHead, ...]:
    find = "select data from notes where log = ? order by rowid desc limit ?"
    rows = connection.execute(find, (log_id(key), RECENT_HEADS_MAX))
    return tuple(open_head(data, key=key) for (data,) in rows)


def _recall_suspicions(connection: sqlite3.Connection, log: LogId) -> tuple[Suspicion, ...]:
    rows = connection.execute("select doubt, reason, since_ms, count, standing from suspicions where log = ?", (log,))
    return tuple(
        Suspicion(doubt=Doubt(doubt), reason=reason, since_ms=since_ms, count=count, standing=bool(standing))
        for doubt, reason, since_ms, count, standing in rows
    )


def _recall_peers(connection: sqlite3.Connection, addresses: Sequence[str]) -> list[PeerRecord]:
    known = "insert into peers values (?, 1, null, 0, null, '', 0) on conflict (address) do update set configured = 1"
    _transaction(connection, [("update peers set configured = 0", ()), *((known, (address,)) for address in addresses)])
    rows = connection.execute(
        "select address, contact_ms, failures, failing_since_ms, error, faults from peers where configured"
    )
    records = {row[0]: row for row in rows}
    return [
        PeerRecord(
            address=address,
            contact_ms=records[address][1],
            failures=records[address][2],
            failing_since_ms=records[address][3],
            error=records[address][4],
            faults=records[address][5],
        )
        for address in addresses
    ]


def _read_tiles(connection: sqlite3.Connection, log: LogId, tiles: Sequence[TileId]) -> dict[TileId, bytes]:
    find = "select hashes from tiles where log = ? and level = ? and number = ?"
    rows = ((tile, connection.execute(find, (log, tile.level, tile.number)).fetchone()) for tile in tiles)
    return {tile: row[0] for tile, row in rows if row is not None}
