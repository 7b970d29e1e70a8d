"""The program of `make fault`: a seed replays, every fault has its turn, and what is missing is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.catalogue import Phase, StepFault, catalogue
from tests.fault.preload import Action, MissingShimError, Operation, build_shim
from tests.fault.run import EXIT_USAGE, Figures, fault_of, parse_arguments, percentile, run_program
from tests.fault.steps import Step

STEPS = [Step("log.sqlite-wal", operation) for operation in Operation]


def test_every_fault_has_its_turn_before_one_has_its_second() -> None:
    faults = catalogue(STEPS)
    assert sorted(map(str, faults)) == sorted(
        str(fault_of(faults, seed=7, run=len(faults) + run)) for run in range(len(faults))
    )


def test_a_seed_and_a_run_have_one_fault() -> None:
    faults = catalogue(STEPS)
    drawn = [[fault_of(faults, seed=seed, run=run) for run in range(50)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_every_step_can_be_killed_and_lose_its_power_before_and_after_and_fail_lost_and_persisted() -> None:
    faults = [fault for fault in catalogue(STEPS) if isinstance(fault, StepFault) and fault.phase is Phase.SERVING]
    for step in STEPS:
        actions = {fault.action for fault in faults if fault.step == step}
        assert actions >= {Action.KILL_BEFORE, Action.KILL_AFTER, Action.FAIL_BEFORE, Action.FAIL_AFTER}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, 0.0),
        ([3.0], 99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([float(value) for value in range(1, 201)], 99, 198.0),
    ],
)
def test_a_percentile_is_one_of_the_values(values: list[float], percent: int, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_the_figures_are_one_line() -> None:
    line = str(Figures(runs=2, kills=3, acknowledged=40, lost=0, recoveries=[0.2, 0.3]))
    assert "\n" not in line
    for figure in ("runs=2", "kills=3", "acknowledged=40", "lost=0", "p50=0.20s", "p99=0.30s"):
        assert figure in line


def test_without_a_compiler_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingShimError, match="no C compiler"):
        build_shim(tmp_path)


async def test_what_is_missing_ends_the_program_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await run_program(parse_arguments(["--runs", "1"])) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("make fault: there is no C compiler")
    assert captured.err.count("\n") == 1


def test_on_another_system_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(MissingShimError, match="Linux"):
        build_shim(tmp_path)
