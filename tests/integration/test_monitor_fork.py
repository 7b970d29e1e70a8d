"""A log that shows two monitors two trees: both hold the proof within three intervals, whatever the sizes are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.monitors import MonitorProcess, add, create_fork, leaf, monitor_command, new_monitor
from tests.processes import LogProcess
from treehead.evidence import verify_evidence
from treehead.keys import parse_vkey
from treehead_monitor.status import State

INTERVAL_MS = 1_000
INTERVALS_MAX = 3
ORIGIN = "forked.example/log"
PROVEN = "MISBEHAVIOUR PROVEN"


@asynccontextmanager
async def faces_of_a_log(folder: Path, *, agreed: int, first: int, second: int) -> AsyncIterator[tuple[str, str, str]]:
    """The vkey and two addresses of a log whose faces agree on some entries and then have others."""
    fork = await create_fork(folder, origin=ORIGIN, agreed=agreed)
    one, two = LogProcess(fork.faces[0]), LogProcess(fork.faces[1])
    async with one, two:
        await add(one.address, [leaf(number, kind="truth") for number in range(first)])
        await add(two.address, [leaf(number, kind="lie") for number in range(second)])
        yield fork.vkey, one.address, two.address


@pytest.mark.parametrize(
    ("agreed", "first", "second"),
    [
        pytest.param(0, 5, 5, id="one_size"),
        pytest.param(7, 1, 9, id="a_smaller_tree_of_a_power_of_two"),
        pytest.param(2, 300, 3, id="the_larger_tree_is_the_one_that_is_called"),
        pytest.param(300, 1, 2, id="after_a_long_agreement"),
    ],
)
async def test_both_monitors_behind_a_fork_hold_proof_within_three_intervals(
    tmp_path: Path, agreed: int, first: int, second: int
) -> None:
    new_monitor(tmp_path / "one")
    new_monitor(tmp_path / "two")
    loop = asyncio.get_running_loop()
    async with faces_of_a_log(tmp_path, agreed=agreed, first=first, second=second) as (vkey, face1, face2):
        one = MonitorProcess(tmp_path / "one", logs=[(vkey, face1)], interval_ms=INTERVAL_MS)
        async with one:
            await one.says(f"verified to size {agreed + first}")
            two = MonitorProcess(tmp_path / "two", logs=[(vkey, face2)], peers=[one.address], interval_ms=INTERVAL_MS)
            async with two:
                # It listens, and has seen nothing yet: that it follows its face of the log is part of the time.
                begun = loop.time()
                await one.says(PROVEN)
                await two.says(PROVEN)
                assert loop.time() - begun < INTERVALS_MAX * INTERVAL_MS / 1_000
                assert one.log().state is two.log().state is State.MISBEHAVED
                assert await two.stop() == 4
            assert await one.stop() == 4
    (evidence,) = one.evidence()
    assert two.evidence() == [evidence]
    head1, head2 = verify_evidence(evidence, key=parse_vkey(vkey))
    assert sorted((head1.size, head2.size)) == sorted((agreed + first, agreed + second))
    assert [record.id for record in one.log().evidence] == [evidence.id]


async def test_trees_of_which_one_is_a_prefix_are_no_fork(tmp_path: Path) -> None:
    new_monitor(tmp_path / "one")
    new_monitor(tmp_path / "two")
    async with faces_of_a_log(tmp_path, agreed=0, first=0, second=9) as (vkey, face1, face2):
        one = MonitorProcess(tmp_path / "one", logs=[(vkey, face1)])
        async with one:
            await one.says("verified to size 0")
            two = MonitorProcess(tmp_path / "two", logs=[(vkey, face2)], peers=[one.address])
            async with two:
                await two.says("verified to size 9")
                await add(face1, [leaf(number, kind="lie") for number in range(9)])
                await one.says("verified to size 9")
                assert await two.stop() == 0
            assert await one.stop() == 0
    assert one.evidence() == two.evidence() == []


@pytest.mark.parametrize("size", [5, 8])
async def test_a_log_that_changes_its_face_convicts_itself(tmp_path: Path, size: int) -> None:
    """One monitor, no peers: the proof is made from the log's own proofs, which omit a root at a power of two."""
    new_monitor(tmp_path / "monitor")
    async with faces_of_a_log(tmp_path, agreed=2, first=size - 2, second=12) as (vkey, face1, face2):
        monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, face1)])
        async with monitor:
            await monitor.says(f"verified to size {size}")
            assert await monitor.stop() == 0
        monitor = MonitorProcess(tmp_path / "monitor", logs=[(vkey, face2)])
        async with monitor:
            await monitor.says(PROVEN)
            assert await monitor.stop() == 4
    (evidence,) = monitor.evidence()
    head1, head2 = verify_evidence(evidence, key=parse_vkey(vkey))
    assert (head1.size, head2.size) == (size, 14)


async def test_evidence_is_listed_and_exported(tmp_path: Path) -> None:
    data = tmp_path / "monitor"
    new_monitor(data)
    none = await monitor_command("evidence", "export", "--data", data, "--to", "-")
    assert (none.exit_code, none.stdout) == (2, "")
    assert "it holds none" in none.stderr
    async with faces_of_a_log(tmp_path, agreed=0, first=1, second=1) as (vkey, face1, face2):
        monitor = MonitorProcess(data, logs=[(vkey, face1)])
        async with monitor:
            await monitor.says("verified to size 1")
        monitor = MonitorProcess(data, logs=[(vkey, face2)])
        async with monitor:
            await monitor.says(PROVEN)
    (evidence,) = monitor.evidence()
    listed = await monitor_command("evidence", "list", "--data", data)
    assert (listed.exit_code, listed.stdout) == (0, f"{evidence.id} {ORIGIN} same-size 1 1\n")
    file, copy = data / "evidence" / f"{evidence.id}.evidence", tmp_path / "copy.evidence"
    exported = await monitor_command("evidence", "export", "--data", data, "--to", "-")
    assert exported.stdout.encode() == file.read_bytes()
    assert (await monitor_command("evidence", "export", "--data", data, evidence.id, "--to", copy)).exit_code == 0
    assert copy.read_bytes() == file.read_bytes()
    again = await monitor_command("evidence", "export", "--data", data, "--to", copy)
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)
    unknown = await monitor_command("evidence", "export", "--data", data, "0" * 64, "--to", "-")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
