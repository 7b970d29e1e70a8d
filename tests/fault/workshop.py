"""What all trials share, made once: the shim, signed leaves, logs to begin with, and which steps a log takes."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import grpc

from tests.fault.ledger import Ledger
from tests.fault.load import Pool, first_of, submit_batch
from tests.fault.powerloss import Disk
from tests.fault.preload import MissingShimError, Operation, Shim
from tests.fault.steps import Step, count_steps
from tests.fault.trace import read_trace
from tests.fault.trial import EXIT_OK, SERVER, SUBMITTERS, Template, Trial, Workshop, read_files, tell
from tests.processes import LogProcess, create_log
from treehead.keys import parse_vkey
from treehead.v1.log_pb2_grpc import LogStub

ORIGIN = "log.example/fault"
SEED = "workshop"
FEW_ENTRIES = 250
"""A few more fill a tile."""
WAL_BYTES, WAL_ANSWERS_MAX = 3_000_000, 2_000
HASTY_SERVER = "tests.fault.hasty_server"
SURVEY_ANSWERS = 100
WAL_WRITE = Step("log.sqlite-wal", Operation.WRITE)


async def open_workshop(folder: Path, *, library: Path, pool: Pool) -> Workshop:
    """A workshop in a folder, with logs that are empty, that were stopped, and that were killed with a long WAL.

    Raises:
        MissingShimError: the shim does not see what the log does.
    """
    vkey = parse_vkey(await create_log(folder / "empty", origin=ORIGIN))
    empty = Template(data=folder / "empty", ledger=Ledger(vkey=vkey), made=0)
    first = Workshop(library=library, pool=pool, templates=(empty,))
    few, many = (Trial(first, folder=folder / name, seed=SEED) for name in ("few", "many"))
    await _add_few(few)
    await _add_many(many)
    stopped, killed = (
        Template(data=trial.data, ledger=trial.ledger, made=trial.load.made, module=module)
        for trial, module in ((few, HASTY_SERVER), (many, SERVER))
    )
    workshop = replace(first, templates=(empty, stopped, killed, replace(killed, module=HASTY_SERVER)))
    return replace(
        workshop,
        counts=await _survey(workshop, folder),
        making_steps=await _survey_making(library, Path(mkdtemp(dir=folder))),
    )


async def _add_few(trial: Trial) -> None:
    log = LogProcess(trial.data)
    async with log, grpc.aio.insecure_channel(log.address) as channel:
        leaves = [trial.load.pool.leaf(number) for number in range(FEW_ENTRIES)]
        trial.load.made = FEW_ENTRIES
        trial.ledger.submitted.update(leaves)
        await submit_batch(LogStub(channel), trial.ledger, leaves)
        assert await log.stop() == EXIT_OK


async def _add_many(trial: Trial) -> None:
    wal = trial.data / WAL_WRITE.file
    log = LogProcess(trial.data)
    async with log:
        async with trial.under_load(log) as ended:
            while trial.ledger.answers < WAL_ANSWERS_MAX and (not wal.exists() or wal.stat().st_size < WAL_BYTES):
                await first_of(ended.wait(), trial.load.answers(1))
            tell(log, signal.SIGKILL)
        await log.wait()


async def _survey(workshop: Workshop, folder: Path) -> dict[Step, tuple[int, ...]]:
    """How often each step is taken in one life of each log, from its start to its stop; in a steady order.

    With many submitters there are few commits: a trial with fewer of them gets to every one of these steps.
    """
    surveys = []
    for number, template in enumerate(workshop.templates):
        only = replace(workshop, templates=(template,))
        trial = Trial(only, folder=folder / f"survey-{number}", seed=f"{SEED}:{number}")
        disk = Disk(read_files(trial.data))
        async with Shim(workshop.library, root=trial.data, folder=trial.folder, traced=True) as shim:
            log = trial.server(shim.environment)
            async with log:
                async with trial.under_load(log, submitters=max(SUBMITTERS)) as ended:
                    await first_of(ended.wait(), trial.load.answers(SURVEY_ANSWERS))
                    tell(log, signal.SIGTERM)
                trial.check_end(log, await log.wait())
            events = read_trace(shim.trace)
        surveys.append(count_steps(events))
        disk.replay(events)
        if WAL_WRITE not in surveys[-1] or disk.cached() != read_files(trial.data):
            raise MissingShimError("the shim does not see what the log does to its files: is SQLite linked otherwise?")
    return {step: tuple(survey[step] for survey in surveys) for step in sorted(set().union(*surveys))}


async def _survey_making(library: Path, folder: Path) -> int:
    """How many steps are taken while a log is made."""
    async with Shim(library, root=folder / "log", folder=folder, traced=True) as shim:
        await create_log(folder / "log", origin=ORIGIN, environment=shim.environment)
        return sum(count_steps(read_trace(shim.trace)).values())
