"""Verification with monitors: all of them must confirm, and what one of them proves outweighs what others lack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tests.attack.desk import DAY_S, Desk, babbling, cosigned_now, fresh_proof
from tests.unit.library.specimens import (
    INDEX,
    LEAF,
    LOG,
    LOG_KEY,
    ORIGIN,
    OTHER_LOG,
    SIZE,
    Tree,
    head_of,
    prefix_evidence,
    proof_of,
    signed_checkpoint,
    view_of,
)
from treehead.evidence import format_evidence, parse_evidence, verify_evidence
from treehead.keys import format_vkey
from treehead.note import Note, format_note, sign_text
from treehead.tlogproof import format_proof
from treehead.v1 import monitor_pb2
from treehead.v1.monitor_pb2_grpc import MonitorServicer, add_MonitorServicer_to_server
from treehead.view import Prefix, View
from treehead.wire import SERVER_OPTIONS, view_to_wire

Answer = Callable[[list[int]], monitor_pb2.GetViewResponse]


class ScriptedMonitor(MonitorServicer):
    """Answers GetView with one script after the other, and goes on with the last."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.requests: list[monitor_pb2.GetViewRequest] = []

    async def GetView(
        self, request: monitor_pb2.GetViewRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> monitor_pb2.GetViewResponse:
        self.requests.append(request)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return answer(list(request.sizes))

    async def Exchange(
        self, request: monitor_pb2.ExchangeRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> monitor_pb2.ExchangeResponse:
        raise AssertionError("a client does not gossip")

    async def GetEvidence(
        self, request: monitor_pb2.GetEvidenceRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> monitor_pb2.GetEvidenceResponse:
        raise AssertionError("a view has the evidence in it")


@asynccontextmanager
async def serving(monitor: ScriptedMonitor) -> AsyncIterator[str]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    add_MonitorServicer_to_server(monitor, server)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


Ask = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def ask(desk: Desk) -> Ask:
    async def ask(*scripts: tuple[Answer, ...], timeout_s: int = 10) -> tuple[int, str]:
        """Verify with these monitors; returns the exit code and the verdict's line."""
        async with AsyncExitStack() as stack:
            options = ["--timeout-s", str(timeout_s)]
            for script in scripts:
                options += ["--monitor", await stack.enter_async_context(serving(ScriptedMonitor(*script)))]
            done = await desk.verify(*options)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1
        return done.exit_code, done.stdout

    return ask


def grown(leaf: bytes = LEAF, *, size: int = SIZE + 10, forked_at: int | None = None) -> Tree:
    """The tree of the proof on the desk, grown; or else one that goes another way from a leaf on."""
    tree = Tree()
    for index in range(size):
        changed = forked_at is not None and index >= forked_at
        tree.append(leaf if index == INDEX else b"%s %d" % (b"forked" if changed else b"filler", index))
    return tree


def follows(tree: Tree) -> Answer:
    """An honest monitor that was shown this tree."""
    return lambda sizes: view_to_wire(view_of(tree, sizes=[size for size in sizes if size <= tree.size]))


async def test_monitors_that_see_the_same_tree_confirm(ask: Ask) -> None:
    code, line = await ask((follows(grown()),), (follows(grown(size=SIZE)),))
    assert code == 0
    assert line.startswith("verified ")
    assert ", monitors 127.0.0.1:" in line


async def test_a_monitor_that_is_behind_is_asked_again(ask: Ask) -> None:
    behind = follows(grown(size=SIZE - 1))
    code, line = await ask((lambda sizes: monitor_pb2.GetViewResponse(), behind, behind, follows(grown())))
    assert (code, line.split()[0]) == (0, "verified")


async def test_a_monitor_that_stays_behind_leaves_it_undecided(ask: Ask) -> None:
    code, line = await ask((follows(grown(size=SIZE - 1)),), timeout_s=1)
    assert code == 3
    assert f"has followed the log to size {SIZE - 1}, the head here is {SIZE}" in line


async def test_a_monitor_that_is_not_there_leaves_it_undecided(desk: Desk) -> None:
    done = await desk.verify("--monitor", "127.0.0.1:9")
    assert (done.exit_code, done.stdout.split()[0]) == (3, "undecided")
    assert "monitor 127.0.0.1:9 gave no answer" in done.stdout


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:1"])
async def test_a_bad_monitor_address_is_a_usage_error(desk: Desk, address: str) -> None:
    done = await desk.verify("--monitor", address)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is not HOST:PORT" in done.stderr


def sign_note(text: str) -> Note:
    return Note(text=text, signatures=(sign_text(text, key=LOG, name=ORIGIN),))


def misnumbered(sizes: list[int]) -> monitor_pb2.GetViewResponse:
    return view_to_wire(View(monitor="", head=head_of(grown(), cosigned={}), prefixes=()))


def unproven(sizes: list[int]) -> monitor_pb2.GetViewResponse:
    view = view_of(grown(), sizes=sizes)
    lies = tuple(Prefix(size=prefix.size, root=bytes(32), path=prefix.path) for prefix in view.prefixes)
    return view_to_wire(View(monitor="", head=view.head, prefixes=lies))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda sizes: monitor_pb2.GetViewResponse(head=b"\x1b[2J\xff"), id="garbage_for_a_head"),
        pytest.param(lambda sizes: monitor_pb2.GetViewResponse(evidence=[b"garbage"]), id="garbage_for_evidence"),
        pytest.param(
            lambda sizes: view_to_wire(
                View(monitor="", head=signed_checkpoint(99, bytes(32), log=OTHER_LOG), prefixes=())
            ),
            id="a_head_that_the_log_did_not_sign",
        ),
        pytest.param(misnumbered, id="no_proof"),
        pytest.param(unproven, id="a_proof_that_does_not_hold"),
        pytest.param(
            lambda sizes: monitor_pb2.GetViewResponse(
                prefixes=[monitor_pb2.Prefix(size=size, root=bytes(32)) for size in range(1_000)]
            ),
            id="too_much",
        ),
    ],
)
async def test_a_lying_monitor_convinces_of_nothing(ask: Ask, answer: Answer) -> None:
    code, line = await ask((answer,), timeout_s=1)
    assert (code, line.split()[0]) == (3, "undecided")
    assert line.removesuffix("\n").isprintable()


