"""Faults while a log is made: afterwards there is a log that can be served, or none, and never something between."""

from __future__ import annotations

from pathlib import Path

from tests.fault.catalogue import Power, StepFault
from tests.fault.ledger import Ledger
from tests.fault.oracle import check_complaint, check_no_defect
from tests.fault.preload import Shim
from tests.fault.trial import EXIT_KILLED, EXIT_OK, Trial
from tests.processes import Finished, NotListeningError, run_module
from treehead.keys import parse_vkey

EXIT_USAGE = 2
ORIGIN = "log.example/made"


async def run_making(trial: Trial, fault: StepFault) -> None:
    """`init` meets the fault. A log that it reported is there, and otherwise a whole one or none."""
    trial.data = trial.folder / "made"
    trial.see_files()
    shim = Shim(trial.workshop.library, root=trial.data, folder=trial.folder, traced=fault.power is not Power.STAYS)
    async with shim:
        shim.arm(trial.injection(fault))
        made = await init(trial.data, shim)
        trial.fired = shim.has_fired
        trial.kills += made.exit_code == EXIT_KILLED
        trial.lose_power(shim, fault.power)
    check_ended(made)
    if made.exit_code != EXIT_OK and not (trial.data / "vkey").exists():
        await check_no_log(trial)
        again = await init(trial.data)
        check_ended(again)
        if again.exit_code != EXIT_OK:
            return
    trial.begin_anew(Ledger(vkey=parse_vkey((trial.data / "vkey").read_text().strip())))
    await trial.recover()


async def init(data: Path, shim: Shim | None = None) -> Finished:
    """Run `treehead-log init`."""
    environment = None if shim is None else shim.environment
    return await run_module("treehead_logserver", "init", "--data", data, "--origin", ORIGIN, environment=environment)


def check_ended(made: Finished) -> None:
    """An init succeeded, was killed, or says why not."""
    check_no_defect(made.stderr)
    if made.exit_code not in (EXIT_OK, EXIT_KILLED):
        check_complaint(made.stderr)


async def check_no_log(trial: Trial) -> None:
    """There is nothing that could be served."""
    log = trial.server()
    try:
        async with log:
            raise AssertionError("something is served, where no log was made")
    except NotListeningError as exc:
        check_complaint(log.stderr)
        if exc.exit_code != EXIT_USAGE:
            raise
