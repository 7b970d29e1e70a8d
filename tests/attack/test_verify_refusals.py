"""What can be wrong with a file, its proof or their names: the reason in one line, and the right exit code."""

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attack.desk import DAY_S, Desk, cosigned_now, ended, fresh_proof, trust_file
from tests.processes import Finished, run_module
from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    INDEX,
    LEAF,
    LOG,
    LOG_KEY,
    ORIGIN,
    OTHER_LOG,
    POLICY_FILE,
    PUBLISHER,
    SIZE,
    STRANGER,
    WITNESSES,
    Tree,
    attestation_leaf,
    head_of,
    proof_file,
    proof_of,
    sealed,
    signed_checkpoint,
    statement,
    tree_with,
)
from treehead.encoding import format_canonical_json, parse_canonical_json
from treehead.entry import attestation
from treehead.keys import format_vkey
from treehead.tlogproof import format_proof

VERIFIED, REFUSED, USAGE, UNDECIDED, MISBEHAVED = range(5)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def check_one_line(done: Finished, exit_code: int, *, begins: str, reason: str) -> None:
    """One line that says why, nothing else, and no traceback."""
    said = done.stderr if exit_code == USAGE else done.stdout
    silent = done.stdout if exit_code == USAGE else done.stderr
    assert done.exit_code == exit_code, done
    assert said.count("\n") == 1
    assert said.removesuffix("\n").isprintable()
    assert said.startswith(begins), said
    assert reason in said, said
    assert "Traceback" not in done.stderr
    assert silent == ""


async def test_an_untouched_file_is_verified(desk: Desk) -> None:
    done = await desk.verify()
    check_one_line(done, VERIFIED, begins="verified ", reason=f"{FILENAME} (pypi:acme-tool 1.0, signer ed25519:")


# --- the artifact ----------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path, at: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(flip_a_bit, id="changed"),
        pytest.param(lambda path: path.write_bytes(CONTENT[:-1]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(CONTENT + b"\0"), id="extended"),
    ],
)
async def test_another_content_is_refused(desk: Desk, change: Callable[[Path], None]) -> None:
    change(desk.artifact)
    check_one_line(await desk.verify(), REFUSED, begins="refused ", reason="digest is not the one that was signed")


async def test_another_name_is_refused(desk: Desk) -> None:
    renamed = desk.folder / "acme_tool-2.0-py3-none-any.whl"
    desk.artifact.rename(renamed)
    done = await desk.verify("--proof", desk.proof, files=(renamed,))
    check_one_line(done, REFUSED, begins="refused ", reason="was signed as 'acme_tool-1.0-py3-none-any.whl'")


@pytest.mark.parametrize(
    "purl", ["pkg:pypi/acme-tool@1.1", "pkg:pypi/acme-tool2", "pkg:npm/acme-tool@1.0", "pkg:generic/%1B%5B31m"]
)
async def test_another_package_is_refused(desk: Desk, purl: str) -> None:
    check_one_line(await desk.verify("--purl", purl), REFUSED, begins="refused ", reason="pkg:pypi/acme-tool@1.0")


@pytest.mark.parametrize("purl", ["pkg:pypi/acme-tool@1.0", "pkg:pypi/acme-tool", "pkg:PyPI/Acme_Tool@1.0"])
async def test_the_package_in_any_spelling_is_verified(desk: Desk, purl: str) -> None:
    assert (await desk.verify("--purl", purl)).exit_code == VERIFIED


# --- the proof -------------------------------------------------------------------------------------------------------


def forged_leaf() -> bytes:
    """An entry that names the publisher's key, signed with a stranger's."""
    return attestation.format_leaf(sealed(statement(), signer=STRANGER), signer=PUBLISHER.public)


