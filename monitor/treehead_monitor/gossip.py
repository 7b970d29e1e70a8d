"""Gossip: every rule by which a monitor judges heads, as a pure state machine.

    step(event) -> Ready(persist, compare, send, alert), to be carried out strictly in that order

The driver makes `persist` durable, then looks every head of `compare` up in the monitor's own tree and hands the result
back as an event, then sends, then alerts. So no head is judged before its note is safe, nothing is sent that would be
forgotten in a crash, and no alert names a file that is not there. There is no clock, no randomness and no I/O: time and
draws come with the events.

The rules:

* Only heads signed by a followed log are looked at; items of other logs are dropped before any signature is checked.
* A head of the size of ours has our root, or the two notes are evidence (E1).
* A smaller head is a prefix of our tree, or our own tiles prove that it is not (E2): whoever has the larger tree proves
  the fork alone, and never asks the log under suspicion.
* A larger head is parked until following the log reaches it. An unresolved head is never evicted, since forgetting one
  is what a forked log would want; when there are too many, new ones are refused and the log is under suspicion. Two
  parked heads of one size and different roots are evidence at once.
* Parked heads are told to peers like verified ones. A log may sign a head for one monitor and refuse it the entries:
  then whoever has the larger tree judges that head.
* Evidence from a peer is verified in full, kept, and relayed once to every peer; what proves nothing is dropped and
  counted against the peer that sent it.
* Once misbehaviour is proven it stays so. Heads of that log are then neither told nor heard: there is no one tree left
  that they could agree with.
* An empty tree is a prefix of every tree. A log that does not answer, or shows an older head again, is not a liar.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from treehead.errors import MalformedError, RefusedError, UnsupportedError
from treehead.evidence import Evidence, format_evidence, parse_evidence, prefix_fork, same_size_fork, verify_evidence
from treehead_monitor.event import (
    LOG_SOURCE,
    STORE_SOURCE,
    Accused,
    Advanced,
    Cleared,
    Compare,
    Compared,
    Event,
    Finding,
    Heard,
    KeepEvidence,
    KeepNote,
    Park,
    PeerFault,
    Persist,
    Proven,
    Ready,
    Resumed,
    Seen,
    Suspected,
    Tick,
    Unpark,
)
from treehead_monitor.head import HeadDigest, LogHead, LogId, log_id, read_claim
from treehead_monitor.memory import LogState, Memory, Parked, Recent
from treehead_monitor.message import DIGESTS_MAX, EVIDENCE_MAX, NOTES_MAX, EvidenceId, Gossip, evidence_id, that_fit
from treehead_monitor.suspicion import Doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is kept, and for how long.

    Attributes:
        parked_max: unresolved heads per log.
        parked_deadline_ms: after this long, an unresolved head is a suspicion.
        peers_per_round: how many peers are called each interval.
    """

    parked_max: int = 64
    parked_deadline_ms: int = 60_000
    peers_per_round: int = 2


def _since(parked: Parked) -> int:
    return parked.since_ms


@dataclass(slots=True)
class _Work:
    """A `Ready` in the making."""

    persist: list[Persist] = field(default_factory=list)
    compare: list[Compare] = field(default_factory=list)
    send: list[tuple[str, Gossip]] = field(default_factory=list)
    alert: list[Finding] = field(default_factory=list)

    def done(self) -> Ready:
        return Ready(
            persist=tuple(self.persist), compare=tuple(self.compare), send=tuple(self.send), alert=tuple(self.alert)
        )


