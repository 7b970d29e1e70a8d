"""The benchmark programs, each with next to nothing to do: they come to their end and write what they promise to write.

No figure is judged here, for what a machine does in a tenth of a second says nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.report import LONG, PROGRAMS, report
from bench.rig.entries import single
from bench.rig.environment import environment
from bench.rig.generator import open_loop
from bench.rig.latency import latency_of, spread
from bench.rig.process import usage_of
from bench.rig.result import Bound, Goal, Result, Row, write
from bench.rig.server import EchoServer
from bench.rig.verifier import Verifier
from bench.soak import rise
from tests.processes import run_module
from tests.unit.library.specimens import LOG_KEY, Tree, signed_checkpoint
from treehead.errors import RefusedError
from treehead.note import format_note
from treehead.v1 import log_pb2

ROUND = ("--rounds", "1", "--seconds", "0.1")
SHORT = (*ROUND, "--warm-up", "0.05")
SMALL = {
    "idle": SHORT,
    "unary": (*SHORT, "--callers", "128"),
    "open_loop": (*SHORT, "--calls-per-s", "100"),
    "batches": (*SHORT, "--entries", "16"),
    "opaque": (*SHORT, "--present", "1000", "--entries", "64"),
    "add": SHORT,
    "witnessed": ("--rounds", "1", "--seconds", "0.5", "--warm-up", "0.05", "--calls-per-s", "50"),
    "proofs": (*SHORT, "--entries", "1000", "--callers", "128"),
    "prover": (*ROUND, "--entries", "1000"),
    "verification": SHORT,
    "cold_start": ("--rounds", "1", "--runs", "1"),
    "log_size": (*SHORT, "--sizes", "300"),
    "large": (*SHORT, "--sizes", "--reference", "300", "--large", "300"),
    "soak": ("--seconds", "0.5", "--entries", "300", "--calls-per-s", "100"),
}
FIGURES = {
    "idle": ("submitted.load.latency.p50_ms", "submitted.load.latency.p999_ms", "over_echo"),
    "unary": ("submitted.load.entries_per_s", "submitted.load.server_cpu_us", "submitted.disk_bytes", "of_echo"),
    "open_loop": ("open.load.refused", "open.load.latency.p99_ms", "open.late.p99_ms"),
    "batches": ("submitted.load.entries_per_s", "submitted.load.generator_cpu_us", "submitted.load.server_peak_mib"),
    "opaque": ("submitted.load.entries_per_s", "submitted.disk_bytes"),
    "add": ("load.entries_per_s", "load.latency.p99_ms", "disk_bytes", "of_echo"),
    "witnessed": ("open.load.latency.p50_ms", "open.load.latency.p99_ms", "open.overdue"),
    "proofs": ("load.entries_per_s", "load.latency.p99_ms"),
    "prover": ("cold.p50_ms", "warm_per_s", "newest_per_s"),
    "verification": ("proofs_per_s", "of_hashing"),
    "cold_start": ("verify_ms", "ed25519_ms", "over_bare"),
    "log_size": ("start_s", "first.latency.p50_ms", "batch.server_cpu_us", "memory_mb", "disk_bytes"),
    "large": ("start_s", "submit.latency.p99_ms", "prover.warm_per_s"),
    "soak": ("rss_mib", "wal_mib", "files"),
}


def numbers(value: Any) -> Iterator[float]:
    """All the numbers in a JSON value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


