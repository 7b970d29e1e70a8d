"""The process that checks leaves: the answers that would be given here, in time, and an end when nothing is asked."""

from __future__ import annotations

import asyncio
import contextlib
import io
import marshal
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.library.specimens import PUBLISHER, STRANGER, attestation_leaf, hashedrekord_leaf
from treehead.errors import (
    MalformedError,
    SignatureError,
    TooLargeError,
    TreeheadError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
)
from treehead.keyfile import PASSPHRASE_VARIABLE
from treehead.server import loop_factory
from treehead_logserver import checker
from treehead_logserver.checker import Checker, CheckingDefectError, Outcome
from treehead_logserver.kinds import OPAQUE
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules, format_rules, parse_rules
from treehead_logserver.storage.base import Candidate

LEAVES = [attestation_leaf(), b"", b"{}", hashedrekord_leaf(), attestation_leaf()[:-9], b"x" * 70_000]


def frame(body: object) -> bytes:
    octets = marshal.dumps(body)  # type: ignore[arg-type] # lists and tables of what marshal knows
    return len(octets).to_bytes(4, "big") + octets


RULES = frame(format_rules(AdmissionRules()))


def admitted_here(leaf: bytes) -> Candidate | TreeheadError:
    try:
        return admit_leaf(leaf, rules=AdmissionRules())
    except TreeheadError as exc:
        return exc


async def test_the_process_answers_what_would_be_answered_here() -> None:
    desk = Checker(AdmissionRules(), answer_ms=30_000)
    outcomes = await desk.check(LEAVES)
    again = await desk.check(LEAVES[:1])
    await desk.close()
    for leaf, outcome in zip(LEAVES, outcomes, strict=True):
        expected = admitted_here(leaf)
        assert type(outcome) is type(expected)
        assert outcome == expected if isinstance(outcome, Candidate) else str(outcome) == str(expected)
    assert again == outcomes[:1]


async def test_the_process_knows_the_kinds_of_the_log() -> None:
    rules = AdmissionRules(kinds=frozenset({OPAQUE}))
    desk = Checker(rules, answer_ms=30_000)
    leaves = [b"any", b"{}", attestation_leaf()]
    assert await desk.check(leaves) == [admit_leaf(leaf, rules=rules) for leaf in leaves]
    await desk.close()


async def test_the_process_knows_all_rules_of_the_log_however_many_and_so_does_the_one_after_it() -> None:
    key = str(STRANGER.public)
    owners = [
        {"match": f"pypi:{'acme-' * 40}{number}", "signers": [key]} for number in range(1_000)
    ]  # beyond a pipe's room
    owners.append({"match": "pypi:acme-tool", "signers": [key]})
    table = {
        "kinds": ["attestation"],
        "entry_bytes_max": 4_096,
        "signers": [key, str(PUBLISHER.public)],
        "owner": owners,
    }
    desk = Checker(parse_rules(table, where="admission"), answer_ms=30_000)
    for _ in range(2):
        owned, other_kind, too_large, owners_own = await desk.check(
            [attestation_leaf(), hashedrekord_leaf(), b"x" * 4_097, attestation_leaf(signer=STRANGER)]
        )
        assert isinstance(owned, UntrustedError)
        assert 'rule admission.owner "pypi:acme-tool": signer ed25519:' in str(owned)
        assert isinstance(other_kind, UnsupportedError)
        assert isinstance(too_large, TooLargeError)
        assert isinstance(owners_own, Candidate)
        (await desk.start()).kill()
        await (await desk.start()).wait()
    await desk.close()


async def test_a_process_that_does_not_answer_in_time_is_replaced() -> None:
    desk = Checker(AdmissionRules(), answer_ms=30_000)
    stopped = await desk.start()
    stopped.send_signal(signal.SIGSTOP)
    desk._answer_ms = 1
    with pytest.raises(UnavailableError, match="try again"):
        await desk.check(LEAVES)
    assert stopped.returncode == -signal.SIGKILL
    desk._answer_ms = 30_000
    assert isinstance((await desk.check(LEAVES))[0], Candidate)
    await desk.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, loop_factory()], ids=["asyncio", "ours"])
