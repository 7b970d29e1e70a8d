"""A monitor without network: the real driver and store on a disk, an audit, and a log whose answers the test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.unit.library.specimens import LOG_KEY, Tree, private_key, signed_checkpoint
from tests.unit.monitor.gossiper import LOG_ID
from treehead.errors import UnavailableError
from treehead.note import format_note
from treehead_monitor.audit import Audit
from treehead_monitor.cosigner import Cosigner
from treehead_monitor.datadir import DataDirectory
from treehead_monitor.driver import Driver, FollowedLog
from treehead_monitor.gossip import GossipMachine, Limits
from treehead_monitor.history import History, TileCache
from treehead_monitor.memory import Memory
from treehead_monitor.source import LogSource
from treehead_monitor.store import Recollection, Store
from treehead_monitor.suspicion import Doubt

NAME = "monitor.example"
KEY = private_key("monitor")
ADDRESS = "127.0.0.1:1"
NOW_MS = 1_800_000_000_000
LOOK_PAGES_MAX = 10
UNVERIFIED_ENTRIES_MAX = 100_000


def leaves(count: int, *, kind: str = "leaf", begin: int = 0) -> list[bytes]:
    """Distinct leaves, the same for the same numbers and kind."""
    return [b"%s %d" % (kind.encode(), index) for index in range(begin, begin + count)]


class ScriptedLog:
    """A `LogSource` that serves a list of leaves, and as much of the truth as the test lets it."""

    def __init__(self, held: Sequence[bytes] = ()) -> None:
        self.leaves = list(held)
        self.served: list[bytes] | None = None
        self.checkpoint: bytes | None = None
        self.is_down = False
        self.down_after: int | None = None
        self.proofs: Tree | None = None
        self.asked: list[tuple[int, int]] = []
        self.page = 100

    def checkpoint_of(self, size: int) -> bytes:
        """The signed checkpoint at a size."""
        return format_note(signed_checkpoint(size, Tree(self.leaves[:size]).root()))

    async def newest_checkpoint(self) -> bytes:
        if self.is_down:
            raise UnavailableError("the log is down")
        return self.checkpoint or self.checkpoint_of(len(self.leaves))

    async def entries(self, *, begin: int, end: int) -> AsyncIterator[Sequence[bytes]]:
        self.asked.append((begin, end))
        held = self.leaves if self.served is None else self.served
        for at in range(begin, end, self.page):
            if self.down_after is not None and at >= self.down_after:
                raise UnavailableError("the log went down")
            if page := held[at : min(at + self.page, end)]:
                yield page

    async def inclusion_proof(self, *, index: int, size: int) -> tuple[bytes, ...]:
        return self._proofs().inclusion(index, size)

    async def consistency_proof(self, *, size1: int, size2: int) -> tuple[bytes, ...]:
        return self._proofs().consistency(size1, size2)

    def _proofs(self) -> Tree:
        if self.proofs is None:
            raise UnavailableError("the log gives no proofs")
        return self.proofs


class Desk:
    """One monitor at work on one log. `now_ms` is its clock."""

    def __init__(
        self, folder: Path, store: Store, log: LogSource, known: Recollection, *, page: int, limits: Limits
    ) -> None:
        self.directory = DataDirectory(path=folder)
        self.store = store
        self.known = known
        self.now_ms = NOW_MS
        self.followed = FollowedLog(
            key=LOG_KEY,
            history=History(log=LOG_ID, edge=known.edge, cache=TileCache(store, tiles_max=4)),
            head=known.head,
            cosigned=known.cosigned,
            suspicions={suspicion.doubt: suspicion for suspicion in known.suspicions},
        )
        memory = Memory(key=LOG_KEY, head=known.head, parked=known.parked, misbehaved=bool(known.evidence))
        self.cosigner = Cosigner(key=KEY, name=NAME)
        self.driver = Driver(
            machine=GossipMachine(logs=[memory], peers=(), limits=limits),
            logs={LOG_ID: self.followed},
            outboxes={},
            store=store,
            directory=self.directory,
            cosigner=self.cosigner,
            cosign_every_s=10,
            now_ms=lambda: self.now_ms,
            random=Random(0),
        )
        self.audit = Audit(
            key=LOG_KEY,
            source=log,
            ledger=self.driver,
            progress=known.progress,
            page_entries_max=page,
            look_pages_max=LOOK_PAGES_MAX,
            unverified_entries_max=UNVERIFIED_ENTRIES_MAX,
        )

    @property
    def size(self) -> int | None:
        """The verified size."""
        return None if self.followed.head is None else self.followed.head.size

    def doubts(self) -> set[str]:
        """The suspicions that stand."""
        return {doubt.value for doubt, suspicion in self.followed.suspicions.items() if suspicion.standing}

    def suspicion(self, doubt: str) -> str:
        """Why the log is under suspicion."""
        return self.followed.suspicions[Doubt(doubt)].reason

    async def look(self) -> None:
        """Look at the log once, as each interval does."""
        await self.driver.look(LOG_ID, self.audit)


@asynccontextmanager
async def desk(folder: Path, log: LogSource, *, page: int = 1_000, limits: Limits | None = None) -> AsyncIterator[Desk]:
    """A monitor on the directory that `datadir.create_monitor` made, open as long as the context."""
    store = await Store.open(DataDirectory(path=folder).database)
    try:
        known = await store.recall(LOG_KEY, address=ADDRESS)
        opened = Desk(folder, store, log, known, page=page, limits=limits or Limits())
        await opened.driver.resume([*known.recent, *(parked.head for parked in known.parked)])
        yield opened
    finally:
        await store.close()
