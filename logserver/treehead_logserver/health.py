"""Whether the log does what it is for: commits come about, and so do publications."""

from __future__ import annotations

from dataclasses import dataclass

from treehead_logserver.publisher import Publisher
from treehead_logserver.sequencer import Sequencer


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is wrong, one sentence each: with `problems` the log is not healthy, with `warnings` it is all the same."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


class Health:
    """Looks at the parts of a running log."""

    def __init__(self, *, sequencer: Sequencer, publisher: Publisher, stall_ms: int) -> None:
        self._sequencer = sequencer
        self._publisher = publisher
        self._stall_s = stall_ms / 1_000

    def look(self) -> Findings:
        """What is wrong just now."""
        problems, warnings = [], []
        if (waits_s := self._sequencer.waits_s) > self._stall_s:
            problems.append(f"a submission has waited to be committed for {waits_s:.0f} s")
        if (failing_s := self._sequencer.failing_s) > self._stall_s:
            problems.append(f"a commit failed {failing_s:.0f} s ago, and none has succeeded since")
        state = self._publisher.state
        if state.behind_s > self._stall_s:
            problem = state.problem or "nothing says why"
            problems.append(f"no checkpoint has been published for {state.behind_s:.0f} s: {problem}")
        elif state.withheld_s > self._stall_s:
            problems.append(f"nothing could be published for {state.withheld_s:.0f} s: {state.problem}")
        elif state.problem:
            warnings.append(state.problem)
        if self._publisher.panel is not None:
            warnings += [witness.alarm for witness in self._publisher.panel.states if witness.alarm]
        return Findings(problems=tuple(problems), warnings=tuple(warnings))