def leaf_of_kind(kind: str) -> bytes:
    document = parse_canonical_json(LEAF, what="leaf", bytes_max=65_535)
    return format_canonical_json({**document, "kind": kind})


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        pytest.param(
            lambda: fresh_proof(attestation_leaf(signer=STRANGER)), "not among the signers", id="wrong_signer"
        ),
        pytest.param(lambda: fresh_proof(forged_leaf()), "signature does not verify", id="forged_signature"),
        pytest.param(
            lambda: fresh_proof(attestation_leaf(statement(ecosystem="npm", name="other"))),
            "no trust rule matches",
            id="wrong_namespace",
        ),
        pytest.param(lambda: fresh_proof(statement()), "field apiVersion is missing", id="statement_without_entry"),
        pytest.param(
            lambda: proof_file(checkpoint=head_of(tree_with(), log=OTHER_LOG, cosigned=cosigned_now())),
            f"not signed by {ORIGIN}",
            id="other_key_of_the_same_origin",
        ),
        pytest.param(
            lambda: proof_file(
                checkpoint=signed_checkpoint(
                    23, tree_with().root(), origin="log.example/other", cosigned=cosigned_now()
                )
            ),
            "which the policy does not list",
            id="other_origin",
        ),
        pytest.param(
            lambda: proof_file(checkpoint=head_of(tree_with(), cosigned={"w1": 1})), "quorum", id="too_few_witnesses"
        ),
        pytest.param(
            lambda: proof_file(checkpoint=head_of(tree_with(b"another leaf"), cosigned=cosigned_now())),
            "does not lead to the root",
            id="another_tree",
        ),
        pytest.param(lambda: fresh_proof()[:-1], "proof", id="truncated"),
        pytest.param(lambda: b"", "proof", id="empty"),
        pytest.param(lambda: fresh_proof().replace(b"\n", b"\r\n"), "proof", id="windows_line_ends"),
        pytest.param(lambda: b"\xff" * 4_096, "proof", id="not_text"),
    ],
)
async def test_a_proof_of_something_else_is_refused(desk: Desk, proof: Callable[[], bytes], reason: str) -> None:
    desk.proof.write_bytes(proof())
    check_one_line(await desk.verify(), REFUSED, begins="refused ", reason=reason)


async def test_a_wheel_of_a_project_that_its_signer_may_not_speak_for_is_refused(desk: Desk) -> None:
    wheel = desk.folder / "victim-1.0-py3-none-any.whl"
    desk.artifact.rename(wheel)
    desk.proof.write_bytes(fresh_proof(attestation_leaf(statement(filename=wheel.name))))
    done = await desk.verify("--proof", desk.proof, files=(wheel,))
    check_one_line(
        done, REFUSED, begins="refused ", reason="that of the project 'victim', but it was signed as pkg:pypi/acme"
    )


async def test_the_proof_of_another_file_is_refused(desk: Desk) -> None:
    desk.proof.write_bytes(fresh_proof(attestation_leaf(statement(filename="acme_tool-1.1.whl", version="1.1"))))
    check_one_line(await desk.verify(), REFUSED, begins="refused ", reason=FILENAME)


async def test_an_unknown_kind_is_undecided(desk: Desk) -> None:
    desk.proof.write_bytes(fresh_proof(leaf_of_kind("mystery")))
    check_one_line(await desk.verify(), UNDECIDED, begins="undecided ", reason="'mystery' '0.0.1' is not known here")


@pytest.mark.parametrize("age_s", [pytest.param(15 * DAY_S, id="old"), pytest.param(-DAY_S, id="from_the_future")])
async def test_a_stale_head_is_undecided(desk: Desk, age_s: int) -> None:
    desk.proof.write_bytes(fresh_proof(age_s=age_s))
    check_one_line(await desk.verify(), UNDECIDED, begins="undecided ", reason="get a newer proof")


async def test_a_missing_proof_is_undecided(desk: Desk) -> None:
    desk.proof.unlink()
    check_one_line(await desk.verify(), UNDECIDED, begins="undecided ", reason="nothing says that it was ever logged")


async def test_a_proof_that_cannot_be_read_is_not_taken_for_none(desk: Desk) -> None:
    desk.proof.unlink()
    desk.proof.symlink_to(desk.proof.name)
    check_one_line(await desk.verify(), USAGE, begins="treehead: cannot read proof ", reason=str(desk.proof))


