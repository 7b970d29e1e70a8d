"""Tests of the tests: a storage that loses or confuses entries gets past neither the contract suite nor a fault run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.fault.broken import BROKEN
from tests.fault.broken_server import VARIABLE
from tests.fault.catalogue import Killed, StepFault
from tests.fault.load import submit_batch
from tests.fault.oracle import EXIT_FAILED, fsck
from tests.fault.preload import Action
from tests.fault.run import Program
from tests.fault.trial import EXIT_OK, Trial, Workshop
from tests.fault.workshop import WAL_WRITE
from tests.processes import run_module
from treehead.v1.log_pb2_grpc import LogStub

CONTRACTS = Path(__file__).with_name("broken_contracts.py")
BROKEN_SERVER = "tests.fault.broken_server"
RUNS = 4


async def test_the_contract_suite_fails_each_broken_storage() -> None:
    finished = await run_module("pytest", "-q", "--tb=no", "-rf", "-p", "no:cacheprovider", CONTRACTS)
    failed = set(re.findall(r"^FAILED .*::Test(\w+)::", finished.stdout, flags=re.MULTILINE))
    assert failed == {kind.__name__ for kind in BROKEN.values()}, finished.stdout


@pytest.mark.parametrize("name", BROKEN)
async def test_a_fault_run_finds_each_broken_storage(
    name: str,
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(VARIABLE, name)
    templates = tuple(replace(template, module=BROKEN_SERVER) for template in workshop.templates)
    program = Program(
        workshop=replace(workshop, templates=templates),
        faults=[Killed(), StepFault(step=WAL_WRITE, action=Action.KILL_BEFORE)],
        seed=1,
        folder=tmp_path,
    )
    await program.run_all(range(RUNS), jobs=2)
    assert program.figures.runs == RUNS
    assert program.figures.failed
    assert "failed=0" not in str(program.figures)
    assert f'make fault SEED=1 ARGS="--only {program.figures.failed[0]} --fault' in capsys.readouterr().err


async def test_fsck_finds_swapped_entries(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "swaps_two_entries")
    templates = (replace(workshop.templates[0], module=BROKEN_SERVER),)
    trial = Trial(replace(workshop, templates=templates), folder=tmp_path, seed="swapped")
    log = trial.server()
    async with log, grpc.aio.insecure_channel(log.address) as channel:
        await submit_batch(LogStub(channel), trial.ledger, [workshop.pool.leaf(number) for number in range(4)])
        assert await log.stop() == EXIT_OK
    found = await fsck(trial.data)
    assert found.exit_code == EXIT_FAILED
    assert "do not hash to what" in found.stdout
