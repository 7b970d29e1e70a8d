"""What came of a run: what was measured in each phase, and which promises were not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.rig.latency import Latency
from tests.abuse.abuser import NICE
from tests.abuse.party import Done

RATIO_MAX = 3.0
MEMORY_MIB_MAX = 1_024.0
JOURNAL_BYTES_PER_S_MAX = 32_768.0
MEBIBYTE = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What was measured while some abuses lasted, or none; shares are of all cores of the machine."""

    name: str
    seconds: float
    latencies: Mapping[str, Latency]
    refusals: int
    unanswered: int
    journal_bytes_per_s: float
    memory_mib: float
    server_share: float
    abusers_share: float
    done: Mapping[str, Done]

    @property
    def attempts(self) -> int:
        """How many attempts, requests or frames there were of all abuses."""
        return sum(done.counts.total() for done in self.done.values())

    def ratio(self, client: str, baseline: Phase) -> float:
        """The p99 of a client as a multiple of what it was without abusers."""
        return self.latencies[client].p99_ms / baseline.latencies[client].p99_ms

    def describe(self, baseline: Phase) -> str:
        """In one line, what this phase cost."""
        clients = "  ".join(
            f"{name} p50 {latency.p50_ms:6.1f} p99 {latency.p99_ms:7.1f} max {latency.max_ms:7.1f} ms "
            f"{self.ratio(name, baseline):5.1f}x"
            for name, latency in self.latencies.items()
        )
        return (
            f"{self.name:16}  {clients}  refused {self.refusals:3}  memory {self.memory_mib:4.0f} MiB  "
            f"cpu log {self.server_share:4.0%} abusers {self.abusers_share:4.0%}  attempts {self.attempts}"
        )


@dataclass(slots=True, kw_only=True)
class Figures:
    """What came of a run: its phases, of which the first is the baseline and the last all abuses together.

    Attributes:
        failures: what went wrong, in a sentence each.
        memory_mib: the largest that the log has been.
    """

    phases: list[Phase] = field(default_factory=list)
    acknowledged: int = 0
    lost: int = 0
    memory_mib: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept, but for those about times."""
        broken = list(self.failures)
        if self.memory_mib > MEMORY_MIB_MAX:
            broken.append(f"the log took {self.memory_mib:.0f} MiB, more than {MEMORY_MIB_MAX:.0f}")
        for phase in self.phases:
            if phase.journal_bytes_per_s > JOURNAL_BYTES_PER_S_MAX:
                broken.append(
                    f"{phase.name}: the journal grew by {phase.journal_bytes_per_s:.0f} bytes/s, more than "
                    f"{JOURNAL_BYTES_PER_S_MAX:.0f}"
                )
            if phase.unanswered:
                broken.append(f"{phase.name}: who behaved was not answered {phase.unanswered} times")
        return broken

    @property
    def slow(self) -> list[str]:
        """The clients whose p99 rose by more than it may."""
        if not self.phases:
            return []
        baseline, abused = self.phases[0], self.phases[-1]
        return [
            f"the p99 of the {name} client is {abused.ratio(name, baseline):.1f} times what it was, more than "
            f"{RATIO_MAX:g}"
            for name in abused.latencies
            if abused.ratio(name, baseline) > RATIO_MAX
        ]

    def __str__(self) -> str:
        if not self.phases:
            return f"abuse: nothing was measured broken={len(self.broken)}"
        baseline, abused = self.phases[0], self.phases[-1]
        clients = " ".join(
            f"{name}: p99={latency.p99_ms:.1f}ms alone={baseline.latencies[name].p99_ms:.1f}ms "
            f"ratio={abused.ratio(name, baseline):.2f}"
            for name, latency in abused.latencies.items()
        )
        return (
            f"abuse: seconds={abused.seconds:.0f} abuses={len(abused.done)} attempts={abused.attempts} {clients} "
            f"refused={abused.refusals} acknowledged={self.acknowledged} lost={self.lost} "
            f"memory={self.memory_mib:.0f}MiB journal={abused.journal_bytes_per_s / 1_000:.1f}kB/s "
            f"cpu-log={abused.server_share:.0%} cpu-abusers={abused.abusers_share:.0%} (at nice {NICE}) "
            f"broken={len(self.broken)}"
        )
