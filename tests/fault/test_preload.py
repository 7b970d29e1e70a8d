"""The shim that the fault tests stand on: an action does what it says to the step it is for, and the trace is true."""

from __future__ import annotations

import asyncio
import errno
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fault.powerloss import Disk
from tests.fault.preload import ANYTHING, Action, Injection, Operation, Shim
from tests.fault.steps import Step, count_steps
from tests.fault.trace import Synced, read_trace
from tests.fault.trial import read_files

KILLED = -signal.SIGKILL
SCRIPT_SECONDS_MAX = 30
EIO, ENOSPC = str(errno.EIO), str(errno.ENOSPC)

PRELUDE = """
import os, sys
os.chdir("/")
root = sys.argv[1]
def attempt(function, *arguments):
    try:
        print(function(*arguments), flush=True)
    except OSError as exc:
        print(exc.errno, flush=True)
def opened(name, flags=os.O_RDWR | os.O_CREAT):
    return os.open(f"{root}/{name}", flags, 0o600)
"""
WRITES = """
file = opened("a")
for data in (b"1111", b"2222", b"3333"):
    attempt(os.write, file, data)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"")
    return root


@pytest.fixture
def shim(library: Path, root: Path, tmp_path: Path) -> Shim:
    return Shim(library, root=root, folder=tmp_path, traced=True)


def second(operation: Operation, action: Action, *, file: str = "a") -> Injection:
    """A fault at the second occurrence of an operation."""
    return Injection(file=file, operation=operation, occurrence=2, action=action)


async def run(shim: Shim, script: str) -> tuple[int, list[str]]:
    """The exit code of a script under the shim, and the lines it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", PRELUDE + script, str(shim.root)),
        stdout=asyncio.subprocess.PIPE,
        env=shim.environment,
    )
    async with asyncio.timeout(SCRIPT_SECONDS_MAX):
        stdout, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode().split()


@pytest.mark.parametrize(
    ("action", "code", "printed", "content"),
    [
        pytest.param(Action.KILL_BEFORE, KILLED, ["4"], b"1111", id="killed_before"),
        pytest.param(Action.KILL_AFTER, KILLED, ["4"], b"11112222", id="killed_after"),
        pytest.param(Action.KILL_HALF, KILLED, ["4"], b"111122", id="killed_within"),
        pytest.param(Action.FAIL_BEFORE, 0, ["4", EIO, "4"], b"11113333", id="failed_and_lost"),
        pytest.param(Action.FAIL_AFTER, 0, ["4", EIO, "4"], b"111122223333", id="failed_and_persisted"),
        pytest.param(Action.SHORT, 0, ["4", "2", "4"], b"1111223333", id="short"),
        pytest.param(Action.FULL, 0, ["4", ENOSPC, ENOSPC], b"1111", id="full"),
    ],
)
async def test_the_second_write_meets_its_fault(
    shim: Shim, action: Action, code: int, printed: list[str], content: bytes
) -> None:
    async with shim:
        shim.arm(second(Operation.WRITE, action))
        assert await run(shim, WRITES) == (code, printed)
        assert shim.has_fired
        async with asyncio.timeout(SCRIPT_SECONDS_MAX):
            await shim.fired.wait()
    assert read_files(shim.root) == {"a": content}


async def test_nothing_happens_that_was_not_armed(shim: Shim) -> None:
    async with shim:
        assert await run(shim, WRITES) == (0, ["4", "4", "4"])
        assert not shim.has_fired
    assert read_files(shim.root) == {"a": b"111122223333"}


async def test_a_lasting_fault_lasts(shim: Shim) -> None:
    async with shim:
        shim.arm(replace(second(Operation.WRITE, Action.FAIL_BEFORE), lasting=True))
        assert await run(shim, WRITES) == (0, ["4", EIO, EIO])


async def test_a_process_that_is_to_die_after_a_fault_dies_at_its_next_step(shim: Shim) -> None:
    async with shim:
        shim.arm(replace(second(Operation.WRITE, Action.FAIL_AFTER), then_kill=True))
        assert await run(shim, WRITES) == (KILLED, ["4", EIO])
    assert read_files(shim.root) == {"a": b"11112222"}


async def test_a_full_disk_takes_nothing_new_but_what_has_its_room(shim: Shim) -> None:
    script = """
file = opened("a")
attempt(os.write, file, b"1111")
attempt(os.write, file, b"2222")
attempt(os.pwrite, file, b"9", 0)
attempt(opened, "b")
"""
    async with shim:
        shim.arm(second(Operation.WRITE, Action.FULL))
        assert await run(shim, script) == (0, ["4", ENOSPC, "1", ENOSPC])
        shim.make_room()
        assert await run(shim, WRITES) == (0, ["4", "4", "4"])


async def test_only_the_named_file_and_operation_count(shim: Shim) -> None:
    script = """
for name in ("b", "a", "a.b"):
    file = opened(name)
    attempt(os.write, file, b"1")
    attempt(os.fsync, file)
"""
    async with shim:
        shim.arm(Injection(file="a*", operation=Operation.SYNC, occurrence=2, action=Action.FAIL_BEFORE))
        assert await run(shim, script) == (0, ["1", "None", "1", "None", "1", EIO])