def flipped(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every way to flip one of two bits of one byte, with the byte's place."""
    for at in range(len(data)):
        for bit in (0x01, 0x20):
            yield at, data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def test_no_byte_of_a_proof_can_be_changed_where_all_witnesses_count(desk: Desk) -> None:
    desk.policy.write_bytes(POLICY_FILE.replace(b"group trusted 2", b"group trusted all"))
    verifier = desk.verifier()
    assert verifier.verify(str(desk.artifact)).error is None
    for at, changed in flipped(desk.proof.read_bytes()):
        desk.proof.write_bytes(changed)
        assert verifier.verify(str(desk.artifact)).verified is None, f"byte {at}"


def test_a_changed_cosignature_loses_its_witness_at_most(desk: Desk) -> None:
    # A line whose name or key id was changed is a line by a key that nobody knows, and those are ignored.
    verifier, proof = desk.verifier(), desk.proof.read_bytes()
    accepted = []
    for at, changed in flipped(proof):
        desk.proof.write_bytes(changed)
        found = verifier.verify(str(desk.artifact)).verified
        if found is not None:
            accepted.append(at)
            assert len(found.head.cosigned) == len(WITNESSES) - 1, f"byte {at}"
    assert accepted
    assert min(accepted) > proof.index(b"w1.example") - 1


def test_a_signature_line_by_an_unknown_key_changes_nothing(desk: Desk) -> None:
    grease = b"\xe2\x80\x94 grease.example AAAAAAAAAAAA\n"
    desk.proof.write_bytes(desk.proof.read_bytes() + grease)
    assert desk.verifier().verify(str(desk.artifact)).error is None


# --- files that are no files -----------------------------------------------------------------------------------------

GARBAGE_BYTES = 100_000_000
MEMORY_KIB_MAX = 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak memory from /proc")
@pytest.mark.parametrize("garbage", ["artifact", "proof", "policy", "trust"])
async def test_garbage_is_read_in_little_memory_or_not_at_all(desk: Desk, garbage: str) -> None:
    desk.meddle(garbage, lambda path: os.truncate(path, GARBAGE_BYTES))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEASURED, *map(str, desk.arguments()), stdout=PIPE, stderr=PIPE
    )
    async with ended(process):
        stdout, stderr = await process.communicate()
    lines = (stdout + stderr).decode().splitlines()
    peak_kib = int(lines.pop().removeprefix("peak "))
    assert peak_kib < MEMORY_KIB_MAX
    assert len(lines) == 1
    assert process.returncode == (USAGE if garbage in ("policy", "trust") else REFUSED)


