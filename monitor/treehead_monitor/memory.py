"""What a monitor remembers of each log it follows: `gossip` judges by it, and the store keeps it over a restart."""

from __future__ import annotations

from dataclasses import dataclass

from treehead.keys import VerifierKey
from treehead_monitor.head import HeadDigest, LogHead
from treehead_monitor.message import evidence_id

_RECENT_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An unresolved head, who showed it, and since when."""

    head: LogHead
    source: str
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a monitor knows of one log when it starts.

    `misbehaved` stands even if every evidence file was taken away.
    """

    key: VerifierKey
    head: LogHead | None = None
    parked: tuple[Parked, ...] = ()
    evidence: tuple[bytes, ...] = ()
    misbehaved: bool = False


class LogState:
    """The state of one followed log."""

    __slots__ = ("evidence", "head", "judged", "key", "misbehaved", "parked")

    def __init__(self, memory: Memory) -> None:
        self.key = memory.key
        self.head = memory.head
        self.parked = {parked.head.digest: parked for parked in memory.parked}
        self.evidence = {evidence_id(data): data for data in memory.evidence}
        self.misbehaved = memory.misbehaved or bool(memory.evidence)
        self.judged = Recent()

    def is_known(self, digest: HeadDigest) -> bool:
        """Whether the head was judged lately or waits to be."""
        return (self.head is not None and self.head.digest == digest) or digest in self.parked or digest in self.judged

    def parked_rival(self, digest: HeadDigest) -> LogHead | None:
        """A parked head of the same size and another root."""
        same_size = (parked.head for parked in self.parked.values() if parked.head.size == digest.size)
        return next((rival for rival in same_size if rival.root != digest.root), None)

    def has_room(self, digest: HeadDigest, *, parked_max: int, staged: int = 0) -> bool:
        """Whether a head can be kept: always if it can be judged now, else while there is room to park it.

        `staged` heads are about to be parked.
        """
        if (self.head is not None and digest.size <= self.head.size) or digest in self.parked:
            return True
        return self.parked_rival(digest) is not None or len(self.parked) + staged < parked_max


class Recent:
    """A set that forgets its oldest members."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[object, None] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def add(self, member: object) -> None:
        self._members[member] = None
        if len(self._members) > _RECENT_MAX:
            del self._members[next(iter(self._members))]
