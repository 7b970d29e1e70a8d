"""The table from errors to verdicts and exit codes."""

import pytest

import treehead.errors
from tests.unit.library.specimens import same_size_evidence
from treehead.errors import (
    ArtifactError,
    MalformedError,
    MisbehaviourError,
    OperationalError,
    RefusedError,
    StaleError,
    TooLargeError,
    TreeheadError,
    UnavailableError,
    UndecidedError,
    UnloggedError,
    UnsupportedError,
    UsageError,
)
from treehead_client.verdict import EXIT_MISBEHAVIOUR, outcome_of, worst_exit_code

# Of the library's tree: components refine some of these for themselves, and their errors count as what they refine.
KINDS = [
    kind
    for kind in vars(treehead.errors).values()
    if isinstance(kind, type) and issubclass(kind, TreeheadError) and kind is not TreeheadError
]


def raised(kind: type[TreeheadError]) -> TreeheadError:
    if issubclass(kind, MisbehaviourError):
        return kind("reason", evidence=same_size_evidence())
    return kind("reason")


def test_every_error_has_an_outcome_of_its_own() -> None:
    codes = {outcome_of(raised(kind)).code for kind in KINDS}
    assert len(codes) == len(KINDS) > 10


@pytest.mark.parametrize(
    ("kind", "verdict", "exit_code"),
    [
        (ArtifactError, "contradicted", 1),
        (MalformedError, "contradicted", 1),
        (TooLargeError, "contradicted", 1),
        (StaleError, "unverifiable", 3),
        (UnloggedError, "unverifiable", 3),
        (UndecidedError, "unverifiable", 3),
        (UnsupportedError, "unverifiable", 3),
        (UnavailableError, "unverifiable", 3),
        (UsageError, "unverifiable", 2),
    ],
)
def test_the_branch_of_an_error_is_the_verdict(kind: type[TreeheadError], verdict: str, exit_code: int) -> None:
    outcome = outcome_of(raised(kind))
    assert (outcome.verdict, outcome.exit_code) == (verdict, exit_code)


def test_only_misbehaviour_says_that_a_log_lies_and_nothing_operational_refuses() -> None:
    for kind in KINDS:
        outcome = outcome_of(raised(kind))
        assert (outcome.exit_code == EXIT_MISBEHAVIOUR) == issubclass(kind, MisbehaviourError)
        assert (outcome.verdict == "contradicted") == issubclass(kind, (RefusedError, MalformedError))
        assert not (issubclass(kind, OperationalError) and outcome.exit_code == 1)


@pytest.mark.parametrize(
    ("codes", "worst"), [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 2], 2), ([3, 1, 2, 0], 1), ([1, 4, 3, 2], 4)]
)
def test_the_worst_of_several_exit_codes_wins(codes: list[int], worst: int) -> None:
    assert worst_exit_code(codes) == worst
