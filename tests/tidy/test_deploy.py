"""What operators copy out of deploy/ is understood by the programs that it is for."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from tests.unit.library.specimens import WITNESS_KEYS
from treehead.keys import format_vkey
from treehead_logserver import app
from treehead_logserver.config import Limits
from treehead_logserver.configfile import read_config_file
from treehead_logserver.options import make_parser

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
UNITS = sorted([*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.timer")])
SERVICES = sorted(SYSTEMD.glob("*.service"))
PROGRAM = "/opt/treehead/bin/treehead-log"

EXPOSURE_MAX = 2.0
"""Of 10, in what `systemd-analyze security` calls a unit's exposure: 2 is its limit for "OK"."""
SYSTEMD_VERSION_MIN = 250


def settings(unit: Path) -> list[tuple[str, str]]:
    """The settings of a unit, in order."""
    return re.findall(r"^([A-Za-z]+)=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


def setting(unit: Path, name: str) -> str:
    (value,) = [value for key, value in settings(unit) if key == name]
    return value


def commands(unit: Path) -> Iterator[list[str]]:
    """The command lines of a unit that run our program, without its path."""
    for key, value in settings(unit):
        if key.startswith("Exec") and value.startswith(f"{PROGRAM} "):
            yield shlex.split(value)[1:]


def test_every_file_is_explained() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    files = [path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [file for file in files if file != "README.md" and f"]({file})" not in text] == []


# --- log.toml --------------------------------------------------------------------------------------------------------


def test_the_example_of_a_configuration_is_read_and_has_everything_in_it(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "log.toml", tmp_path)
    (tmp_path / "witnesses.policy").write_text(
        f"witness w1 {format_vkey(WITNESS_KEYS['w1'])} https://w1.example\nquorum w1\n"
    )
    config = read_config_file(tmp_path / "log.toml")
    assert unsaid(config) == unsaid(config.rates) == []
    assert unsaid(config.rules) == ["kinds"]  # the example says what it is anyway
    assert config.tls is not None
    assert unsaid(config.tls) == []
    assert config.witnessing is not None


def unsaid(value: Any) -> list[str]:
    """The fields that are as they would be if nothing had been said about them."""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(value)
    }
    return [name for name, default in defaults.items() if getattr(value, name) == default]


# --- systemd ---------------------------------------------------------------------------------------------------------


def test_there_are_the_units_that_operators_are_told_of() -> None:
    assert [unit.name for unit in UNITS] == [
        "treehead-log-backup.service",
        "treehead-log-backup.timer",
        "treehead-log-export.service",
        "treehead-log.service",
    ]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_units_run_commands_that_there_are_on_one_directory(unit: Path) -> None:
    parsed = [make_parser().parse_args(arguments) for arguments in commands(unit)]
    assert parsed
    assert {str(options.data) for options in parsed} == {"/var/lib/treehead-log"}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_units_run_as_the_user_that_is_made_for_it(unit: Path) -> None:
    made = (SYSTEMD / "treehead-log.sysusers.conf").read_text(encoding="utf-8")
    assert re.search(rf"^u {setting(unit, 'User')} ", made, re.MULTILINE)


def test_the_log_has_time_to_stop_and_files_enough() -> None:
    unit = SYSTEMD / "treehead-log.service"
    drains = 3  # of HTTP requests, of calls, and of the last commits
    assert int(setting(unit, "TimeoutStopSec")) * 1_000 > drains * Limits().drain_ms
    # What the unit says is also the most that it could ask for.
    assert int(setting(unit, "LimitNOFILE")) >= app._DESCRIPTORS


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    if int(version.split()[1]) < SYSTEMD_VERSION_MIN:
        pytest.skip(f"systemd-analyze is older than version {SYSTEMD_VERSION_MIN}")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program in them that this machine has."""
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        (tmp_path / unit.name).write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    return [tmp_path / unit.name for unit in UNITS]


def verify(units: list[Path]) -> str:
    """What systemd has against units, on this machine and without asking a systemd that runs."""
    done = systemd_analyze("verify", "--man=no", "--recursive-errors=no", *units)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit code {done.returncode}\n")


def test_systemd_has_nothing_against_the_units(units: list[Path]) -> None:
    assert verify(units) == ""
    programs = {shlex.split(value)[0] for unit in units for key, value in settings(unit) if key.startswith("Exec")}
    assert [program for program in programs if shutil.which(program) is None] == []  # of which it looks at some only


def test_systemd_would_say_what_it_does_not_understand(units: list[Path]) -> None:
    text = units[-1].read_text(encoding="utf-8")
    units[-1].write_text(text.replace("NoNewPrivileges", "NoNewPrivilege"), encoding="utf-8")
    assert "NoNewPrivilege" in verify(units)


def test_services_are_confined(units: list[Path]) -> None:
    for unit in units:
        if unit.suffix == ".service":
            done = systemd_analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:.0f}", unit)
            assert done.returncode == 0, done.stdout + done.stderr
            exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
            assert exposure is not None
            assert float(exposure[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_services_are_confined_alike_but_for_what_they_need(unit: Path) -> None:
    needs = {
        "ExecStart", "ExecStartPre", "Description", "After", "Wants", "PartOf", "StartLimitIntervalSec", "Type",
        "LoadCredential", "StateDirectory", "StateDirectoryMode", "ConfigurationDirectory", "UMask", "Restart",
        "RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "LimitNOFILE", "Nice", "IOSchedulingClass",
        "IOSchedulingPriority", "InaccessiblePaths", "WantedBy", "PrivateNetwork", "ProcSubset",
        "RestrictAddressFamilies",
    }  # fmt: skip
    log = [pair for pair in settings(SYSTEMD / "treehead-log.service") if pair[0] not in needs]
    assert [pair for pair in settings(unit) if pair[0] not in needs] == log