def kept_evidence(line: str) -> bytes:
    return Path(line.strip().rpartition("evidence: ")[2]).read_bytes()


@pytest.mark.parametrize("size", [SIZE, SIZE + 10])
async def test_a_log_that_showed_the_monitor_another_tree_is_caught(ask: Ask, size: int) -> None:
    code, line = await ask((follows(grown(size=size, forked_at=SIZE - 2)),))
    assert (code, line.split()[:2]) == (4, ["log", "misbehaved"])
    verify_evidence(parse_evidence(kept_evidence(line)), key=LOG_KEY)


async def test_a_log_that_a_monitor_proved_a_liar_is_not_believed_offline_either(desk: Desk, ask: Ask) -> None:
    assert (await desk.verify()).exit_code == 0
    code, line = await ask((follows(grown(forked_at=SIZE - 2)),))
    assert code == 4
    done = await desk.verify()
    assert (done.exit_code, done.stderr) == (4, "")
    assert kept_evidence(done.stdout) == kept_evidence(line)


async def test_two_monitors_that_were_shown_different_trees_catch_the_log(ask: Ask) -> None:
    code, line = await ask((follows(grown()),), (follows(grown(forked_at=SIZE)),))
    assert (code, line.split()[:2]) == (4, ["log", "misbehaved"])
    verify_evidence(parse_evidence(kept_evidence(line)), key=LOG_KEY)


async def test_evidence_outweighs_that_other_monitors_are_behind_or_silent(desk: Desk) -> None:
    evidence = prefix_evidence()
    honest = view_of(grown(), sizes=[SIZE])
    accuser = ScriptedMonitor(
        lambda sizes: view_to_wire(View(monitor="", head=honest.head, prefixes=honest.prefixes, evidence=(evidence,)))
    )
    behind = ScriptedMonitor(follows(grown(size=SIZE - 1)))
    async with serving(accuser) as accuser_address, serving(behind) as behind_address:
        addresses = ["127.0.0.1:9", behind_address, accuser_address]
        options = [part for address in addresses for part in ("--monitor", address)]
        done = await desk.verify(*options, "--timeout-s", "1")
    assert done.exit_code == 4
    assert kept_evidence(done.stdout).startswith(b"treehead.dev/evidence@v1\n")


async def test_a_monitor_whose_answer_is_no_message_leaves_it_undecided(desk: Desk) -> None:
    async with babbling("treehead.v1.Monitor", "GetView") as address:
        done = await desk.verify("--monitor", address)
    assert (done.exit_code, done.stderr) == (3, "")
    assert done.stdout.startswith("undecided ")
    assert f"monitor {address} sent an answer that cannot be read" in done.stdout


async def test_a_monitor_whose_answer_is_no_message_does_not_hide_what_another_proves(desk: Desk) -> None:
    accuser = ScriptedMonitor(lambda sizes: view_to_wire(View(monitor="", head=None, evidence=(prefix_evidence(),))))
    async with babbling("treehead.v1.Monitor", "GetView") as garbage, serving(accuser) as address:
        done = await desk.verify("--monitor", garbage, "--monitor", address)
    assert (done.exit_code, done.stderr) == (4, "")
    assert kept_evidence(done.stdout) == format_evidence(prefix_evidence())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(monitor_pb2.GetViewResponse(head=b"garbage"), id="malformed_head"),
        pytest.param(monitor_pb2.GetViewResponse(head=format_note(sign_note("no checkpoint\n"))), id="no_checkpoint"),
        pytest.param(monitor_pb2.GetViewResponse(evidence=[b"garbage"]), id="malformed_evidence"),
        pytest.param(monitor_pb2.GetViewResponse(prefixes=[monitor_pb2.Prefix(root=b"short")]), id="malformed_prefix"),
        pytest.param(monitor_pb2.GetViewResponse(prefixes=[monitor_pb2.Prefix()] * 1_000), id="too_many_prefixes"),
    ],
)
async def test_evidence_counts_beside_whatever_cannot_be_read(ask: Ask, answer: monitor_pb2.GetViewResponse) -> None:
    answer.evidence.append(format_evidence(prefix_evidence()))
    code, line = await ask((lambda sizes: answer,))
    assert (code, line.split()[:2]) == (4, ["log", "misbehaved"])


