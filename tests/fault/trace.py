"""What a server did to the files of its directory, step by step, as the shim recorded it (see shim/faults.c)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

FOLDER = "."
"""The name of the directory itself."""

_RECORD = struct.Struct("=IIQQQ")
_CREATED, _WRITTEN_THROUGH = 1, 2


class _Kind(IntEnum):
    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    RENAME = 5
    UNLINK = 6
    SYNC_DOOMED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A file was opened; `created`: there was none of this name, `written_through`: each write is synced at once."""

    inode: int
    name: str
    created: bool = False
    written_through: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Bytes were written at an offset."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """The file got a size, smaller or larger than before."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The file was synced. `doomed`: that failed, and what was to be synced never will be."""

    inode: int
    doomed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A file got another name, in place of whatever had that."""

    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlinked:
    """A name was removed."""

    name: str


Event = Opened | Written | Truncated | Synced | Renamed | Unlinked


def read_trace(path: Path) -> list[Event]:
    """All events of a trace, in their order."""
    data = path.read_bytes()
    events: list[Event] = []
    at = 0
    while at < len(data):
        kind, flags, inode, offset, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        body = data[at : at + length]
        assert len(body) == length, f"{path} ends within a record"
        at += length
        events.append(_event(_Kind(kind), flags, inode, offset, body))
    return events


def _event(kind: _Kind, flags: int, inode: int, offset: int, body: bytes) -> Event:
    match kind:
        case _Kind.OPEN:
            created, written_through = bool(flags & _CREATED), bool(flags & _WRITTEN_THROUGH)
            return Opened(inode=inode, name=body.decode(), created=created, written_through=written_through)
        case _Kind.WRITE:
            return Written(inode=inode, offset=offset, data=body)
        case _Kind.TRUNCATE:
            return Truncated(inode=inode, size=offset)
        case _Kind.SYNC | _Kind.SYNC_DOOMED:
            return Synced(inode=inode, doomed=kind is _Kind.SYNC_DOOMED)
        case _Kind.RENAME:
            old, _, new = body.partition(b"\0")
            return Renamed(old=old.decode(), new=new.decode())
        case _Kind.UNLINK:
            return Unlinked(name=body.decode())
