"""Faults of what is around a log: other processes, its file system, its clock, and the pages of its files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc

from tests.fault.catalogue import ClockJump, Corrupted, Damage, Hold, Lock, Locked
from tests.fault.load import CALL_SECONDS_MAX, first_of
from tests.fault.oracle import check_complaint, entries, fsck
from tests.fault.powerloss import PAGE_BYTES
from tests.fault.preload import Shim
from tests.fault.trial import AFTERMATH, EXIT_OK, WARM_ANSWERS_MAX, Trial, tell
from tests.processes import NotListeningError, ServerProcess
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

HOLDER = Path(__file__).with_name("holder.py")
HOLDER_SECONDS_MAX = 30
HELD_SECONDS = 0.2
ROOM_BYTES = 8_388_608
ROOM_LEFT_BYTES = (4_096, 300_000)
"""How much room is left on the small file system when the log is put under load: from nearly nothing on."""
MOUNT_SECONDS_MAX = 10
NOISE_BYTES = 64


class NotPermittedError(Exception):
    """This fault cannot be had here; the message says why."""


async def run_killed(trial: Trial) -> None:
    """The log is killed from outside at a random moment."""
    log = trial.server()
    async with log:
        async with trial.under_load(log) as ended:
            await first_of(ended.wait(), trial.load.answers(trial.rng.randint(1, 5 * WARM_ANSWERS_MAX)))
            await asyncio.sleep(trial.rng.random() * 0.005)  # the commits do not wait for our count
            tell(log, signal.SIGKILL)
        trial.check_end(log, await log.wait())
    trial.fired = True
    await trial.recover()


async def run_clock(trial: Trial, fault: ClockJump) -> None:
    """The clock jumps under load, there and half the way back, and once more before the log starts again."""
    async with Shim(trial.workshop.library, root=trial.data, folder=trial.folder, traced=False) as shim:
        log = trial.server(shim.environment)
        async with log:
            async with trial.under_load(log) as ended:
                for seconds in (fault.seconds, fault.seconds // 2):
                    await trial.load.answers(trial.rng.randint(1, WARM_ANSWERS_MAX))
                    shim.move_clock(seconds)
                await first_of(ended.wait(), trial.load.answers(AFTERMATH))
                assert not ended.is_set(), f"the log ended over the clock: {log.stderr}"
                trial.end(log)
            trial.check_end(log, await log.wait())
        trial.fired = True
        shim.move_clock(2 * fault.seconds)
        await trial.recover(shim.environment)


# --- locked by another process ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def held(path: Path, lock: Lock) -> AsyncIterator[None]:
    """Another process has the lock."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HOLDER), str(path), lock.value, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(HOLDER_SECONDS_MAX):
            assert await process.stdout.readline() == b"held\n"
            yield
            process.stdin.close()
            assert await process.wait() == EXIT_OK
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_locked(trial: Trial, fault: Locked) -> None:
    """The log waits for the lock, or refuses; and once it is free, goes on."""
    log = trial.server()
    async with log:
        async with trial.under_load(log) as ended:
            await trial.load.answers(trial.rng.randint(1, WARM_ANSWERS_MAX))
            if fault.hold is Hold.STARTING:
                tell(log, signal.SIGKILL)
            else:
                async with held(trial.database, fault.lock):
                    if fault.hold is Hold.LONG:
                        await first_of(ended.wait(), trial.load.refusals(1))
                    else:
                        await asyncio.sleep(HELD_SECONDS)
                await first_of(ended.wait(), trial.load.answers(AFTERMATH))
                if not ended.is_set():
                    trial.end(log)
        trial.check_end(log, await log.wait())
    if fault.hold is Hold.STARTING:
        async with held(trial.database, fault.lock):
            await trial.try_start()
    trial.fired = True
    await trial.recover()


