"""A seeded slice of `make abuse`: every abuse at once for some seconds. The log survives it, and loses nothing.

How long it keeps waiting those who behave is judged by `make abuse`, which takes the time that such a figure needs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.rig.latency import latency_of
from tests.abuse.catalogue import ABUSES, CLASSES
from tests.abuse.figures import JOURNAL_BYTES_PER_S_MAX, MEMORY_MIB_MAX, Figures, Phase
from tests.abuse.party import Party
from tests.abuse.run import EXIT_OK, Plan, Program, parse_arguments, plans_of, run_program

SEED = 20_261_122
ADDS = ("http-adds", "grpc-adds")


async def test_a_log_survives_every_abuse_at_once_and_loses_nothing(tmp_path: Path) -> None:
    everything = [Party(names=[abuse.name for abuse in abuses]) for abuses in CLASSES.values()]
    figures = await Program(tmp_path, seed=SEED).run(
        [
            Plan(name="nobody", parties=(), seconds=0.5),
            Plan(name="adds", parties=[Party(names=ADDS)], seconds=0.5),
            Plan(name="all", parties=everything, seconds=3),
        ]
    )
    assert figures.broken == []
    nobody, adds, abused = figures.phases
    assert abused.done.keys() == ABUSES.keys()
    assert all(done.begun for done in abused.done.values())
    assert abused.attempts > len(ABUSES)
    added = adds.done["http-adds"].counts["200"] + adds.done["grpc-adds"].counts["answered"]
    assert added > 0
    assert figures.acknowledged > added
    assert all(phase.latencies.keys() == {"grpc", "http"} for phase in (nobody, adds, abused))


def phase(*, p99_ms: float, name: str = "all") -> Phase:
    latency = latency_of([p99_ms / 1_000])
    return Phase(
        name=name,
        seconds=1.0,
        latencies={"grpc": latency, "http": latency_of([0.001])},
        refusals=0,
        unanswered=0,
        journal_bytes_per_s=0.0,
        memory_mib=100.0,
        server_share=0.5,
        abusers_share=0.2,
        done={},
    )


@pytest.mark.parametrize(("p99_ms", "slow"), [(30.0, 0), (31.0, 1)])
def test_a_p99_may_be_three_times_what_it_was(p99_ms: float, slow: int) -> None:
    assert len(Figures(phases=[phase(p99_ms=10.0), phase(p99_ms=p99_ms)]).slow) == slow


def test_memory_journal_and_answers_that_never_came_are_held_against_a_log() -> None:
    well = phase(p99_ms=10.0)
    assert Figures(phases=[well], memory_mib=MEMORY_MIB_MAX).broken == []
    assert len(Figures(phases=[well], memory_mib=MEMORY_MIB_MAX + 1).broken) == 1
    assert len(Figures(phases=[replace(well, journal_bytes_per_s=JOURNAL_BYTES_PER_S_MAX + 1)]).broken) == 1
    assert len(Figures(phases=[replace(well, unanswered=1)]).broken) == 1


def test_the_figures_are_one_line() -> None:
    line = str(Figures(phases=[phase(p99_ms=10.0), phase(p99_ms=20.0)], acknowledged=7, lost=0, memory_mib=120.4))
    assert "\n" not in line
    for figure in ("grpc: p99=20.0ms alone=10.0ms ratio=2.00", "acknowledged=7", "lost=0", "memory=120MiB", "nice 10"):
        assert figure in line
    assert "nothing was measured" in str(Figures(failures=["the log did not start"]))


def test_each_class_and_each_abuse_can_have_the_log_for_itself() -> None:
    plans = plans_of(parse_arguments(["--each", "2"]))
    assert [plan.name for plan in plans] == ["nobody", *CLASSES, *ABUSES, "all"]
    assert plans[0].parties == ()
    assert [plan.seconds for plan in plans[1:-1]] == [2.0] * (len(CLASSES) + len(ABUSES))
    assert sorted(name for party in plans[-1].parties for name in party.names) == sorted(ABUSES)


def test_what_takes_turns_has_as_long_as_all_of_it_together() -> None:
    (plan,) = plans_of(parse_arguments(["--seconds", "12"]))[1:]
    assert {len(party.names): party.turn_s for party in plan.parties if party.turn_s} == {4: 3.0, 6: 2.0, 9: 12 / 9}
    (plan,) = plans_of(parse_arguments(["--at-once"]))[1:]
    assert [party.turn_s for party in plan.parties] == [None] * len(CLASSES)


def test_no_abuse_comes_from_where_those_who_behave_do_and_each_class_from_a_place_of_its_own() -> None:
    places = [{source for abuse in abuses for source in abuse.sources} for abuses in CLASSES.values()]
    assert "127.0.0.1" not in set().union(*places)
    assert sum(map(len, places)) == len(set().union(*places))


async def test_the_abuses_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_program(parse_arguments(["--list"])) == EXIT_OK
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [*CLASSES]
