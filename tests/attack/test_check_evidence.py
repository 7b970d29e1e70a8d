"""Evidence proves something to a stranger with the policy, and after any change nothing any more."""

import random
from pathlib import Path

import pytest

from tests.processes import run_module
from tests.unit.library.specimens import ORIGIN, POLICY_FILE, prefix_evidence, same_size_evidence
from treehead.evidence import Evidence, format_evidence
from treehead.keys import NoteKeyType, VerifierKey
from treehead_client.cli import run

KINDS = pytest.mark.parametrize("evidence", [same_size_evidence(), prefix_evidence()], ids=["same_size", "prefix"])
REAL_COMMANDS = 4


def changed(data: bytes, at: int, chance: random.Random) -> bytes:
    """The file with one bit of one byte flipped."""
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


@KINDS
def test_evidence_proves_nothing_after_any_one_byte_was_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], evidence: Evidence
) -> None:
    data, chance = format_evidence(evidence), random.Random(1)
    file, policy = tmp_path / "fork.evidence", tmp_path / "policy"
    policy.write_bytes(POLICY_FILE)
    check = ["check-evidence", str(file), "--policy", str(policy)]
    file.write_bytes(data)
    assert run(check) == 4
    assert capsys.readouterr().out.startswith(f"proven: log {ORIGIN} misbehaved: ")
    for at in range(len(data)):
        file.write_bytes(changed(data, at, chance))
        assert run(check) == 1, f"byte {at}"
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n"), "proves nothing" in said.err) == ("", 1, True), f"byte {at}"


def test_a_second_key_that_cannot_be_used_here_does_not_blur_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = format_evidence(same_size_evidence())
    other = VerifierKey(name=ORIGIN, key_type=NoteKeyType.ECDSA, public_key=b"some SubjectPublicKeyInfo")
    file, policy = tmp_path / "fork.evidence", tmp_path / "policy"
    policy.write_bytes(POLICY_FILE.replace(b"\nwitness ", f"\nlog {other}\nwitness ".encode(), 1))
    check = ["check-evidence", str(file), "--policy", str(policy)]
    file.write_bytes(data)
    assert run(check) == 4
    file.write_bytes(changed(data, len(data) - 10, random.Random(3)))
    assert run(check) == 1
    assert "proves nothing" in capsys.readouterr().err


@KINDS
async def test_the_real_command_says_so_too(tmp_path: Path, evidence: Evidence) -> None:
    data, chance = format_evidence(evidence), random.Random(2)
    file, policy = tmp_path / "fork.evidence", tmp_path / "policy"
    policy.write_bytes(POLICY_FILE)
    file.write_bytes(data)
    assert (await run_module("treehead_client", "check-evidence", file, "--policy", policy)).exit_code == 4
    for at in chance.sample(range(len(data)), REAL_COMMANDS):
        file.write_bytes(changed(data, at, chance))
        done = await run_module("treehead_client", "check-evidence", file, "--policy", policy)
        assert (done.exit_code, done.stdout) == (1, ""), f"byte {at}"