# The peak of this program alone: what getrusage reports begins with the memory of the process that forked it.
MEASURED = """
import sys
from treehead_client.cli import run
code = run(sys.argv[1:])
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM"))
print("peak", peak.split()[1], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("odd", ["artifact", "proof", "policy", "trust"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "it is not a regular file", id="named_pipe"),
        pytest.param(os.mkdir, "it is not a regular file", id="folder"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "it is not a regular file", id="device"),
    ],
)
async def test_what_is_no_file_is_refused_at_once(
    desk: Desk, odd: str, make: Callable[[Path], None], reason: str
) -> None:
    desk.meddle(odd, Path.unlink)
    desk.meddle(odd, make)
    check_one_line(await desk.verify(), USAGE, begins="treehead: cannot read ", reason=reason)


@pytest.mark.parametrize("missing", ["artifact", "policy", "trust"])
async def test_a_missing_file_is_named(desk: Desk, missing: str) -> None:
    path = desk.meddle(missing, Path.unlink)
    check_one_line(await desk.verify(), USAGE, begins="treehead: cannot read ", reason=f"{path}: No such file")


@pytest.mark.parametrize(
    ("broken", "content"),
    [
        pytest.param("policy", b"log nonsense\nquorum none\n", id="policy"),
        pytest.param("policy", b"", id="empty_policy"),
        pytest.param("trust", b"[[namespace]]\nmatch = 1\n", id="trust"),
        pytest.param("trust", b"[[", id="no_toml"),
    ],
)
async def test_a_broken_rule_file_is_a_usage_error(desk: Desk, broken: str, content: bytes) -> None:
    path = desk.meddle(broken, lambda path: path.write_bytes(content))
    check_one_line(await desk.verify(), USAGE, begins=f"treehead: {path}: ", reason=broken)


# --- names that are written to mislead -------------------------------------------------------------------------------


async def test_escape_sequences_in_a_file_name_do_not_reach_the_terminal(desk: Desk) -> None:
    evil = desk.folder / "\x1b]0;owned\x07\nverified \u202egpj.whl"
    evil.write_bytes(CONTENT)
    check_one_line(await desk.verify(files=(evil,)), UNDECIDED, begins="undecided ", reason="\\x1b]0;owned\\x07\\n")


async def test_an_undecodable_file_name_is_shown_escaped(desk: Desk) -> None:
    evil = desk.folder / os.fsdecode(b"\xff.whl")
    evil.write_bytes(CONTENT)
    check_one_line(await desk.verify(files=(evil,)), UNDECIDED, begins="undecided ", reason="\\udcff.whl")


async def test_a_misleading_origin_is_shown_escaped(desk: Desk) -> None:
    origin = "log.example/\u202edaeheert"
    key = LOG.verifier_key(name=origin, key_type=LOG_KEY.key_type)
    desk.policy.write_bytes(f"log {format_vkey(key)}\nquorum none\n".encode())
    desk.trust.write_bytes(b"\n".join(line for line in trust_file().splitlines() if b"max_age" not in line) + b"\n")
    desk.proof.write_bytes(proof_file(checkpoint=signed_checkpoint(23, tree_with().root(), origin=origin)))
    check_one_line(await desk.verify(), VERIFIED, begins="verified ", reason="log.example/\\u202e")


async def test_an_output_that_cannot_show_a_character_is_no_failure(desk: Desk) -> None:
    named = desk.folder / "møller.whl"
    named.write_bytes(CONTENT)
    done = await run_module(
        "treehead_client", *desk.arguments(named), environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    check_one_line(done, UNDECIDED, begins="undecided ", reason="m\\xf8ller.whl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
async def test_a_verdict_that_nobody_can_read_is_no_success(desk: Desk) -> None:
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123 -- a device, opened at once
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "treehead_client", *map(str, desk.arguments()), stdout=full, stderr=PIPE
        )
        async with ended(process):
            _, stderr = await process.communicate()
    assert process.returncode == UNDECIDED
    assert stderr.decode() == "treehead: cannot write the result: No space left on device\n"


def closed(command: list[str | Path], *, streams: str) -> subprocess.CompletedProcess[str]:
    """Run the command by a shell that closes some of its streams, as in `>&-`."""
    shell = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "treehead_client", *map(str, command)]
    return subprocess.run(shell, capture_output=True, text=True, timeout=30, check=False)


def test_a_closed_stdout_is_said_and_no_success(desk: Desk) -> None:
    done = closed(desk.arguments(), streams=">&-")
    assert (done.returncode, done.stderr) == (UNDECIDED, "treehead: cannot write the result: stdout is closed\n")


def test_a_closed_stderr_or_stdin_is_no_failure(desk: Desk) -> None:
    done = closed(desk.arguments(), streams="2>&- <&-")
    assert (done.returncode, done.stdout.split()[0]) == (VERIFIED, "verified")
    desk.artifact.unlink()
    assert closed(desk.arguments(), streams="2>&-").returncode == USAGE
    made = closed(["keygen", "--out", desk.folder / "key"], streams="<&-")
    assert made.returncode == VERIFIED, made.stderr
    assert closed(desk.arguments(), streams=">&- 2>&-").returncode == UNDECIDED


# --- several files, and other forms of the answer ---------------------------------------------------------------------


async def test_the_worst_of_several_files_decides(desk: Desk) -> None:
    lost = desk.folder / "lost.whl"
    lost.write_bytes(CONTENT)
    done = await desk.verify(files=(desk.artifact, lost))
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["verified", "undecided"]
    assert done.exit_code == UNDECIDED
    (desk.folder / "lost.whl.tlog-proof").write_bytes(desk.proof.read_bytes())
    done = await desk.verify(files=(desk.folder / "nowhere", lost, desk.artifact))
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["refused", "verified"]
    assert done.stderr.startswith("treehead: cannot read file ")
    assert done.exit_code == REFUSED


async def test_a_verdict_object_has_the_same_keys_whatever_it_says(desk: Desk) -> None:
    verified = json.loads((await desk.verify("--json")).stdout)
    desk.artifact.write_bytes(b"")
    refused = json.loads((await desk.verify("--json")).stdout)
    desk.artifact.unlink()
    unusable = json.loads((await desk.verify("--json")).stdout)
    assert set(verified) == set(refused) == set(unusable)
    assert verified["schema"] == "https://treehead.dev/verdict/v1"
    assert (verified["verdict"], verified["code"], verified["reason"]) == ("verified", "OK", None)
    assert verified["log"]["origin"] == ORIGIN
    assert verified["witnesses"] == {"quorum": "trusted", "valid": ["w1", "w2", "w3"]}
    assert verified["freshness"]["max_age_s"] == 14 * DAY_S
    assert verified["freshness"]["age_s"] < DAY_S
    assert (refused["verdict"], refused["code"]) == ("contradicted", "E_ARTIFACT")
    assert refused["artifact"]["size"] == 0
    assert (unusable["verdict"], unusable["code"]) == ("unverifiable", "E_USAGE")


async def test_one_proof_cannot_be_for_several_files(desk: Desk) -> None:
    done = await desk.verify("--proof", desk.proof, files=(desk.artifact, desk.artifact))
    check_one_line(done, USAGE, begins="treehead: --proof ", reason="one FILE")


@pytest.mark.parametrize("option", ["--policy", "--trust", "--state", "--proof", "--purl", "--timeout-s"])
async def test_an_option_given_twice_is_a_usage_error(desk: Desk, option: str) -> None:
    """The second may be a file's name, which a hostile archive chose and the shell's `*` found."""
    value = "1" if option == "--timeout-s" else "evil"
    more = [option, value] if option in ("--proof", "--purl", "--timeout-s") else []
    done = await desk.verify(*more, f"{option}={value}")
    check_one_line(done, USAGE, begins="treehead verify: ", reason=f"argument {option}: given twice")


@pytest.mark.parametrize("command", ["sign", "find"])
async def test_no_command_takes_an_option_twice(command: str) -> None:
    done = await run_module("treehead_client", command, "x", "--log", "127.0.0.1:9", "--log=127.0.0.1:9")
    check_one_line(done, USAGE, begins=f"treehead {command}: ", reason="argument --log: given twice")


async def test_a_proof_that_is_signed_with_a_key_given_twice_is_a_usage_error() -> None:
    done = await run_module("treehead_client", "sign", "x", "--key", "k", "--key=k")
    check_one_line(done, USAGE, begins="treehead sign: ", reason="argument --key: given twice")


@pytest.mark.parametrize("purl", ["acme-tool", "pkg:pypi/acme-tool?arch=any", "pkg:pypi/acme-tool#sub"])
async def test_a_bad_package_url_is_a_usage_error(desk: Desk, purl: str) -> None:
    check_one_line(await desk.verify("--purl", purl), USAGE, begins="treehead: ", reason="")


# --- what the log showed before --------------------------------------------------------------------------------------


async def test_a_log_that_takes_back_what_it_showed_is_caught(desk: Desk) -> None:
    assert (await desk.verify()).exit_code == VERIFIED
    forked = Tree(LEAF if index == INDEX else b"other filler %d" % index for index in range(SIZE))
    checkpoint = head_of(forked, cosigned=cosigned_now())
    desk.proof.write_bytes(format_proof(proof_of(tree=forked, checkpoint=checkpoint)))
    done = await desk.verify()
    check_one_line(done, MISBEHAVED, begins="log misbehaved ", reason="signed two trees of size 23")
    evidence = Path(done.stdout.strip().rpartition("evidence: ")[2])
    checked = await run_module("treehead_client", "check-evidence", evidence, "--policy", desk.policy)
    assert checked.exit_code == MISBEHAVED
    assert checked.stdout.startswith(f"proven: log {ORIGIN} misbehaved: ")


async def test_a_log_that_was_caught_is_not_believed_again(desk: Desk) -> None:
    evidence = desk.keep_evidence()
    for leaf in (LEAF, attestation_leaf(statement(version="1.1"))):
        desk.proof.write_bytes(fresh_proof(leaf))
        done = await desk.verify()
        check_one_line(done, MISBEHAVED, begins="log misbehaved ", reason="as was proven earlier; evidence: ")
        assert done.stdout.endswith(f"{evidence}\n")


async def test_damaged_evidence_does_not_make_a_log_believed_again(desk: Desk) -> None:
    evidence = desk.keep_evidence(b"")
    check_one_line(await desk.verify(), UNDECIDED, begins="undecided ", reason=f"restore {evidence}")


async def test_a_refused_head_is_not_remembered(desk: Desk) -> None:
    desk.artifact.write_bytes(b"")
    assert (await desk.verify()).exit_code == REFUSED
    assert not desk.state.exists()


async def test_a_state_that_cannot_be_written_is_a_warning(desk: Desk) -> None:
    desk.state.mkdir()
    (desk.state / "lock").mkdir()
    done = await desk.verify()
    assert done.exit_code == VERIFIED
    assert done.stdout.startswith("verified ")
    assert done.stderr.startswith("treehead: warning: this head will not be remembered: ")
    assert done.stderr.count("\n") == 1


async def test_a_state_that_cannot_be_read_is_not_taken_for_an_empty_one(desk: Desk) -> None:
    desk.state.write_bytes(b"in the way")
    check_one_line(await desk.verify(), UNDECIDED, begins="undecided ", reason="Not a directory")


async def test_a_damaged_memory_is_not_forgotten_silently(desk: Desk) -> None:
    assert (await desk.verify()).exit_code == VERIFIED
    (remembered,) = (path for path in desk.state.iterdir() if path.name != "lock")
    remembered.write_bytes(b"")
    check_one_line(await desk.verify(), UNDECIDED, begins="undecided ", reason=f"remove {remembered} to forget it")