class GossipMachine:
    """What one monitor knows of its logs and makes of what it is told. Not safe for concurrent use."""

    def __init__(self, *, logs: Sequence[Memory], peers: Sequence[str], limits: Limits) -> None:
        self._logs = {log_id(memory.key): LogState(memory) for memory in logs}
        self._peers = tuple(peers)
        self._limits = limits
        self._to_call: list[str] = []
        self._refused = Recent()

    def is_misbehaved(self, log: LogId) -> bool:
        """Whether misbehaviour of the log is proven."""
        return self._logs[log].misbehaved

    def evidence(self, log: LogId) -> tuple[bytes, ...]:
        """The evidence files against the log."""
        return tuple(self._logs[log].evidence.values())

    # --- conversation: what to say, from what is known now ---

    def greeting(self) -> Gossip:
        """The message that begins an exchange: digests only."""
        logs = [log for log in self._logs.values() if not log.misbehaved]
        verified = [log.head.digest for log in logs if log.head is not None]
        # Of each log its oldest first, so that no log's heads crowd out all of another's.
        ranked = itertools.zip_longest(*(sorted(log.parked.values(), key=_since) for log in logs))
        parked = [parked.head.digest for rank in ranked for parked in rank if parked is not None]
        return Gossip(heads=(*verified, *parked)[:DIGESTS_MAX], evidence_ids=self._evidence_ids())

    def answer(self, asked: Gossip) -> Gossip:
        """The answer to a peer's call, after the call was heard: greeting, what the peer wants or lacks, and wishes."""
        greeting = self.greeting()
        return Gossip(
            heads=greeting.heads,
            evidence_ids=greeting.evidence_ids,
            wanted_notes=self._wanted_heads(asked.heads),
            notes=self._notes([*asked.wanted_notes, *self._lacked(asked.heads)]),
            wanted_evidence=self._wanted_evidence(asked.evidence_ids),
            evidence=self._evidence_of(asked.wanted_evidence),
        )

    def follow_up(self, answered: Gossip) -> Gossip | None:
        """What to say to a peer's answer, after it was heard; None when neither side lacks anything."""
        gossip = Gossip(
            wanted_notes=self._wanted_heads(answered.heads),
            notes=self._notes(answered.wanted_notes),
            wanted_evidence=self._wanted_evidence(answered.evidence_ids),
            evidence=self._evidence_of(answered.wanted_evidence),
        )
        return None if gossip == Gossip() else gossip

    def _evidence_ids(self) -> tuple[EvidenceId, ...]:
        """Of each log its first, then of each its second: no log's evidence crowds out another's."""
        ranked = itertools.zip_longest(*(log.evidence for log in self._logs.values()))
        return tuple(id_ for rank in ranked for id_ in rank if id_ is not None)[:DIGESTS_MAX]

    def _heeded(self, id_: LogId) -> LogState | None:
        """The followed log of that name, unless there is nothing more to learn about it."""
        log = self._logs.get(id_)
        return None if log is None or log.misbehaved else log

    def _wanted_heads(self, digests: Iterable[HeadDigest]) -> tuple[HeadDigest, ...]:
        """Heads whose notes we lack and could keep."""
        wanted = (
            digest
            for digest in digests
            if (log := self._heeded(digest.log)) is not None
            and not log.is_known(digest)
            and log.has_room(digest, parked_max=self._limits.parked_max)
        )
        return tuple(dict.fromkeys(wanted))[:NOTES_MAX]

    def _lacked(self, digests: Sequence[HeadDigest]) -> list[HeadDigest]:
        """Our heads that a peer with these cannot have reached, and has not parked."""
        ours = ((theirs, log.head) for theirs in digests if (log := self._heeded(theirs.log)) is not None)
        return [
            head.digest
            for theirs, head in ours
            if head is not None and head.size >= theirs.size and head.digest not in digests
        ]

    def _notes(self, wanted: Iterable[HeadDigest]) -> tuple[bytes, ...]:
        """The notes of the wanted heads; in place of one that we moved on from, our newest, which it is a prefix of."""
        notes: dict[bytes, None] = {}
        for digest in wanted:
            log = self._heeded(digest.log)
            if log is not None and digest in log.parked:
                notes[log.parked[digest].head.told] = None
            elif log is not None and log.head is not None:
                notes[log.head.told] = None
        return that_fit(notes, count_max=NOTES_MAX)

    def _wanted_evidence(self, ids: Iterable[EvidenceId]) -> tuple[EvidenceId, ...]:
        unknown = (id_ for id_ in ids if not self._is_held(id_) and id_ not in self._refused)
        return tuple(dict.fromkeys(unknown))[:EVIDENCE_MAX]

    def _evidence_of(self, wanted: Iterable[EvidenceId]) -> tuple[bytes, ...]:
        held = {id_: data for log in self._logs.values() for id_, data in log.evidence.items()}
        return that_fit((held[id_] for id_ in dict.fromkeys(wanted) if id_ in held), count_max=EVIDENCE_MAX)

    # --- hearing: what of a message is new, and holds ---

    def open(self, gossip: Gossip, *, source: str, at_ms: int) -> Heard:
        """Take a peer's message apart and verify what is new in it; changes nothing.

        This is what costs time, and anyone can cause it: it may run in a thread of its own while another one is in
        `step`, since all it asks of what changes there is whether something is known.
        """
        faults: list[str] = []
        heads = tuple(self._open_notes(gossip.notes[:NOTES_MAX], faults))
        evidence_ids, evidence = [], []
        for data in gossip.evidence[:EVIDENCE_MAX]:
            if (id_ := evidence_id(data)) in self._refused or self._is_held(id_):
                continue
            evidence_ids.append(id_)
            try:
                evidence += self._open_evidence(data)
            except (MalformedError, RefusedError, UnsupportedError) as exc:
                faults.append(f"sent evidence that proves nothing: {exc}")
        return Heard(
            heads=heads,
            evidence=tuple(evidence),
            evidence_ids=tuple(evidence_ids),
            faults=tuple(faults),
            source=source,
            at_ms=at_ms,
        )

    def _open_notes(self, notes: Iterable[bytes], faults: list[str]) -> Iterable[LogHead]:
        keys, opened = [log.key for log in self._logs.values()], set[HeadDigest]()
        for data in notes:
            try:
                claim = read_claim(data)
                key = claim.find_key(keys)
                if key is None:
                    continue
                digest, log = claim.digest(key), self._logs[log_id(key)]
                # Before the signature is checked: copies, and what is no news, shall cost little.
                if log.misbehaved or log.is_known(digest) or digest in opened:
                    continue
                yield claim.verify(key)
                opened.add(digest)
            except (MalformedError, RefusedError, UnsupportedError) as exc:
                faults.append(f"sent a note that does not count: {exc}")

    def _open_evidence(self, data: bytes) -> list[tuple[LogId, Evidence]]:
        evidence = parse_evidence(data)
        for id_, log in self._logs.items():
            if evidence.first.by(log.key) is not None and len(log.evidence) < EVIDENCE_MAX:
                verify_evidence(evidence, key=log.key)
                return [(id_, evidence)]
        return []

    def _is_held(self, id_: EvidenceId) -> bool:
        return any(id_ in log.evidence for log in self._logs.values())

    # --- judgement: what to make of what happened ---

    def step(self, event: Event) -> Ready:
        """Take one event; returns the work that follows from it."""
        work = _Work()
        match event:
            case Resumed():
                work.compare.extend(Compare(head=head, source=STORE_SOURCE) for head in event.heads)
            case Seen():
                self._see(event, work)
            case Heard():
                self._hear(event, work)
            case Compared():
                self._judge(event, work)
            case Advanced():
                self._advance(event, work)
            case Proven():
                self._accuse(event.log, event.evidence, source=LOG_SOURCE, at_ms=event.at_ms, work=work)
            case Tick():
                self._tick(event, work)
        return work.done()

    def _see(self, event: Seen, work: _Work) -> None:
        """A head from the log itself is judged even if it is known: serving an older one again is a finding."""
        log = self._logs[event.head.log]
        if log.head is not None and log.head.digest == event.head.digest:
            work.alert.append(Cleared(log=event.head.log, doubt=Doubt.ROLLBACK))
        elif not log.misbehaved:
            work.persist.append(KeepNote(head=event.head, source=LOG_SOURCE, at_ms=event.at_ms))
            if self._has_room(log, event.head, work):
                work.compare.append(Compare(head=event.head, source=LOG_SOURCE))

    def _hear(self, event: Heard, work: _Work) -> None:
        work.alert.extend(PeerFault(peer=event.source, reason=reason) for reason in event.faults)
        for id_, evidence in event.evidence:
            self._accuse(id_, evidence, source=event.source, at_ms=event.at_ms, work=work, teller=event.source)
        for evidence_id_ in event.evidence_ids:
            if not self._is_held(evidence_id_):
                self._refused.add(evidence_id_)
        for head in event.heads:
            log = self._logs[head.log]
            # Asked again: the message was opened before this turn began.
            if not log.misbehaved and not log.is_known(head.digest) and self._has_room(log, head, work):
                work.persist.append(KeepNote(head=head, source=event.source, at_ms=event.at_ms))
                work.compare.append(Compare(head=head, source=event.source))

    def _has_room(self, log: LogState, head: LogHead, work: _Work) -> bool:
        staged = sum(comparison.head.log == head.log for comparison in work.compare)
        if log.has_room(head.digest, parked_max=self._limits.parked_max, staged=staged):
            return True
        reason = f"more than {self._limits.parked_max} of its heads are unresolved; further ones are refused"
        work.alert.append(Suspected(log=head.log, doubt=Doubt.UNRESOLVED, reason=reason))
        return False

    def _judge(self, event: Compared, work: _Work) -> None:
        head, log = event.head, self._logs[event.head.log]
        if event.own_root is None or log.head is None:
            self._judge_larger(event, log, work)
            return
        was_parked = log.parked.pop(head.digest, None) is not None
        if was_parked:
            work.persist.append(Unpark(digest=head.digest))
        log.judged.add(head.digest)
        if head.root == event.own_root:
            # A parked head was shown before the one that reached it, and not again.
            if event.source == LOG_SOURCE and not was_parked and head.size < log.head.size:
                reason = f"showed its head at size {head.size} again, after the one at size {log.head.size}"
                work.alert.append(Suspected(log=head.log, doubt=Doubt.ROLLBACK, reason=reason))
        elif log.misbehaved:
            pass  # proven already; each further pair of heads would be one more file that says the same
        elif head.size == log.head.size:
            evidence = same_size_fork(head.note, log.head.note, key=log.key)
            self._accuse(head.log, evidence, source=event.source, at_ms=event.at_ms, work=work)
        else:
            evidence = prefix_fork(head.note, log.head.note, prefix_root=event.own_root, path=event.path, key=log.key)
            self._accuse(head.log, evidence, source=event.source, at_ms=event.at_ms, work=work)

    def _judge_larger(self, event: Compared, log: LogState, work: _Work) -> None:
        head = event.head
        if log.misbehaved or head.digest in log.parked:
            return
        if (rival := log.parked_rival(head.digest)) is not None:
            evidence = same_size_fork(head.note, rival.note, key=log.key)
            self._accuse(head.log, evidence, source=event.source, at_ms=event.at_ms, work=work)
            return
        log.parked[head.digest] = Parked(head=head, source=event.source, since_ms=event.at_ms)
        work.persist.append(Park(head=head, source=event.source, at_ms=event.at_ms))

    def _advance(self, event: Advanced, work: _Work) -> None:
        """Our tree has grown: heads that were parked can be judged now."""
        log = self._logs[event.head.log]
        log.head = event.head
        log.judged.add(event.head.digest)
        work.alert.append(Cleared(log=event.head.log, doubt=Doubt.ROLLBACK))
        work.compare.extend(
            Compare(head=parked.head, source=parked.source)
            for parked in log.parked.values()
            if parked.head.size <= event.head.size
        )

    def _accuse(
        self, id_: LogId, evidence: Evidence, *, source: str, at_ms: int, work: _Work, teller: str | None = None
    ) -> None:
        """Keep evidence that is new, and tell it to every peer but the one in whose answer it came.

        A peer that called us with it is told, too: a call does not say which of our peers it comes from.

        Raises:
            MalformedError, RefusedError, UnsupportedError: it proves nothing; nothing has changed.
        """
        log, data = self._logs[id_], format_evidence(evidence)
        if evidence_id(data) in log.evidence or len(log.evidence) >= EVIDENCE_MAX:
            return
        first, second = verify_evidence(evidence, key=log.key)
        log.evidence[evidence_id(data)] = data
        log.misbehaved = True
        work.persist.append(
            KeepEvidence(
                log=id_,
                id=evidence_id(data),
                data=data,
                fork=evidence.fork,
                sizes=(first.size, second.size),
                source=source,
                at_ms=at_ms,
            )
        )
        told = Gossip(evidence_ids=self._evidence_ids(), evidence=(data,))
        work.send.extend((peer, told) for peer in self._peers if peer != teller)
        work.alert.append(Accused(log=id_, id=evidence_id(data), source=source))

    def _tick(self, event: Tick, work: _Work) -> None:
        for id_, log in self._logs.items():
            deadline = event.at_ms - self._limits.parked_deadline_ms
            overdue = [parked.head.size for parked in log.parked.values() if parked.since_ms <= deadline]
            if overdue and not log.misbehaved:
                reason = f"heads up to size {max(overdue)} are signed, but following the log has not reached them"
                work.alert.append(Suspected(log=id_, doubt=Doubt.UNRESOLVED, reason=reason))
            elif len(log.parked) < self._limits.parked_max or log.misbehaved:
                work.alert.append(Cleared(log=id_, doubt=Doubt.UNRESOLVED))
        greeting = self.greeting()
        work.send.extend((peer, greeting) for peer in self._choose_peers(event.draw))

    def _choose_peers(self, draw: int) -> list[str]:
        """Peers in random order, none a second time before all others had their turn: luck cannot leave one out."""
        chosen: list[str] = []
        while len(chosen) < min(self._limits.peers_per_round, len(self._peers)):
            if not self._to_call:
                self._to_call = [peer for peer in self._peers if peer not in chosen]
            draw, index = divmod(draw, len(self._to_call))
            chosen.append(self._to_call.pop(index))
        return chosen
