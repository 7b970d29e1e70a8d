"""What a figure depends on besides the code: the machine, the interpreter and the libraries."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COLLECTOR = "off while the clock runs; what was there before is collected and then frozen"
"""How the generator treats Python's cycle collector: a pause of its own would count as the server's p99.9."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and with what a result was made.

    `file_system` is that of the logs: on one in memory, to make something durable costs nothing. `load` is how many
    processes were running in the minute before.
    """

    measured_at: str
    machine: str
    processor: str
    cores: int
    file_system: str
    load: float
    python: str
    sqlite: str
    treehead: str
    grpcio: str
    protobuf: str
    cryptography: str
    uvloop: str
    generator_collector: str = COLLECTOR


def environment(folder: Path) -> Environment:
    """This environment, now; `folder` is where logs are made."""
    return Environment(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        file_system=_file_system(folder),
        load=os.getloadavg()[0],
        python=f"{platform.python_implementation()} {sys.version.split()[0]}",
        sqlite=sqlite3.sqlite_version,
        treehead=_version("treehead"),
        grpcio=_version("grpcio"),
        protobuf=_version("protobuf"),
        cryptography=_version("cryptography"),
        uvloop=_version("uvloop"),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is on: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = {str(part) for part in (folder.resolve(), *folder.resolve().parents)}
    return max(((place, kind) for place, kind in mounts if place in above), key=lambda mount: len(mount[0]))[1]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"