@pytest.mark.parametrize(
    ("operation", "script"),
    [
        pytest.param(Operation.CREATE, 'opened("b")', id="create"),
        pytest.param(Operation.TRUNCATE, 'os.ftruncate(opened("a"), 1)', id="truncate"),
        pytest.param(Operation.TRUNCATE, 'opened("a", os.O_WRONLY | os.O_TRUNC)', id="open_truncating"),
        pytest.param(Operation.TRUNCATE, 'os.posix_fallocate(opened("a"), 0, 9)', id="allocate"),
        pytest.param(Operation.RENAME, 'os.rename(f"{root}/a", f"{root}/b")', id="rename"),
        pytest.param(Operation.RENAME, 'os.replace(f"{root}/a", f"{root}/b")', id="replace"),
        pytest.param(Operation.UNLINK, 'os.unlink(f"{root}/a")', id="unlink"),
        pytest.param(Operation.WRITE, 'os.pwritev(opened("a"), [b"1", b"2"], 3)', id="write_of_parts"),
        pytest.param(Operation.WRITE, 'open(f"{root}/a", "wb").write(b"1")', id="write_of_a_file_object"),
    ],
)
@pytest.mark.parametrize("action", [Action.KILL_BEFORE, Action.KILL_AFTER])
async def test_every_operation_can_be_lost_or_persisted(
    shim: Shim, operation: Operation, script: str, action: Action
) -> None:
    (shim.root / "a").write_bytes(b"old")
    before = read_files(shim.root)
    async with shim:
        shim.arm(Injection(file="[ab]", operation=operation, occurrence=1, action=action))
        code, _ = await run(shim, script)
    assert code == KILLED
    is_lost = action is Action.KILL_BEFORE and "wb" not in script  # to open that truncated it before
    assert (read_files(shim.root) == before) == is_lost
    disk = Disk(before)
    disk.replay(read_trace(shim.trace))
    assert disk.cached() == read_files(shim.root)


@pytest.mark.parametrize(
    ("action", "synced"),
    [
        pytest.param(Action.FAIL_BEFORE, [], id="lost"),
        pytest.param(Action.FAIL_AFTER, [False], id="persisted"),
        pytest.param(Action.FAIL_DOOMED, [True], id="doomed"),
    ],
)
async def test_a_sync_that_fails_does_what_the_fault_says(shim: Shim, action: Action, synced: list[bool]) -> None:
    async with shim:
        shim.arm(Injection(file="a", operation=Operation.SYNC, occurrence=1, action=action))
        assert await run(shim, 'attempt(os.fdatasync, opened("a"))') == (0, [EIO])
    assert [event.doomed for event in read_trace(shim.trace) if isinstance(event, Synced)] == synced


async def test_the_shared_memory_of_sqlite_is_no_step(shim: Shim) -> None:
    async with shim:
        shim.arm(Injection(file="*", operation=ANYTHING, occurrence=1, action=Action.KILL_BEFORE))
        assert await run(shim, 'attempt(os.write, opened("log.sqlite-shm"), b"1")') == (0, ["1"])


async def test_files_elsewhere_are_no_steps(shim: Shim, tmp_path: Path) -> None:
    async with shim:
        shim.arm(Injection(file="*", operation=ANYTHING, occurrence=1, action=Action.KILL_BEFORE))
        assert await run(shim, 'attempt(os.write, opened("../elsewhere"), b"1")') == (KILLED, [])  # by its path it is
        assert await run(shim, 'attempt(os.write, os.open(root + "s", os.O_CREAT | os.O_WRONLY), b"1")') == (0, ["1"])


async def test_the_clock_is_wrong_by_what_it_was_moved(shim: Shim) -> None:
    script = "import time; print(time.time_ns() // 10**9, time.monotonic_ns() // 10**9)"
    async with shim:
        _, (before, steady_before) = await run(shim, script)
        shim.move_clock(-86_400)
        _, (after, steady_after) = await run(shim, script)
    assert abs(int(before) - 86_400 - int(after)) <= SCRIPT_SECONDS_MAX
    assert abs(int(steady_before) - int(steady_after)) <= SCRIPT_SECONDS_MAX


async def test_the_trace_tells_all_that_happened_to_the_files(shim: Shim) -> None:
    script = """
import random
rng = random.Random(7)
for number in range(300):
    name = rng.choice("abcde")
    match rng.randrange(6):
        case 0:
            os.pwrite(opened(name), rng.randbytes(rng.randrange(2_000)), rng.randrange(9_000))
        case 1:
            os.ftruncate(opened(name), rng.randrange(9_000))
        case 2:
            os.write(opened(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), rng.randbytes(10))
        case 3:
            os.rename(f"{root}/{name}", f"{root}/{rng.choice('abcde')}") if os.path.exists(f"{root}/{name}") else 0
        case 4:
            os.unlink(f"{root}/{name}") if os.path.exists(f"{root}/{name}") else 0
        case 5:
            os.fsync(opened(name))
    os.closerange(10, 1_000)
"""
    disk = Disk(read_files(shim.root))
    async with shim:
        assert await run(shim, script) == (0, [])
    events = read_trace(shim.trace)
    disk.replay(events)
    assert disk.cached() == read_files(shim.root)
    assert {step.operation for step in count_steps(events)} == set(Operation)
    assert disk.after_power_loss(random.Random(1)) != disk.cached()


def test_steps_have_names_for_people() -> None:
    assert str(Step("log.sqlite-wal", Operation.SYNC)) == "wal sync"
    assert str(Step("something", Operation.WRITE)) == "something write"
