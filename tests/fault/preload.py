"""The shim on the test's side: building it, loading it into a server, arming a fault in it, and hearing of it."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from types import TracebackType
from typing import Self

SOURCE = Path(__file__).with_name("shim") / "faults.c"
BUILD_SECONDS_MAX = 60

# struct control in shim/faults.c
_CONTROL = struct.Struct("=IIIiIIIIqq64s")
_FIRED_OFFSET, _FULL_OFFSET, _CLOCK_OFFSET = 24, 28, 40


class Operation(IntFlag):
    """What is done to a file in one step."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 4
    SYNC = 8
    RENAME = 16
    UNLINK = 32


ANYTHING = Operation(63)


class Action(IntEnum):
    """What becomes of the step; `BEFORE` is the version in which its effect is lost, `AFTER` has it persisted."""

    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_HALF = 3
    FAIL_BEFORE = 4
    FAIL_AFTER = 5
    FAIL_DOOMED = 6
    SHORT = 7
    FULL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault, at one step.

    Attributes:
        file: a shell pattern for the name of the file, below the directory.
        operation: which operations on it count.
        occurrence: at which of them it happens, counted from 1 since it was armed.
        error: the errno of a call that fails.
        lasting: all calls after it fail likewise.
        then_kill: the process dies before its next step of any kind.
    """

    file: str
    operation: Operation
    occurrence: int
    action: Action
    error: int = errno.EIO
    lasting: bool = False
    then_kill: bool = False


class MissingShimError(Exception):
    """The shim cannot be had here; the message says what is missing."""


def build_shim(folder: Path) -> Path:
    """Compile the shim into a folder; returns the library.

    Raises:
        MissingShimError: there is no compiler, or this is not Linux.
    """
    if sys.platform != "linux":
        raise MissingShimError("the faults are put between a server and its C library as Linux does it")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingShimError(f"there is no C compiler (cc) to build {SOURCE.name} with: install one, such as gcc")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, check=False)
    if done.returncode != 0:
        raise MissingShimError(f"{SOURCE.name} does not compile with {compiler}: {done.stderr.strip()}")
    return library


class Shim:
    """The shim of one directory, for one server at a time; within `async with` it can be heard.

    What was armed and what has happened stays so across servers, until it is armed anew or disarmed.
    """

    def __init__(self, library: Path, *, root: Path, folder: Path, traced: bool) -> None:
        """`root` is the directory whose files matter; `folder`, outside of it, gets the shim's own files."""
        self.root = root.resolve()
        self.trace = folder / "trace"
        self.fired = asyncio.Event()
        self._library = library
        self._control_path = folder / "control"
        self._notice_path = folder / "notice"
        self._traced = traced
        self._control_path.write_bytes(bytes(_CONTROL.size))
        self.trace.write_bytes(b"")
        os.mkfifo(self._notice_path, 0o600)

    @property
    def environment(self) -> dict[str, str]:
        """What loads the shim into a server."""
        environment = {
            "LD_PRELOAD": str(self._library),
            "TREEHEAD_FAULT_ROOT": str(self.root),
            "TREEHEAD_FAULT_CONTROL": str(self._control_path),
            "TREEHEAD_FAULT_NOTICE": str(self._notice_path),
        }
        return environment | ({"TREEHEAD_FAULT_TRACE": str(self.trace)} if self._traced else {})

    def arm(self, injection: Injection) -> None:
        """Have a fault happen, in the server that runs or in the next one."""
        self.disarm()
        fields = (
            injection.operation,
            injection.action,
            injection.error,
            injection.lasting,
            injection.then_kill,
            False,
            False,
            injection.occurrence,
        )
        clock = struct.unpack_from("=q", self._control, _CLOCK_OFFSET)[0]
        packed = _CONTROL.pack(0, *fields, clock, injection.file.encode())
        self._control[4 : _CONTROL.size] = packed[4:]
        self._control[0:4] = struct.pack("=I", 1)  # last, for the server may be at a step right now

    def disarm(self) -> None:
        """Have nothing happen any more, and forget what has; the clock stays as it is."""
        self._control[0:4] = bytes(4)
        self._control[_FIRED_OFFSET : _FULL_OFFSET + 4] = bytes(8)
        self._control[20:24] = bytes(4)  # then_kill
        self.fired.clear()

    @property
    def has_fired(self) -> bool:
        """Whether the fault has happened."""
        return self._control[_FIRED_OFFSET] != 0

    def make_room(self) -> None:
        """End the shortage of space that `Action.FULL` began."""
        self._control[_FULL_OFFSET : _FULL_OFFSET + 4] = bytes(4)

    def move_clock(self, seconds: int) -> None:
        """Let the server's clock be wrong by so much."""
        self._control[_CLOCK_OFFSET : _CLOCK_OFFSET + 8] = struct.pack("=q", seconds * 10**9)

    async def __aenter__(self) -> Self:
        with self._control_path.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        # Open for both, so that it does not end with the server.
        self._notice = os.open(self._notice_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._notice, self._hear)
        return self

    def _hear(self) -> None:
        os.read(self._notice, 4_096)
        self.fired.set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._notice)
        os.close(self._notice)
        self._control.close()
