"""A log, one fault, and the oracle. Faults at a step of the log are here, those around it in `surroundings`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault.catalogue import Phase, Power, StepFault
from tests.fault.ledger import Ledger
from tests.fault.load import Load, Pool, first_of
from tests.fault.oracle import EXIT_FAILED, check_clean, check_complaint, check_no_defect, check_service
from tests.fault.powerloss import Disk
from tests.fault.preload import ANYTHING, Action, Injection, Operation, Shim
from tests.fault.steps import Step
from tests.fault.trace import read_trace
from tests.processes import NotListeningError, ServerProcess

ROOT = Path(__file__).parents[2]
SERVER = "treehead_logserver"
PYTHONPATH = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
"""For servers that are modules of these tests."""

EXIT_OK, EXIT_KILLED, EXIT_TERMINATED = 0, -signal.SIGKILL, -signal.SIGTERM

SUBMITTERS = (1, 8, 32)
WARM_ANSWERS_MAX = 60
"""The fault is armed after 0 to this many answers."""
ANSWERS_MAX = 150
"""A fault that has not happened after so many more answers may do so while the log is stopped."""
AFTERMATH = 10
"""A log that goes on after a fault is watched for so many answers or refusals."""
OCCURRENCES_MAX = 150
"""A fault happens at the first to at most this occurrence of its step."""
RARE = 10
"""A step that is taken less often in a life may be taken at its start only, so its fault is armed before that."""
STARTING_STEPS = 12
SECOND_LIFE_STEPS_MAX = (3, 30, 300)
RECOVERY_STEPS_MAX = 6
RECOVERIES_KILLED = 0.2
"""How often a log is killed again while it recovers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A log that trials begin with.

    Attributes:
        data: a data directory, to copy.
        ledger: what the log has said.
        made: how many leaves of the pool it took.
        module: the program that serves it.
    """

    data: Path
    ledger: Ledger
    made: int
    module: str = SERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What trials share.

    Attributes:
        library: the shim.
        pool: the leaves.
        templates: the logs to begin with.
        counts: how often a log takes a step in one life under load, for each of these logs.
        making_steps: how many steps are taken while a log is made.
    """

    library: Path
    pool: Pool
    templates: tuple[Template, ...]
    counts: Mapping[Step, tuple[int, ...]] = field(default_factory=dict)
    making_steps: int = 1


