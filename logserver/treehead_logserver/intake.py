"""Submissions, whatever face they come in by: admitted, charged, logged, and answered with a head that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from treehead.errors import StorageError, TreeheadError, UnavailableError
from treehead_logserver.admission import Admission
from treehead_logserver.backlog import BusyError
from treehead_logserver.checker import Outcome
from treehead_logserver.freeze import Freeze, FrozenError
from treehead_logserver.heads import Head, Heads
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.metrics import Metrics
from treehead_logserver.publisher import Publisher
from treehead_logserver.quota import Quotas
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.storage.base import Candidate, Placed, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What became of the leaves of one submission.

    Attributes:
        outcomes: for each leaf its place, or why it was not admitted.
        head: holds all that have a place.
    """

    outcomes: Sequence[Placed | TreeheadError]
    head: Head


class Intake:
    """Takes submissions. For one event loop."""

    def __init__(
        self,
        *,
        admission: Admission,
        quotas: Quotas,
        sequencer: Sequencer,
        storage: Reading,
        heads: Heads,
        publisher: Publisher,
        freeze: Freeze | None,
        witnessed_max: int,
        metrics: Metrics,
    ) -> None:
        self._admission = admission
        self._quotas = quotas
        self._sequencer = sequencer
        self._storage = storage
        self._heads = heads
        self._publisher = publisher
        self._freeze = freeze
        self._witnessed_max = witnessed_max
        self._witnessed = 0
        """How many submitters wait for a published checkpoint. They hold their places for as long as witnesses take."""
        self._counted = metrics.submissions

    def check_open(self, *, face: str) -> None:
        """Returns only if the log takes entries; for a face to ask before it has anything to do with one.

        Raises:
            FrozenError: it takes no more; that is counted as one that was refused.
        """
        if self._freeze is not None:
            error = FrozenError(self._freeze.successor)
            self._counted.labels(face, _refusal_of(error)).inc()
            raise error

    async def log(
        self, leaves: Sequence[bytes], *, face: str, address: str, witnessed: bool = False, signed: bool = False
    ) -> Logged:
        """Make leaves part of the log, those that are admitted together; `address` is the submitter's.

        With `witnessed`, the head is a published one. With `signed`, what is no signed entry in good order is not
        admitted, even if the log takes any bytes. They are counted under the name of the face.

        Raises:
            FrozenError: the log takes no more entries.
            BusyError: too many wait, or the submitter or a signer has sent too much; nothing was done.
            UnavailableError: the outcome is unknown, or it is logged and not witnessed in time; to try again is safe.
        """
        try:
            logged = await self._log(leaves, address=address, witnessed=witnessed, signed=signed)
        except TreeheadError as exc:
            self._counted.labels(face, _refusal_of(exc)).inc(len(leaves))
            raise
        self._count(logged.outcomes, face=face)
        return logged

    def _count(self, outcomes: Sequence[Placed | TreeheadError], *, face: str) -> None:
        # Most are placed, of which there may be tens of thousands a second: the two kinds of them are told apart here.
        placed = [outcome.duplicate for outcome in outcomes if isinstance(outcome, Placed)]
        counts = Counter({"added": placed.count(False), "duplicate": placed.count(True)})
        if len(placed) < len(outcomes):
            counts.update(_refusal_of(outcome) for outcome in outcomes if isinstance(outcome, TreeheadError))
        for name, count in counts.items():
            if count:
                self._counted.labels(face, name).inc(count)

    async def _log(self, leaves: Sequence[bytes], *, address: str, witnessed: bool, signed: bool) -> Logged:
        if self._freeze is not None:
            raise FrozenError(self._freeze.successor)
        self._quotas.charge_address(address, len(leaves))
        admitted = await self._admission.admit(leaves)
        if signed:
            admitted = [_signed(item) for item in admitted]
        candidates = [item for item in admitted if isinstance(item, Candidate)]
        if len(candidates) < len(admitted):
            for item in admitted:
                # First, since a defect of ours fails the call, which then must not have logged the others.
                if not isinstance(item, Candidate | TreeheadError):
                    raise item
        await self._quotas.charge_signers(candidates, self._storage)
        places = await self._sequencer.submit(candidates)
        head = self._heads.newest
        if witnessed and places:
            head = await self._published_with(max(place.leaf_index for place in places))
        rest = iter(places)
        outcomes = [item if isinstance(item, TreeheadError) else next(rest) for item in admitted]
        return Logged(outcomes=outcomes, head=head)

    async def _published_with(self, leaf_index: int) -> Head:
        if self._witnessed >= self._witnessed_max:
            raise BusyError(
                f"entry {leaf_index} is logged, but {self._witnessed} others wait for witnesses already; try again, "
                "which is safe"
            )
        self._witnessed += 1
        try:
            return await self._publisher.published_with(leaf_index)
        finally:
            self._witnessed -= 1


def _signed(item: Outcome) -> Outcome:
    """A candidate that somebody signed, or else why it is none."""
    if not isinstance(item, Candidate) or item.signer is not None:
        return item
    try:
        return admit_leaf(item.leaf, rules=AdmissionRules())
    except TreeheadError as exc:
        return exc


def _refusal_of(error: TreeheadError) -> str:
    """The value of the label `outcome` for what was not placed."""
    match error:
        case BusyError():
            return "busy"
        case UnavailableError() | StorageError():
            return "unavailable"
        case _:
            return "refused"
