"""A seeded slice of `make fault`: one log through each kind of fault, in the most of its versions.

Which step of the log it meets the fault at is up to the seed. `make fault` goes through all steps, and on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault.catalogue import (
    ClockJump,
    Corrupted,
    DiskFull,
    Fault,
    Hold,
    Killed,
    Lock,
    Locked,
    Phase,
    Power,
    StepFault,
    catalogue,
)
from tests.fault.preload import Action, Operation
from tests.fault.run import put_through, trial_of
from tests.fault.steps import Step
from tests.fault.surroundings import NotPermittedError
from tests.fault.trial import Workshop

SEED = 20_261_122
ATTEMPTS = 4
"""A fault may wait for a step that a life does not come to; then another one is tried."""
WAL_SYNC = Step("log.sqlite-wal", Operation.SYNC)

Choice = Callable[[Fault], bool]


def at_a_step(
    action: Action,
    power: Power = Power.STAYS,
    phase: Phase = Phase.SERVING,
    *,
    lasting: bool = False,
    then_kill: bool = False,
    second_life: bool = False,
    step: Step | None = None,
) -> Choice:
    wanted = (action, power, phase, lasting, then_kill, second_life)
    return lambda fault: (
        isinstance(fault, StepFault)
        and step in (None, fault.step)
        and wanted == (fault.action, fault.power, fault.phase, fault.lasting, fault.then_kill, fault.second_life)
    )


CHOICES: dict[str, Choice] = {
    "killed_before_a_step": at_a_step(Action.KILL_BEFORE),
    "killed_after_a_step": at_a_step(Action.KILL_AFTER),
    "killed_within_a_write": at_a_step(Action.KILL_HALF),
    "killed_at_a_random_moment": lambda fault: isinstance(fault, Killed),
    "killed_while_starting": at_a_step(Action.KILL_AFTER, phase=Phase.STARTING),
    "killed_while_the_log_is_made": at_a_step(Action.KILL_AFTER, phase=Phase.MAKING),
    "power_lost_before_a_step": at_a_step(Action.KILL_BEFORE, Power.LOST),
    "power_lost_after_a_step": at_a_step(Action.KILL_AFTER, Power.LOST),
    "power_lost_with_torn_writes": at_a_step(Action.KILL_AFTER, Power.TORN),
    "power_lost_while_the_log_is_made": at_a_step(Action.KILL_AFTER, Power.LOST, Phase.MAKING),
    # A restart finds in the cache what was not on the disk yet, and must not show it before it is.
    "power_lost_after_a_restart": at_a_step(Action.KILL_BEFORE, Power.LOST, second_life=True, step=WAL_SYNC),
    "error_and_lost": at_a_step(Action.FAIL_BEFORE),
    "error_and_lost_each_time": at_a_step(Action.FAIL_BEFORE, lasting=True),
    "error_and_yet_persisted": at_a_step(Action.FAIL_AFTER),
    "error_and_yet_persisted_and_killed": at_a_step(Action.FAIL_AFTER, then_kill=True),
    "error_while_the_log_is_made": at_a_step(Action.FAIL_BEFORE, phase=Phase.MAKING),
    "failed_sync_and_power_lost": at_a_step(Action.FAIL_DOOMED, Power.LOST),
    # And to sync it is not enough after a sync that failed.
    "failed_sync_and_power_lost_after_a_restart": at_a_step(
        Action.FAIL_DOOMED, Power.LOST, then_kill=True, second_life=True, step=WAL_SYNC
    ),
    "short_write": at_a_step(Action.SHORT),
    "disk_full": at_a_step(Action.FULL),
    "small_file_system_full": lambda fault: isinstance(fault, DiskFull),
    "clock_jumps_back": lambda fault: isinstance(fault, ClockJump) and fault.seconds < 0,
    "locked_by_another_process": lambda fault: isinstance(fault, Locked) and fault.hold is Hold.BRIEF,
    "locked_until_the_log_refuses": lambda fault: isinstance(fault, Locked) and fault.hold is Hold.LONG,
    # That the log waits long for an exclusive lock, and gives up, is left to `make fault`.
    "locked_while_starting": lambda fault: fault == Locked(lock=Lock.WRITE, hold=Hold.STARTING),
    "corrupted_page": lambda fault: isinstance(fault, Corrupted) and not fault.file.endswith("-wal"),
    "corrupted_wal": lambda fault: isinstance(fault, Corrupted) and fault.file.endswith("-wal"),
}


@pytest.mark.parametrize("name", CHOICES)
async def test_a_log_keeps_its_promises_through(name: str, workshop: Workshop, tmp_path: Path) -> None:
    faults = [fault for fault in catalogue(list(workshop.counts)) if CHOICES[name](fault)]
    for attempt in range(ATTEMPTS):
        seed = f"{SEED}:{name}:{attempt}"
        fault = random.Random(seed).choice(faults)
        (tmp_path / f"{attempt}").mkdir()
        trial = trial_of(workshop, fault, folder=tmp_path / f"{attempt}", seed=seed)
        try:
            await put_through(trial, fault)
        except NotPermittedError as exc:
            pytest.skip(str(exc))
        if trial.fired:
            return
    pytest.fail(f"{ATTEMPTS} faults were to happen, and none did")


def test_every_fault_of_the_catalogue_is_of_a_kind_that_the_suite_tries(workshop: Workshop) -> None:
    tried = {
        fault.kind for fault in catalogue(list(workshop.counts)) if any(is_it(fault) for is_it in CHOICES.values())
    }
    assert tried == {fault.kind for fault in catalogue(list(workshop.counts))}
