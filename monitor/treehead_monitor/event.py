"""What happens to a monitor, and the work that follows from it: the vocabulary between `gossip` and its driver."""

from __future__ import annotations

from dataclasses import dataclass, field

from treehead.evidence import Evidence, Fork
from treehead_monitor.head import HeadDigest, LogHead, LogId
from treehead_monitor.message import EvidenceId, Gossip
from treehead_monitor.suspicion import Doubt

LOG_SOURCE = "log"
"""The source of heads that the log itself served; other sources are peers."""

STORE_SOURCE = "store"
"""The source of heads that are judged again after a restart."""


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The monitor has started; a crash may have come before these heads, kept last or parked, were judged."""

    heads: tuple[LogHead, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The log itself served this head."""

    head: LogHead
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A peer sent a message, as a call or as the answer to one; `GossipMachine.open` took it apart.

    Attributes:
        heads: those that are new, their signatures verified.
        evidence: what is new and holds, and against which log.
        evidence_ids: all evidence that was looked at.
        faults: why items do not count.
    """

    heads: tuple[LogHead, ...] = ()
    evidence: tuple[tuple[LogId, Evidence], ...] = ()
    evidence_ids: tuple[EvidenceId, ...] = ()
    faults: tuple[str, ...] = ()
    source: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Work: find the root of our own tree at the head's size, and the consistency proof from there to our head."""

    head: LogHead
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The result: `own_root` is None when the head is larger than our verified tree."""

    head: LogHead
    source: str
    own_root: bytes | None
    path: tuple[bytes, ...] = ()
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """Our verified tree grew to this head, durably."""

    head: LogHead
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """Following the log gave evidence against it."""

    evidence: Evidence
    log: LogId
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """An interval began. `draw` is a uniformly random non-negative integer of 64 bits."""

    at_ms: int
    draw: int


Event = Resumed | Seen | Heard | Compared | Advanced | Proven | Tick


# --- work ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepNote:
    """Keep a signed note byte for byte; the first of each head is kept."""

    head: LogHead
    source: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Remember that a head, whose note is kept, is unresolved."""

    head: LogHead
    source: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpark:
    """A head is resolved."""

    digest: HeadDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepEvidence:
    """Keep an evidence file and mark its log for good."""

    log: LogId
    id: EvidenceId
    data: bytes = field(repr=False)
    fork: Fork
    sizes: tuple[int, int]
    source: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accused:
    """A log's misbehaviour is proven by the evidence `id`."""

    log: LogId
    id: EvidenceId
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspected:
    """Something is odd about a log. Raised anew as long as it holds."""

    log: LogId
    doubt: Doubt
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A doubt does not hold, or no longer."""

    log: LogId
    doubt: Doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFault:
    """A peer sent what no honest monitor sends."""

    peer: str
    reason: str


Persist = KeepNote | Park | Unpark | KeepEvidence
Finding = Accused | Suspected | Cleared | PeerFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Work for the driver, strictly in this order: what is compared was persisted, what is sent was compared."""

    persist: tuple[Persist, ...] = ()
    compare: tuple[Compare, ...] = ()
    send: tuple[tuple[str, Gossip], ...] = ()
    alert: tuple[Finding, ...] = ()