async def test_a_forked_head_counts_beside_evidence_that_cannot_be_read(ask: Ask) -> None:
    def answer(sizes: list[int]) -> monitor_pb2.GetViewResponse:
        response = follows(grown(forked_at=SIZE - 2))(sizes)
        response.evidence.append(b"garbage")
        return response

    code, line = await ask((answer,))
    assert (code, line.split()[:2]) == (4, ["log", "misbehaved"])


async def test_an_answer_that_is_behind_counts_though_the_monitor_then_falls_silent(desk: Desk) -> None:
    forked = ScriptedMonitor(follows(grown(size=SIZE - 1)), fall_silent)
    other = ScriptedMonitor(follows(grown(size=SIZE - 1, forked_at=SIZE - 3)))
    async with serving(forked) as address, serving(other) as other_address:
        done = await desk.verify("--monitor", address, "--monitor", other_address, "--timeout-s", "1")
    assert done.exit_code == 4, done


def fall_silent(sizes: list[int]) -> monitor_pb2.GetViewResponse:
    raise ConnectionError("no further answer")


@pytest.mark.parametrize("size", [SIZE - 5, SIZE])
async def test_two_heads_of_one_size_are_a_fork_though_their_monitors_prove_nothing_else(ask: Ask, size: int) -> None:
    def bare(tree: Tree) -> Answer:
        return lambda sizes: view_to_wire(View(monitor="", head=head_of(tree, cosigned={})))

    code, line = await ask((bare(grown(size=size)),), (bare(grown(size=size, forked_at=size - 1)),), timeout_s=1)
    assert (code, line.split()[:2]) == (4, ["log", "misbehaved"])
    verify_evidence(parse_evidence(kept_evidence(line)), key=LOG_KEY)


async def test_a_newer_head_at_a_monitor_shows_that_an_old_proof_is_current(desk: Desk, ask: Ask) -> None:
    desk.proof.write_bytes(fresh_proof(age_s=15 * DAY_S))
    assert (await desk.verify()).exit_code == 3

    def renewed(sizes: list[int]) -> monitor_pb2.GetViewResponse:
        return view_to_wire(view_of(grown(), sizes=sizes, cosigned=cosigned_now()))

    assert (await ask((renewed,)))[0] == 0
    assert (await ask((follows(grown()),)))[0] == 3


async def test_the_remembered_head_is_asked_about_and_linked(desk: Desk) -> None:
    older = Tree(LEAF if index == INDEX else b"filler %d" % index for index in range(SIZE - 5))
    newer = desk.proof.read_bytes()
    desk.proof.write_bytes(format_proof(proof_of(tree=older, checkpoint=head_of(older, cosigned=cosigned_now()))))
    assert (await desk.verify()).exit_code == 0
    desk.proof.write_bytes(newer)
    monitor = ScriptedMonitor(follows(grown()))
    async with serving(monitor) as address:
        done = await desk.verify("--json", "--monitor", address)
    assert done.exit_code == 0
    assert '"linked": true' in done.stdout
    assert [sorted(request.sizes) for request in monitor.requests] == [[SIZE - 5, SIZE]]
    assert monitor.requests[0].vkey == format_vkey(LOG_KEY)


async def test_a_remembered_head_that_is_no_prefix_is_caught_by_a_monitor(desk: Desk, ask: Ask) -> None:
    older = Tree(LEAF if index == INDEX else b"other %d" % index for index in range(SIZE - 5))
    newer = desk.proof.read_bytes()
    desk.proof.write_bytes(format_proof(proof_of(tree=older, checkpoint=head_of(older, cosigned=cosigned_now()))))
    assert (await desk.verify()).exit_code == 0
    desk.proof.write_bytes(newer)
    code, line = await ask((follows(grown()),))
    assert (code, line.split()[:2]) == (4, ["log", "misbehaved"])
    verify_evidence(parse_evidence(kept_evidence(line)), key=LOG_KEY)


async def test_a_tampered_file_is_refused_without_asking_anyone(desk: Desk) -> None:
    desk.artifact.write_bytes(b"tampered")
    monitor = ScriptedMonitor(follows(grown()))
    async with serving(monitor) as address:
        done = await desk.verify("--monitor", address)
    assert done.exit_code == 1
    assert monitor.requests == []


async def test_several_files_are_asked_about_over_one_connection(desk: Desk) -> None:
    monitor = ScriptedMonitor(follows(grown()))
    async with serving(monitor) as address:
        done = await desk.verify("--monitor", address, files=(desk.artifact, desk.artifact))
    assert (done.exit_code, done.stdout.count("verified ")) == (0, 2)
    assert len(monitor.requests) == 2
