"""What a loss of power leaves of a directory: a simulation of the caches between a program and its disk.

A write is in the cache at once and on the disk when its file was synced; a name that was made, moved or removed, when
its directory was. Whatever was not synced is lost, or torn: any part of it may have reached the disk, in any order, by
sectors. What is in the cache only because a sync failed is lost even if a later sync succeeds: Linux takes pages that
it could not write for clean.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.fault.trace import FOLDER, Event, Opened, Renamed, Synced, Truncated, Unlinked, Written

SECTOR_BYTES = 512
PAGE_BYTES = 4_096


@dataclass(slots=True, eq=False)
class _File:
    """One file: as a program sees it, as it is on the disk, and what lies between the two."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[Written | Truncated] = field(default_factory=list)
    written_through: bool = False
    has_doomed: bool = False

    def change(self, event: Written | Truncated) -> None:
        _apply(self.cached, event)
        self.unsynced.append(event)
        if self.written_through:
            self.sync(doomed=False)

    def sync(self, *, doomed: bool) -> None:
        if doomed:
            self.has_doomed = True
        else:
            for event in self.unsynced:
                _apply(self.durable, self._page(event) if isinstance(event, Written) and self.has_doomed else event)
        self.unsynced.clear()

    def _page(self, event: Written) -> Written:
        """A write as the disk gets it, in whole pages, with what else is in the cache of those."""
        begin = event.offset // PAGE_BYTES * PAGE_BYTES
        end = -(-(event.offset + len(event.data)) // PAGE_BYTES) * PAGE_BYTES
        return Written(inode=event.inode, offset=begin, data=bytes(self.cached[begin:end]))


class Disk:
    """A directory, and what would be left of it. Subdirectories and links are not known."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """These files are in it, durably."""
        self._names = {name: _File(bytearray(data), bytearray(data)) for name, data in files.items()}
        self._durable_names = dict(self._names)
        self._unsynced_names: list[dict[str, _File]] = []
        self._inodes: dict[int, _File] = {}
        self._folder_inode: int | None = None

    def replay(self, events: Iterable[Event]) -> None:
        """Do what a program did."""
        for event in events:
            self._replay(event)

    def _replay(self, event: Event) -> None:
        match event:
            case Opened(name=name) if name == FOLDER:
                self._folder_inode = event.inode
            case Opened():
                if event.created:
                    self._rename({**self._names, event.name: _File()})
                file = self._inodes[event.inode] = self._names[event.name]
                file.written_through |= event.written_through
            case Written() | Truncated():
                self._inodes[event.inode].change(event)
            case Synced() if event.inode == self._folder_inode:
                if not event.doomed:
                    self._durable_names = self._names
                self._unsynced_names.clear()
            case Synced():
                self._inodes[event.inode].sync(doomed=event.doomed)
            case Renamed():
                names = {name: file for name, file in self._names.items() if name != event.old}
                self._rename({**names, event.new: self._names[event.old]})
            case Unlinked():
                self._rename({name: file for name, file in self._names.items() if name != event.name})

    def _rename(self, names: dict[str, _File]) -> None:
        self._names = names
        self._unsynced_names.append(names)

    def cached(self) -> dict[str, bytes]:
        """What a program finds as long as there is power, however it ended itself."""
        return {name: bytes(file.cached) for name, file in self._names.items()}

    def after_power_loss(self, rng: random.Random | None = None) -> dict[str, bytes]:
        """What is found after it: without what was not synced, or, given `rng`, with a random part of that."""
        if rng is None:
            return {name: bytes(file.durable) for name, file in self._durable_names.items()}
        # The names change in the order of the calls, as a journal has it; the data of files in any order.
        names = rng.choice([self._durable_names, *self._unsynced_names])
        return {name: _torn(file.durable, file.unsynced, rng) for name, file in names.items()}


def _apply(content: bytearray, event: Written | Truncated) -> None:
    match event:
        case Written():
            _resize(content, max(len(content), event.offset + len(event.data)))
            content[event.offset : event.offset + len(event.data)] = event.data
        case Truncated():
            _resize(content, event.size)


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _torn(durable: bytearray, unsynced: list[Written | Truncated], rng: random.Random) -> bytes:
    """Each sector as it was at any of the times since the last sync, and the size likewise."""
    content, sizes = bytearray(durable), [len(durable)]
    versions: dict[int, list[bytes]] = {}
    for event in unsynced:
        if isinstance(event, Written):
            touched = range(event.offset // SECTOR_BYTES, -(-(event.offset + len(event.data)) // SECTOR_BYTES))
            for sector in touched:
                versions.setdefault(sector, [_sector(content, sector)])
            _apply(content, event)
            for sector in touched:
                versions[sector].append(_sector(content, sector))
        else:
            _apply(content, event)
        sizes.append(len(content))
    result, size = bytearray(durable), rng.choice(sizes)
    _resize(result, size)
    for sector in sorted(versions):
        _apply(result, Written(inode=0, offset=sector * SECTOR_BYTES, data=rng.choice(versions[sector])))
    _resize(result, size)
    return bytes(result)


def _sector(content: bytearray, sector: int) -> bytes:
    begin = sector * SECTOR_BYTES
    return bytes(content[begin : begin + SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")
