"""Publication: on an interval the newest head goes to the witnesses, and then to everybody.

Each commit has a checkpoint, and its submitters get that at once. If witnesses and monitors were shown all of them, no
two would see the same; so there is an interval, and the head that is newest when it has passed is the next that all are
shown. When the log was idle for longer than that, a new entry is published at once.

    newest head ── witnesses cosign ── quorum of the policy ── stored ── shown: GetCheckpoint, /checkpoint, tiles

Without the quorum a log that *fails closed* goes on showing the checkpoint before, and tries again with the head that
is newest by then; one that *fails open* shows the new one with the cosignatures that there are. Either says so. In an
idle log the witnesses are asked again from time to time, so that a reader can tell its head from an old one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from treehead.cosignature import TIMESTAMP_BYTES
from treehead.errors import QuorumError, StorageError, UnavailableError
from treehead.note import Note, NoteSignature, format_note, parse_note
from treehead_logserver.config import Limits
from treehead_logserver.heads import Head, Heads
from treehead_logserver.metrics import Metrics
from treehead_logserver.prover import Prover
from treehead_logserver.storage.base import Publishing, UnknownOutcomeError
from treehead_logserver.witness.panel import Panel

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationState:
    """How it stands with publication.

    Attributes:
        published_size: of the newest published checkpoint; -1 if there is none yet.
        quorum_met: whether that has the cosignatures that the policy asks for.
        problem: why the newest head is not published, or lacks cosignatures; empty when all is well.
        behind_s: for how long there has been a head that is not published yet.
        withheld_s: for how long each attempt to publish has failed, if of the same head again; 0 if the last did not.
    """

    published_size: int
    quorum_met: bool
    problem: str
    behind_s: float
    withheld_s: float


class Publisher:
    """Publishes the heads of one log. For one event loop; `run` and `amend` are the two tasks that do."""

    def __init__(
        self,
        *,
        storage: Publishing,
        heads: Heads,
        published: Heads,
        prover: Prover,
        panel: Panel | None,
        fail_open: bool,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._storage = storage
        self._heads = heads
        self._published = published
        self._prover = prover
        self._panel = panel
        self._fail_open = fail_open
        self._limits = limits
        self._metrics = metrics
        self._storing = asyncio.Lock()
        self._late: asyncio.Queue[tuple[NoteSignature, int]] = asyncio.Queue()
        """At most one for each witness: each is asked one thing at a time."""
        self._next_attempt = 0.0
        self._behind_since: float | None = None
        self._attempt_since: float | None = None
        self._withheld_since: float | None = None
        self._problem = ""
        if panel is not None:
            panel.on_late = lambda signature, size: self._late.put_nowait((signature, size))

    @property
    def panel(self) -> Panel | None:
        """The witnesses that are asked; None if the log has none."""
        return self._panel

    @property
    def fail_open(self) -> bool:
        """Whether checkpoints are published even if too few witnesses cosigned them."""
        return self._fail_open

    @property
    def state(self) -> PublicationState:
        """How it stands just now."""
        return PublicationState(
            published_size=self._published.size,
            quorum_met=self._published.size >= 0 and self._is_met(self._published.newest),
            problem=self._problem,
            behind_s=self._behind_s(),
            withheld_s=0.0
            if self._withheld_since is None
            else asyncio.get_running_loop().time() - self._withheld_since,
        )

    def _behind_s(self) -> float:
        # A head that came while an attempt is under way is counted from the beginning of that.
        since = self._behind_since if self._behind_since is not None else self._attempt_since
        if since is None or self._heads.size <= self._published.size:
            return 0.0
        return asyncio.get_running_loop().time() - since

    async def run(self) -> None:
        """Publish head after head, until cancelled.

        Raises:
            UnknownOutcomeError: a commit failed, and the process must end.
        """
        while True:
            await self._until_due()
            await self.publish()

    async def publish(self) -> None:
        """Publish the newest head now, if the witnesses let it; what stands against it is in `state`.

        Raises:
            UnknownOutcomeError: the commit failed, and the process must end.
        """
        self._attempt_since = began = asyncio.get_running_loop().time()
        self._next_attempt = began + self._limits.publish_ms / 1_000
        try:
            outcome = await self._publish()
        finally:
            self._attempt_since = None
        if outcome in ("published", "unwitnessed"):
            self._withheld_since = None
        elif self._withheld_since is None:
            self._withheld_since = began
        self._metrics.publications.labels(outcome).inc()
        self._metrics.publication_seconds.observe(asyncio.get_running_loop().time() - began)

    async def _publish(self) -> str:
        """Returns what came of it, as the metric names it."""
        head = self._heads.newest
        signatures = await self._gather(head)
        async with self._storing:
            is_anew = self._published.size == head.size
            note = self._cosigned(head, signatures)
            problem = self._shortfall(note)
            if problem and not self._fail_open:
                self._report(f"the checkpoint of size {head.size} is not published: {problem}")
                return "withheld"
            try:
                await self._show(head, note)
            except UnknownOutcomeError:
                raise
            except StorageError as exc:
                _LOG.error("%s", exc)  # for the operator; what is reported is told to strangers as well
                self._report(f"the checkpoint of size {head.size} could not be stored, and the journal says why")
                return "failed"
        self._behind_since = None
        # The quorum that it was published with may be old by now, and readers go by the times.
        if not problem and is_anew and (stale := self._shortfall(_merged(parse_note(head.checkpoint), signatures))):
            self._report(f"the published checkpoint of size {head.size} was not cosigned anew: {stale}")
            return "withheld"
        self._report(f"the checkpoint of size {head.size} is published all the same: {problem}" if problem else "")
        return "unwitnessed" if problem else "published"

    async def amend(self) -> None:
        """Add what witnesses bring late to the published checkpoint, if it is still that one, until cancelled.

        Raises:
            UnknownOutcomeError: a commit failed, and the process must end.
        """
        while True:
            signature, size = await self._late.get()
            async with self._storing:
                if size != self._published.size:
                    continue
                head = self._published.newest
                try:
                    await self._show(head, _merged(parse_note(head.checkpoint), [signature]))
                except UnknownOutcomeError:
                    raise
                except StorageError as exc:
                    _LOG.error("a late cosignature could not be stored: %s", exc)

    async def published_with(self, leaf_index: int) -> Head:
        """Wait until a published checkpoint holds an entry, and has its quorum, unless the log fails open.

        Returns the published head then.

        Raises:
            UnavailableError: none did in time; the message says why.
        """
        try:
            async with asyncio.timeout(self._limits.witnessed_ms / 1_000):
                head = await self._published.after(leaf_index)
                while head is not None and not (self._fail_open or self._is_met(head)):
                    head = await self._published.after(leaf_index) if await self._published.change() else None
        except TimeoutError:
            head = None
        if head is None:
            problem = self._problem or "the log is shutting down, or its witnesses are slow"
            raise UnavailableError(
                f"entry {leaf_index} is logged and not witnessed yet ({problem}); try again, which is safe"
            )
        return head

    async def _until_due(self) -> None:
        """Wait for a reason to publish, and for the interval to pass."""
        loop = asyncio.get_running_loop()
        if not self._problem:
            try:
                async with asyncio.timeout(None if self._panel is None else self._limits.refresh_s):
                    if await self._heads.after(self._published.size) is None:
                        await asyncio.Event().wait()  # there will be no more heads; whoever runs us ends us
            except TimeoutError:
                pass
        if self._behind_since is None and self._heads.size > self._published.size:
            self._behind_since = loop.time()
        await asyncio.sleep(max(0.0, self._next_attempt - loop.time()))

    # --- notes -------------------------------------------------------------------------------------------------------

    async def _gather(self, head: Head) -> Sequence[NoteSignature]:
        """What the witnesses say about a head."""
        if self._panel is None:
            return ()

        async def prove(size1: int, size2: int) -> tuple[bytes, ...]:
            return await self._prover.prove_consistency(size1=size1, size2=size2, head=head)

        return await self._panel.collect(head.checkpoint, size=head.size, prove=prove)

    def _cosigned(self, head: Head, signatures: Sequence[NoteSignature]) -> Note:
        """The head's note with all cosignatures: new ones, and those that it was published with if it was."""
        note = parse_note(head.checkpoint)
        if self._published.size == head.size:
            note = _merged(note, parse_note(self._published.newest.checkpoint).signatures)
        return _merged(note, signatures)

    def _is_met(self, head: Head) -> bool:
        return not self._shortfall(parse_note(head.checkpoint))

    def _shortfall(self, note: Note) -> str:
        """Why a note may not be published, or lacks cosignatures; empty if all is well."""
        if self._panel is not None:
            try:
                self._panel.check(note)
            except QuorumError as exc:
                return f"{exc} ({self._panel.problem or 'the others have not answered yet'})"
        return ""

    async def _show(self, head: Head, note: Note) -> None:
        """Store the note, and only then show it: what was shown once has to be there after a crash."""
        data = format_note(note)
        if head.size == self._published.size:
            if data != self._published.newest.checkpoint:
                await self._storage.publish(data, size=head.size)
                self._published.amend(data)
            return
        await self._storage.publish(data, size=head.size)
        self._published.release(Head(size=head.size, checkpoint=data, edge=head.edge))

    def _report(self, problem: str) -> None:
        """Say once what is wrong, and once that it is over."""
        if problem and not self._problem:
            _LOG.error("%s", problem)
        elif self._problem and not problem:
            _LOG.info("checkpoints are published as they should be again")
        self._problem = problem


def _merged(note: Note, signatures: Iterable[NoteSignature]) -> Note:
    """The note with signature lines added, each in the place of one by the same key that is not newer."""
    lines = {(line.name, line.key_id): line for line in note.signatures}
    for line in signatures:
        there = lines.get((line.name, line.key_id))
        # Cosignatures begin with their time: a witness's clock may have gone back. The log's own line is the same.
        if there is None or line.signature[:TIMESTAMP_BYTES] >= there.signature[:TIMESTAMP_BYTES]:
            lines[line.name, line.key_id] = line
    return Note(text=note.text, signatures=tuple(lines.values()))