async def test_a_process_that_has_ended_is_replaced_whatever_the_loop(
    factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> None:
    async def survive() -> list[Outcome]:
        desk = Checker(AdmissionRules(), answer_ms=30_000)
        process = await desk.start()
        process.kill()
        await process.wait()
        answered = await desk.check(LEAVES)
        process = await desk.start()
        process.kill()  # it may or may not have ended when it is asked
        with contextlib.suppress(UnavailableError):
            await desk.check(LEAVES * 100)
        answered += await desk.check(LEAVES)
        await desk.close()
        return answered

    def run() -> list[Outcome]:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(survive())

    outcomes = await asyncio.to_thread(run)
    assert [isinstance(outcome, Candidate) for outcome in outcomes] == [
        isinstance(admitted_here(leaf), Candidate) for leaf in LEAVES * 2
    ]


async def test_the_answer_to_a_call_that_was_given_up_is_not_taken_for_that_to_the_next() -> None:
    desk = Checker(AdmissionRules(), answer_ms=30_000)
    process = await desk.start()
    process.send_signal(signal.SIGSTOP)
    given_up = asyncio.create_task(desk.check(LEAVES[:1]))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await desk.check(LEAVES[3:4]) == [admit_leaf(LEAVES[3], rules=AdmissionRules())]
    assert await process.wait() == -signal.SIGKILL
    await desk.close()


async def test_to_close_what_never_started_or_was_closed_does_nothing() -> None:
    desk = Checker(AdmissionRules(), answer_ms=30_000)
    await desk.close()
    await desk.start()
    await desk.close()
    await desk.close()


def test_a_defect_met_by_one_leaf_fails_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(leaf: bytes, *, rules: AdmissionRules) -> Candidate:
        return Candidate(leaf, b"hash") if leaf != b"poison" else 1 / 0  # type: ignore[return-value]

    monkeypatch.setattr(checker, "admit_leaf", admit)
    answers = io.BytesIO()
    checker.run(io.BytesIO(RULES + frame([b"good", b"poison", b"good"])), answers)
    first, (name, report), last = marshal.loads(answers.getvalue()[4:])  # noqa: S302
    assert first == last == (b"hash", None)
    assert name is None
    assert "ZeroDivisionError" in report
    assert isinstance(checker._outcome(b"poison", (name, report)), CheckingDefectError)


@pytest.mark.parametrize("left", [0, 3, len(RULES) - 1, len(RULES), len(RULES) + 2, len(RULES) + 5])
def test_what_a_log_that_was_killed_had_half_said_is_not_answered(left: int) -> None:
    answers = io.BytesIO()
    checker.run(io.BytesIO((RULES + frame([b"leaf"]))[:left]), answers)
    assert answers.getvalue() == b""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
async def test_the_process_ends_with_its_stdin_and_not_by_the_signals_that_stop_a_log(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "treehead_logserver.checker", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(RULES)
    for _ in range(2):
        process.stdin.write(frame([b""]))
        length = int.from_bytes(await process.stdout.readexactly(4), "big")
        await process.stdout.readexactly(length)
        process.send_signal(getattr(signal, name))  # it runs by now, and answers once more
    process.stdin.close()
    assert await process.wait() == 0


def test_the_errors_that_a_leaf_meets_can_be_told_by_name() -> None:
    for error in (MalformedError, SignatureError, UntrustedError):
        outcome = checker._outcome(b"", (error.__name__, "why"))
        assert (type(outcome), str(outcome)) == (error, "why")


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux shows a process's environment")
async def test_the_process_is_not_told_the_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "secret")
    checker = Checker(AdmissionRules(), answer_ms=10_000)
    try:
        process = await checker.start()
        environment = environment_of(process.pid)
        assert b"PATH=" in environment
        assert b"secret" not in environment
    finally:
        await checker.close()
