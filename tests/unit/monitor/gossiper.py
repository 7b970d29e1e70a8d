"""A monitor without disk and network: the pure machine, a tree in memory, and a trace of its work in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, Tree, signed_checkpoint
from treehead.evidence import Evidence, parse_evidence
from treehead.note import format_note
from treehead.privatekey import PrivateKey
from treehead_monitor.event import (
    Accused,
    Advanced,
    Cleared,
    Compare,
    Compared,
    Event,
    Finding,
    KeepEvidence,
    KeepNote,
    Park,
    PeerFault,
    Persist,
    Seen,
    Suspected,
    Tick,
    Unpark,
)
from treehead_monitor.gossip import GossipMachine, Limits
from treehead_monitor.head import LogHead, LogId, log_id, open_head
from treehead_monitor.memory import Memory, Parked
from treehead_monitor.message import Gossip

LOG_ID: LogId = log_id(LOG_KEY)
ROUNDS_MAX = 4


def signed_head(tree: Tree, size: int | None = None, *, log: PrivateKey = LOG, origin: str = ORIGIN) -> LogHead:
    """A head that a log signed, of a tree at a size."""
    size = tree.size if size is None else size
    return head_with_root(size, tree.root(size), log=log, origin=origin)


def head_with_root(size: int, root: bytes, *, log: PrivateKey = LOG, origin: str = ORIGIN) -> LogHead:
    """A head that a log signed, whether there is such a tree or not."""
    note = signed_checkpoint(size, root, log=log, origin=origin)
    return open_head(format_note(note), key=next(key for key in (LOG_KEY,) if key.name == origin))


class Gossiper:
    """One monitor that follows the log of the specimens and is shown `tree`."""

    def __init__(
        self,
        tree: Tree,
        *,
        name: str = "me",
        peers: Sequence[str] = (),
        limits: Limits | None = None,
        memory: Memory | None = None,
        seed: int = 0,
    ) -> None:
        self.tree = tree
        self.name = name
        self.memory = Memory(key=LOG_KEY) if memory is None else memory
        self.peers = peers
        self.limits = limits or Limits()
        self.machine = GossipMachine(logs=[self.memory], peers=peers, limits=self.limits)
        self.head = self.memory.head
        self.parked = {parked.head.digest: parked for parked in self.memory.parked}
        self.files: list[bytes] = list(self.memory.evidence)
        self.trace: list[str] = []
        self.findings: list[Finding] = []
        self.outbox: deque[tuple[str, Gossip]] = deque()
        self.at_ms = 0
        self._random = Random(seed)

    # --- what happens ---

    def see(self, head: LogHead) -> None:
        """The log serves this head."""
        self.run(Seen(head=head, at_ms=self.at_ms))

    def follow(self, size: int) -> None:
        """The log serves its head at a size, and the audit of all entries up to there succeeds."""
        head = signed_head(self.tree, size)
        self.see(head)
        if not self.machine.is_misbehaved(LOG_ID) and (self.head is None or size > self.head.size):
            self.head = head
            self.run(Advanced(head=head, at_ms=self.at_ms))

    def hear(self, *heads: LogHead, evidence: Sequence[bytes] = (), source: str = "peer") -> None:
        """A peer sends notes and evidence."""
        self.hear_gossip(Gossip(notes=tuple(head.data for head in heads), evidence=tuple(evidence)), source=source)

    def hear_gossip(self, gossip: Gossip, *, source: str = "peer") -> None:
        """A peer sends a message."""
        self.run(self.machine.open(gossip, source=source, at_ms=self.at_ms))

    def tick(self, *, later_ms: int = 0) -> None:
        """An interval begins."""
        self.at_ms += later_ms
        self.run(Tick(at_ms=self.at_ms, draw=self._random.getrandbits(64)))

    def restarted(self) -> Gossiper:
        """What a kill at this moment leaves: whatever was persisted."""
        memory = Memory(key=LOG_KEY, head=self.head, parked=tuple(self.parked.values()), evidence=tuple(self.files))
        return Gossiper(self.tree, name=self.name, peers=self.peers, limits=self.limits, memory=memory)

    # --- the driver's part ---

    def run(self, event: Event) -> None:
        """Carry out an event and all that follows, as the driver does."""
        events = deque([event])
        while events:
            ready = self.machine.step(events.popleft())
            for item in ready.persist:
                self._persist(item)
            for work in ready.compare:
                events.append(self._compare(work))
            for peer, gossip in ready.send:
                self.outbox.append((peer, gossip))
                self.trace.append(f"send {peer}{' evidence' if gossip.evidence else ''}")
            for finding in ready.alert:
                self.findings.append(finding)
                self._trace_finding(finding)

    def _persist(self, item: Persist) -> None:
        match item:
            case KeepNote(head=head, source=source):
                self.trace.append(f"keep note {head.size} from {source}")
            case Park(head=head, source=source, at_ms=at_ms):
                self.parked[head.digest] = Parked(head=head, source=source, since_ms=at_ms)
                self.trace.append(f"park {head.size}")
            case Unpark(digest=digest):
                del self.parked[digest]
                self.trace.append(f"unpark {digest.size}")
            case KeepEvidence(data=data, fork=fork, sizes=sizes):
                self.files.append(data)
                self.trace.append(f"keep evidence {fork.value} {sizes[0]} {sizes[1]}")

    def _compare(self, work: Compare) -> Compared:
        self.trace.append(f"compare {work.head.size}")
        own_root, path = None, tuple[bytes, ...]()
        if self.head is not None and work.head.size <= self.head.size:
            own_root = self.tree.root(work.head.size)
            path = self.tree.consistency(work.head.size, self.head.size)
        return Compared(head=work.head, source=work.source, own_root=own_root, path=path, at_ms=self.at_ms)

    def _trace_finding(self, finding: Finding) -> None:
        match finding:
            case Accused():
                self.trace.append("accuse")
            case Suspected(doubt=doubt):
                self.trace.append(f"suspect {doubt.value}")
            case PeerFault(peer=peer):
                self.trace.append(f"fault of {peer}")
            case Cleared():
                pass  # raised whether it stood or not; the driver tells

    # --- what came of it ---

    @property
    def evidence(self) -> list[Evidence]:
        """The evidence files that it holds."""
        return [parse_evidence(data) for data in self.files]

    @property
    def is_accusing(self) -> bool:
        """Whether it holds the log's misbehaviour for proven."""
        return self.machine.is_misbehaved(LOG_ID)

    def suspicions(self) -> set[str]:
        """The doubts that stand after what was found."""
        standing: dict[str, bool] = {}
        for finding in self.findings:
            if isinstance(finding, Suspected | Cleared):
                standing[finding.doubt.value] = isinstance(finding, Suspected)
        return {doubt for doubt, stands in standing.items() if stands}

    def faults(self) -> list[str]:
        """Why peers' items were dropped."""
        return [finding.reason for finding in self.findings if isinstance(finding, PeerFault)]


def exchange(caller: Gossiper, callee: Gossiper, gossip: Gossip | None = None) -> int:
    """One exchange over a perfect network; returns the number of calls."""
    gossip = caller.machine.greeting() if gossip is None else gossip
    for calls in range(1, ROUNDS_MAX + 1):
        callee.hear_gossip(gossip, source=f"caller {caller.name}")
        answer = callee.machine.answer(gossip)
        caller.hear_gossip(answer, source=callee.name)
        following = caller.machine.follow_up(answer)
        if following is None:
            return calls
        gossip = following
    raise AssertionError("the exchange did not come to an end")