def figure(record: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        record = record[part]
    return record


@pytest.mark.parametrize("name", [*PROGRAMS, *LONG])
async def test_a_program_ends_and_writes_its_figures(name: str, tmp_path: Path) -> None:
    done = await run_module(f"bench.{name}", *SMALL[name], "--scratch", tmp_path, "--results", tmp_path)
    assert done.exit_code == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert result["name"] == name
    assert result["parameters"]["seed"] > 0
    assert result["environment"]["cores"] > 0
    for record in result["figures"]:
        for wanted in FIGURES[name]:
            assert isinstance(figure(record, wanted), int | float), wanted
    assert result["figures"]
    assert all(map(math.isfinite, numbers(result)))
    goals = importlib.import_module(f"bench.{name}").GOALS
    assert [row["what"] for row in result["rows"]] == [goal.what for goal in goals]
    for goal in goals:
        assert goal.what in done.stdout


def test_the_table_has_a_row_for_a_promise_without_a_result(tmp_path: Path) -> None:
    goal = importlib.import_module("bench.verification").RATE
    row = Row(goal=goal, measured=spread([50_000.0, 70_000.0, 65_000.0]))
    result = Result(name="verification", parameters={}, figures=(), columns=(), rows=(row,))
    write(result, tmp_path, environment=environment(tmp_path), unusual={"rounds": 3})
    rows = {line.split("  ")[0]: line.split() for line in report(tmp_path).splitlines()}
    assert rows["verification"][-5:] == ["65,000", "(50,000", "to", "70,000)/s", "yes"]
    assert rows["idle"][-2:] == ["not", "measured"]
    assert "verification was not run as usual, but with rounds 3" in report(tmp_path)


def test_a_goal_is_missed_on_the_wrong_side_of_its_target() -> None:
    fast = Goal(what="", bound=Bound.AT_MOST, target=3, unit=" ms")
    many = Goal(what="", bound=Bound.AT_LEAST, target=3, unit="/s")
    assert [fast.is_met(2.9), fast.is_met(3.1), many.is_met(2.9), many.is_met(3.1)] == [True, False, False, True]


def test_a_percentile_is_a_latency_that_was_measured() -> None:
    latency = latency_of([number / 1_000 for number in range(1, 1_001)])
    assert (latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.max_ms) == (501, 991, 1_000, 1_000)


def test_the_rise_is_that_of_the_samples_without_a_spike() -> None:
    samples = [(float(at), 100.0 + at / 10) for at in range(101)]
    samples[50] = (50.0, 900.0)
    assert rise(samples) == pytest.approx(10.0)


async def test_usage_is_that_of_a_process_and_of_those_it_started() -> None:
    child = "import sys; held = b'x' * 67_108_864; print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    usage = usage_of(process.pid)
    await process.communicate(b"")
    assert usage.processes == 2
    assert usage.rss_peak_bytes >= usage.rss_bytes > 67_108_864
    assert usage.cpu_s > 0


async def test_an_open_loop_counts_the_wait_of_what_was_due(tmp_path: Path) -> None:
    """One call at a time, each of two intervals: the fortieth begins when 78 are over, and was due after 39."""
    turn, interval_s = asyncio.Lock(), 0.01

    async def call() -> int:
        async with turn:
            await asyncio.sleep(2 * interval_s)
        return 1

    async with EchoServer(tmp_path, answer_bytes=0) as server:
        load = await open_loop(call, calls_per_s=1 / interval_s, warm_up_s=0, seconds=40 * interval_s, server=server)
    assert load.load.entries == 40
    assert load.load.latency.max_ms >= 390


@pytest.mark.parametrize(("missing", "swapped"), [(True, False), (False, True)])
def test_an_audit_finds_an_acknowledged_entry_that_is_not_where_it_was_said_to_be(missing: bool, swapped: bool) -> None:
    leaves = [b"%d" % number for number in range(5)]
    tree = Tree(leaves[:-1] if missing else leaves)
    newest = format_note(signed_checkpoint(tree.size, tree.root()))
    order = [1, 0, 2, 3, 4] if swapped else [0, 1, 2, 3, 4]
    honest = Tree(leaves)
    verifier = Verifier(LOG_KEY)
    for index, leaf in zip(order, leaves, strict=True):
        added = log_pb2.AddResult(added=log_pb2.Added(leaf_index=index))
        answer = log_pb2.AddEntriesResponse(
            results=[added], checkpoint=format_note(signed_checkpoint(5, honest.root()))
        )
        verifier.added_batch(single(leaf), answer.SerializeToString())
    with pytest.raises(RefusedError):
        verifier.audit(newest)