# --- a full file system ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_file_system(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of a size, in memory, at this folder.

    Raises:
        NotPermittedError: only root may mount one.
    """
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        raise NotPermittedError("a small file system has to be mounted, which only root may")
    command = [mount, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOUNT_SECONDS_MAX, check=False)
    if done.returncode != 0:
        raise NotPermittedError(f"a small file system could not be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: it goes when the last process lets go of it, whatever went wrong.
        subprocess.run(["umount", "-l", str(folder)], timeout=MOUNT_SECONDS_MAX, check=True)  # noqa: S607


async def run_disk_full(trial: Trial) -> None:
    """The disk fills up under load: the log refuses or ends, and goes on when there is room."""
    size = sum(path.stat().st_size for path in trial.data.iterdir())
    shutil.rmtree(trial.data)
    with small_file_system(trial.data.parent, size + ROOM_BYTES):
        trial.lay_out()
        filler = trial.data.parent / "filler"
        log = trial.server()
        async with log:
            free = shutil.disk_usage(trial.data).free
            with contextlib.suppress(OSError):  # the log takes of the room as well
                filler.write_bytes(bytes(max(0, free - trial.rng.randint(*ROOM_LEFT_BYTES))))
            async with trial.under_load(log) as ended:
                await first_of(ended.wait(), trial.load.refusals(AFTERMATH))
                if not ended.is_set():
                    filler.unlink()
                    await first_of(ended.wait(), trial.load.answers(AFTERMATH))
                    trial.end(log)
            trial.check_end(log, await log.wait())
        trial.fired = True
        if filler.exists():
            await trial.try_start()
            filler.unlink()
        await trial.recover()


# --- damaged files ---------------------------------------------------------------------------------------------------


async def run_corrupted(trial: Trial, fault: Corrupted) -> None:
    """A damaged log refuses to start, or fsck finds the damage, or nothing was lost by it."""
    log = trial.server()
    async with log:
        async with trial.under_load(log) as ended:
            await first_of(ended.wait(), trial.load.answers(trial.rng.randint(1, 5 * WARM_ANSWERS_MAX)))
            tell(log, signal.SIGKILL if fault.killed else signal.SIGTERM)
        trial.check_end(log, await log.wait())
    path = trial.data / fault.file
    trial.fired = path.exists() and damage(path, fault.damage, trial.rng)
    found = await fsck(trial.data)
    if found.exit_code == EXIT_OK:
        await trial.recover()
        return
    trial.refused = True
    if not any(": " in line for line in found.stdout.splitlines()[:-1]):  # its last line only counts
        check_complaint(found.stderr)
    log = trial.server()
    try:
        async with log:
            await read_what_there_is(trial, log)
            code = await log.stop()
    except NotListeningError as exc:
        code = exc.exit_code
        check_complaint(log.stderr)
    trial.check_end(log, code)


def damage(path: Path, damage: Damage, rng: random.Random) -> bool:
    """Damage a file somewhere; whether that changed it."""
    before = path.read_bytes()
    after = bytearray(before)
    at = rng.randrange(max(1, len(before)))
    match damage:
        case Damage.BIT:
            after[at : at + 1] = bytes([before[at] ^ 1 << rng.randrange(8)]) if before else b""
        case Damage.ZEROS:
            page = at - at % PAGE_BYTES
            after[page : page + PAGE_BYTES] = bytes(len(before[page : page + PAGE_BYTES]))
        case Damage.NOISE:
            after[at : at + NOISE_BYTES] = rng.randbytes(len(before[at : at + NOISE_BYTES]))
        case Damage.CUT:
            del after[max(at, len(before) - 2 * PAGE_BYTES) :]
    path.write_bytes(after)
    return bytes(after) != before


async def read_what_there_is(trial: Trial, log: ServerProcess) -> None:
    """A log that serves although it is damaged answers or refuses, and does not fall over."""
    async with grpc.aio.insecure_channel(log.address) as channel:
        stub = LogStub(channel)
        request = log_pb2.AddEntryRequest(leaf=trial.load.next_leaf(trial.rng))
        for call in (entries(stub), stub.AddEntry(request, timeout=CALL_SECONDS_MAX)):
            try:
                await call
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
