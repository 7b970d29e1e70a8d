"""Whether the log does what it is for: commits come about, and so do publications."""

from __future__ import annotations

from treehead_logserver.publisher import Publisher
from treehead_logserver.sequencer import Sequencer


class Health:
    """Looks at the parts of a running log."""

    def __init__(self, *, sequencer: Sequencer, publisher: Publisher, stall_ms: int) -> None:
        self._sequencer = sequencer
        self._publisher = publisher
        self._stall_s = stall_ms / 1_000

    def problems(self) -> list[str]:
        """What is wrong, one sentence each; empty when all is well."""
        found = []
        if (waits_s := self._sequencer.waits_s) > self._stall_s:
            found.append(f"a submission has waited to be committed for {waits_s:.0f} s")
        state = self._publisher.state
        if state.behind_s > self._stall_s:
            problem = state.problem or "nothing says why"
            found.append(f"no checkpoint has been published for {state.behind_s:.0f} s: {problem}")
        return found
