"""The faults that a log is put through, as values; `str` names each for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tests.fault.preload import ANYTHING, Action, Operation
from tests.fault.steps import Step
from tests.fault.trace import FOLDER

ANY_STEP = Step("*", ANYTHING)

_HOW = {
    Action.KILL_BEFORE: "killed before",
    Action.KILL_AFTER: "killed after",
    Action.KILL_HALF: "killed within",
    Action.FAIL_BEFORE: "error, lost:",
    Action.FAIL_AFTER: "error, yet persisted:",
    Action.FAIL_DOOMED: "error, doomed:",
    Action.SHORT: "short",
    Action.FULL: "disk full from",
}


class Power(Enum):
    """What becomes of the caches when the process has ended."""

    STAYS = "power stays"
    LOST = "power lost with all that was not synced"
    TORN = "power lost with a part of what was not synced"


class Phase(Enum):
    """When the fault is armed."""

    SERVING = "serving"
    STARTING = "starting"
    MAKING = "making"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFault:
    """A step goes wrong while a log is made, started, or served under load and then stopped.

    Attributes:
        lasting: and so does each one of its kind after it.
        then_kill: the process dies before the step after it.
        second_life: after it ended, the log is started and put under load again, and killed; only then the power is
            lost. What the log found in the cache when it started was not on the disk.
    """

    step: Step
    action: Action
    phase: Phase = Phase.SERVING
    power: Power = Power.STAYS
    lasting: bool = False
    then_kill: bool = False
    second_life: bool = False

    @property
    def kind(self) -> str:
        """What faults are counted by."""
        if self.power is not Power.STAYS:
            return "power loss"
        return _HOW[self.action].partition(" ")[0].strip(",")

    def __str__(self) -> str:
        parts = [f"{_HOW[self.action]} {self.step}"]
        parts += ["each time"] if self.lasting else []
        parts += ["and killed"] if self.then_kill else []
        parts += ["and served once more"] if self.second_life else []
        parts += [self.power.value] if self.power is not Power.STAYS else []
        parts += [f"while {self.phase.value}"] if self.phase is not Phase.SERVING else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """The log is killed from outside at a random moment."""

    kind = "killed"

    def __str__(self) -> str:
        return "killed from outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump:
    """The clock jumps by so many seconds, under load and once more before the next start."""

    seconds: int
    kind = "clock"

    def __str__(self) -> str:
        return f"clock jumps by {self.seconds} s"


class Lock(Enum):
    """How another process holds the database: any reader, its one writer, or so that nobody else can even read it."""

    READ = "read"
    WRITE = "write"
    EXCLUSIVE = "exclusive"


class Hold(Enum):
    """When another process holds the database, and until when."""

    BRIEF = "for a moment"
    LONG = "until the log refuses entries"
    STARTING = "while the log starts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """Another process holds a lock of the database."""

    lock: Lock
    hold: Hold
    kind = "locked"

    def __str__(self) -> str:
        return f"{self.lock.value} lock of another process {self.hold.value}"


class Damage(Enum):
    """What becomes of a page."""

    BIT = "a bit flips"
    ZEROS = "a page is zeros"
    NOISE = "a page is noise"
    CUT = "its end is gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupted:
    """A file is damaged while the log is stopped, or after it was killed (then there is a WAL)."""

    file: str
    damage: Damage
    killed: bool
    kind = "page"

    def __str__(self) -> str:
        return f"{self.file} damaged after a {'kill' if self.killed else 'stop'}: {self.damage.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull:
    """The log's file system, a small one in memory, is full, until it is made larger."""

    kind = "disk"

    def __str__(self) -> str:
        return "small file system full"


Fault = StepFault | Killed | ClockJump | Locked | Corrupted | DiskFull


def catalogue(steps: Sequence[Step]) -> list[Fault]:
    """Every kind of fault, in each version that makes sense, at each of these steps and to each file of theirs."""
    faults: list[Fault] = [Killed()] * 4
    for step in steps:
        faults += _step_faults(step, Phase.SERVING)
    for phase in (Phase.STARTING, Phase.MAKING):
        faults += [fault for fault in _step_faults(ANY_STEP, phase) if fault.action is not Action.FULL]
    faults += [ClockJump(seconds=seconds) for seconds in (-3_600, -10 * 366 * 86_400, 10 * 366 * 86_400)]
    # SQLite gives nobody an exclusive lock while the log is open, and a reader is in nobody's way.
    faults += [Locked(lock=lock, hold=Hold.BRIEF) for lock in (Lock.READ, Lock.WRITE)]
    faults += [Locked(lock=Lock.WRITE, hold=Hold.LONG)]
    faults += [Locked(lock=lock, hold=Hold.STARTING) for lock in (Lock.WRITE, Lock.EXCLUSIVE)]
    faults += [
        Corrupted(file=file, damage=damage, killed=killed)
        for file in sorted({step.file for step in steps if "*" not in step.file} - {FOLDER})
        for damage in Damage
        for killed in ((True,) if file.endswith("-wal") else (False, True))
    ]
    faults += [DiskFull()] * 2
    return faults


def _step_faults(step: Step, phase: Phase) -> list[StepFault]:
    kills = [Action.KILL_BEFORE, Action.KILL_AFTER]
    faults = [StepFault(step=step, phase=phase, action=action) for action in kills]
    faults += [
        StepFault(step=step, phase=phase, action=action, power=power)
        for action in kills
        for power in (Power.LOST, Power.TORN)
    ]
    faults += [StepFault(step=step, phase=phase, action=action, power=Power.LOST, second_life=True) for action in kills]
    faults += [
        StepFault(step=step, phase=phase, action=Action.FAIL_BEFORE),
        StepFault(step=step, phase=phase, action=Action.FAIL_AFTER),
        StepFault(step=step, phase=phase, action=Action.FAIL_BEFORE, lasting=True),
        StepFault(step=step, phase=phase, action=Action.FAIL_AFTER, then_kill=True),
    ]
    if step.operation in (Operation.WRITE, Operation.CREATE):
        faults.append(StepFault(step=step, phase=phase, action=Action.FULL))
    if step.operation is Operation.WRITE:
        faults += [StepFault(step=step, phase=phase, action=action) for action in (Action.KILL_HALF, Action.SHORT)]
    # Of a directory it is the journal that is synced, which the file system itself does not go on without.
    if step.operation is Operation.SYNC and step.file != FOLDER:
        doomed = StepFault(step=step, phase=phase, action=Action.FAIL_DOOMED, power=Power.LOST)
        faults += [doomed, replace(doomed, second_life=True), replace(doomed, second_life=True, then_kill=True)]
    return faults