class Trial:
    """A log that is put through a fault in a folder of its own. What was counted is in the attributes.

    Attributes:
        kills: how often a process was killed, by whatever means.
        recoveries: how many seconds each start after a fault took.
        fired: whether the fault happened.
        refused: whether the log, or fsck, named the damage that was done to it.
    """

    def __init__(self, workshop: Workshop, *, folder: Path, seed: str, step: Step | None = None) -> None:
        """The seed chooses a log to begin with, which takes the step if one is given."""
        self.workshop = workshop
        self.folder = folder
        self.data = folder / "data" / "log"
        self.seed = seed
        self.rng = random.Random(seed)
        counts = workshop.counts.get(step) if step else None
        number = self.rng.choice([at for at in range(len(workshop.templates)) if counts is None or counts[at]])
        self.template = workshop.templates[number]
        self.count = counts[number] if counts else OCCURRENCES_MAX
        self.load = Load(ledger=self.template.ledger.copy(), pool=workshop.pool, made=self.template.made)
        self.lay_out()
        self.kills = 0
        self.recoveries: list[float] = []
        self.fired = self.refused = False
        self._lives = 0
        self._known = len(self.ledger.leaf_at)

    @property
    def ledger(self) -> Ledger:
        """What the log has said."""
        return self.load.ledger

    @property
    def acknowledged(self) -> int:
        """How many entries the log has acknowledged in this trial."""
        return len(self.ledger.leaf_at) - self._known

    @property
    def database(self) -> Path:
        """The log's database."""
        return self.data / "log.sqlite"

    def begin_anew(self, ledger: Ledger) -> None:
        """Go on with another log, which is empty."""
        self.load = Load(ledger=ledger, pool=self.workshop.pool)
        self._known = 0

    def lay_out(self) -> None:
        """Put a copy of the template in place."""
        shutil.copytree(self.template.data, self.data, ignore=shutil.ignore_patterns("*-shm"))

    def server(self, environment: Mapping[str, str] | None = None) -> ServerProcess:
        """The log's server, not started."""
        arguments = ("serve", "--data", self.data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
        return ServerProcess(self.template.module, *arguments, environment={**PYTHONPATH, **(environment or {})})

    @contextlib.asynccontextmanager
    async def under_load(self, log: ServerProcess, *, submitters: int | None = None) -> AsyncIterator[asyncio.Event]:
        """Put a started log under load until its process ends, which is the event; on leaving, wait for that."""
        self._lives += 1
        ended = asyncio.Event()
        submitters = submitters or self.rng.choice(SUBMITTERS)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_tell_end(log.pid, ended))
            tasks.create_task(
                self.load.run(log.address, ended, seed=f"{self.seed}:{self._lives}", submitters=submitters)
            )
            yield ended
            await first_of(ended.wait())

    def end(self, log: ServerProcess) -> None:
        """Kill a server, or ask it to stop."""
        tell(log, self.rng.choice((signal.SIGKILL, signal.SIGTERM)))

    def check_end(self, log: ServerProcess, code: int) -> None:
        """A server that ended was killed, was told to, or says why in a sentence."""
        check_no_defect(log.stderr)
        if code == EXIT_KILLED:
            self.kills += 1
        elif code != EXIT_OK:
            # What was told to stop while it was about to end by itself has its reason all the same.
            assert code in (EXIT_FAILED, EXIT_TERMINATED), f"the log ended with {code}: {log.stderr}"
            check_complaint(log.stderr)

    # --- a fault at a step -------------------------------------------------------------------------------------------

    async def run_step(self, fault: StepFault) -> None:
        """The log meets the fault while it starts or serves, ends, loses power if it has to, and recovers."""
        shim = Shim(self.workshop.library, root=self.data, folder=self.folder, traced=fault.power is not Power.STAYS)
        self.see_files()
        async with shim:
            early = fault.phase is Phase.STARTING or self.count < RARE
            await self.live(shim, self.injection(fault), early=early)
            self.fired = shim.has_fired
            if fault.second_life:
                await self.live(shim, self.second_kill(), early=self.rng.random() < 0.7)
            self.lose_power(shim, fault.power)
            if fault.action is Action.FULL:
                await self.try_start(shim.environment)  # there is still no room
                shim.make_room()
            if self.rng.random() < RECOVERIES_KILLED:
                shim.arm(self.random_kill(RECOVERY_STEPS_MAX))
                await self.try_start(shim.environment)
                self.lose_power(shim, fault.power)
        await self.recover()

    def injection(self, fault: StepFault) -> Injection:
        """The fault at an occurrence of its step."""
        if fault.phase is Phase.SERVING:
            occurrences = min(self.count, OCCURRENCES_MAX)
        else:
            occurrences = STARTING_STEPS if fault.phase is Phase.STARTING else self.workshop.making_steps
        return Injection(
            file=fault.step.file,
            operation=fault.step.operation,
            occurrence=self.rng.randint(1, occurrences),
            action=fault.action,
            lasting=fault.lasting,
            then_kill=fault.then_kill,
        )

    def random_kill(self, steps_max: int) -> Injection:
        """A kill at one of the next steps, whichever it is."""
        action = self.rng.choice((Action.KILL_BEFORE, Action.KILL_AFTER))
        return Injection(file="*", operation=ANYTHING, occurrence=self.rng.randint(1, steps_max), action=action)

    def second_kill(self) -> Injection:
        """A kill of a log that goes on from what was in the cache: before it syncs any of that, or later."""
        if self.rng.random() < 0.5:
            return Injection(file="*-wal", operation=Operation.SYNC, occurrence=1, action=Action.KILL_BEFORE)
        return self.random_kill(self.rng.choice(SECOND_LIFE_STEPS_MAX))

    async def live(self, shim: Shim, injection: Injection, *, early: bool) -> None:
        """Serve under load until the fault has ended the process, or something else has.

        The fault is armed before the start if it is `early`, and otherwise under load.
        """
        if early:
            shim.arm(injection)
        else:
            shim.disarm()
        log = self.server(shim.environment)
        try:
            async with log:
                async with self.under_load(log) as ended:
                    if not early:
                        await first_of(ended.wait(), self.load.answers(self.rng.randint(0, WARM_ANSWERS_MAX)))
                        shim.arm(injection)
                    await first_of(ended.wait(), shim.fired.wait(), self.load.answers(ANSWERS_MAX))
                    await self.see_it_through(log, shim, injection, ended)
                self.check_end(log, await log.wait())
        except NotListeningError as exc:
            if not shim.has_fired:
                raise
            self.check_end(log, exc.exit_code)

    async def see_it_through(self, log: ServerProcess, shim: Shim, injection: Injection, ended: asyncio.Event) -> None:
        """A log that has met its fault may go on for a while; one that has not may do so while it stops."""
        if ended.is_set():
            return
        if not shim.has_fired:
            tell(log, signal.SIGTERM)
            return
        await first_of(ended.wait(), self.load.answers(AFTERMATH), self.load.refusals(AFTERMATH))
        if injection.action is Action.FULL and not ended.is_set():
            shim.make_room()
            await first_of(ended.wait(), self.load.answers(AFTERMATH))
        if not ended.is_set():
            self.end(log)

    def see_files(self) -> None:
        """From now on the files that are there, if there are any, are durable."""
        self._disk = Disk(read_files(self.data) if self.data.exists() else {})

    def lose_power(self, shim: Shim, power: Power) -> None:
        """Leave of the directory what a loss of power does, after what was traced since the last one."""
        if power is Power.STAYS:
            return
        self._disk.replay(read_trace(shim.trace))
        shim.trace.write_bytes(b"")
        assert self._disk.cached() == read_files(self.data), "the trace does not tell what happened to the files"
        write_files(self.data, self._disk.after_power_loss(self.rng if power is Power.TORN else None))
        self.see_files()

    async def try_start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the log and kill it at once, unless it ends before it serves: killed, or with a clear reason."""
        log = self.server(environment)
        try:
            async with log:
                await log.kill()
                self.kills += 1
        except NotListeningError as exc:
            self.check_end(log, exc.exit_code)

    # --- after it ----------------------------------------------------------------------------------------------------

    async def recover(self, environment: Mapping[str, str] | None = None) -> None:
        """The oracle: the log is whole, starts, has kept its word, goes on, and stops."""
        looks_first = self.rng.random() < 0.5
        if looks_first:
            await check_clean(self.data)
        log = self.server(environment)
        begin = time.perf_counter()
        async with log:
            self.recoveries.append(time.perf_counter() - begin)
            await check_service(log, self.load, self.rng)
            code = await log.stop()
        check_no_defect(log.stderr)
        assert code == EXIT_OK, f"the log ended with {code} when it was asked to stop: {log.stderr}"
        if not looks_first:
            await check_clean(self.data)


def tell(log: ServerProcess, number: signal.Signals) -> None:
    """Send a signal to a server, which may have ended just now."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(log.pid, number)


async def _tell_end(pid: int, ended: asyncio.Event) -> None:
    """Set the event when a process has ended; its exit code stays for who waits for that."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        ended.set()
        return
    loop = asyncio.get_running_loop()
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def read_files(folder: Path) -> dict[str, bytes]:
    """The files of a directory; the shared memory of SQLite is none."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make these the files of a directory, and let those that stay keep their permissions."""
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
