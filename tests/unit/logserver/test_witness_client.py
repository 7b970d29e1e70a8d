"""One witness as the log sees it: what counts as its cosignature, what is a problem, and what an alarm."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.unit.library.specimens import NOW, OTHER_LOG_KEY
from tests.unit.logserver.witnesses import (
    TIMEOUT_MS,
    Clock,
    Desk,
    GrowingLog,
    SystemTls,
    client_of,
    desk,
    policy_witness,
    stand_in,
)
from tests.witness_server import WitnessServer
from treehead.cosignature import verify_cosignature
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.note import Note, parse_note
from treehead.policy import Witness
from treehead.tls import ClientTls
from treehead.witness import parse_add_checkpoint
from treehead_logserver.witness.answer import CLOCK_AHEAD_S_MAX
from treehead_logserver.witness.client import TELL_EVERY_S, WitnessClient
from treehead_logserver.witness.exchange import ANSWER_BYTES_MAX, witness_transport

# --- cosignatures ----------------------------------------------------------------------------------------------------


async def test_a_checkpoint_is_cosigned_and_the_line_verifies() -> None:
    async with desk() as at:
        note = at.log.note()
        line = await at.client.cosign(note, size=7, prove=at.log.prove)
        assert line is not None
        signed = Note(text=note.text, signatures=(*note.signatures, line))
        assert verify_cosignature(signed, key=at.server.witness.vkey) == NOW
        state = at.client.state
    assert (state.name, state.vkey, state.url) == ("w1", at.server.witness.vkey, at.server.url)
    assert (state.cosigned_size, state.cosigned_at, state.problem, state.alarm) == (7, NOW, "", "")


async def test_the_witness_is_sent_the_note_as_it_is_and_a_proof_from_what_it_cosigned_last() -> None:
    async with desk() as at:
        for growth in (0, 0, 1, 5, 300):
            at.log.grow(growth)
            assert await at.cosign()
            sent = parse_add_checkpoint(at.server.requests[-1].body)
            assert parse_note(sent.checkpoint) == at.log.note()
            assert at.held.size == at.log.size
        assert at.old_sizes() == [0, 7, 7, 8, 13]


async def test_an_empty_log_is_cosigned() -> None:
    async with desk(size=0) as at:
        assert await at.cosign()
        assert await at.cosign()
        assert at.client.state.cosigned_at == NOW


async def test_one_connection_serves_request_after_request() -> None:
    async with desk() as at:
        for _ in range(3):
            assert await at.cosign()
        assert at.server.connections == 1


async def test_a_witness_that_holds_more_than_is_known_says_so_and_is_asked_once_more() -> None:
    async with desk() as at:
        assert await at.cosign()
        at.log.grow(4)
        at.client = at.another_client()
        assert await at.cosign()
        assert at.old_sizes() == [0, 0, 7]


async def test_a_witness_that_has_forgotten_is_asked_once_more() -> None:
    async with desk() as at:
        assert await at.cosign()
        at.server.witness = stand_in(at.clock)
        assert await at.cosign()
        assert at.old_sizes() == [0, 7, 0]


async def test_what_the_published_checkpoint_shows_saves_a_request() -> None:
    async with desk() as at:
        note = at.log.note()
        line = await at.client.cosign(note, size=7, prove=at.log.prove)
        assert line is not None
        at.log.grow(4)
        at.client = at.another_client(published=replace(note, signatures=(*note.signatures, line)))
        assert (at.client.state.cosigned_size, at.client.state.cosigned_at) == (7, NOW)
        assert await at.cosign()
        assert at.old_sizes() == [0, 7]


async def test_a_published_checkpoint_with_a_forged_cosignature_shows_nothing() -> None:
    async with desk() as at:
        published = at.log.note()
        line = at.server.witness.cosign(at.log.note(6))
        at.client = at.another_client(published=replace(published, signatures=(*published.signatures, line)))
        assert at.client.state.cosigned_size == 0
        assert await at.cosign()


async def test_after_an_answer_that_was_lost_the_next_request_goes_on_from_what_the_witness_holds() -> None:
    async with desk(misbehave="lost") as at:
        assert not await at.cosign()
        assert "there is no answer" in at.client.state.problem
        assert (at.held.size, at.client.state.cosigned_size) == (7, 0)
        at.server.misbehave = ""
        at.log.grow(2)
        assert await at.cosign()
        assert at.old_sizes() == [0, 0, 7]
        assert at.client.state.problem == ""


async def test_an_older_checkpoint_than_the_last_one_cosigned_is_not_proven_backwards() -> None:
    async with desk() as at:
        assert await at.cosign()
        assert not await at.cosign(size=5)
        assert at.old_sizes() == [0, 5]
        assert "newer checkpoint" in at.client.state.problem
        assert at.client.state.alarm == ""


async def test_a_time_a_day_ahead_is_taken_and_one_beyond_is_not() -> None:
    async with desk() as at:
        at.server.witness.now = lambda: NOW + CLOCK_AHEAD_S_MAX
        assert await at.cosign()
        at.server.witness.now = lambda: NOW + CLOCK_AHEAD_S_MAX + 1
        assert not await at.cosign()
        assert f"POSIX time {NOW + CLOCK_AHEAD_S_MAX + 1}" in at.client.state.problem
        at.server.witness.now = lambda: 1
        assert await at.cosign()
        assert at.client.state.cosigned_at == 1


# --- alarms ----------------------------------------------------------------------------------------------------------


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the journal heard since this was asked last."""
    messages = [record.getMessage() for record in caplog.records if record.name.endswith("witness.client")]
    caplog.clear()
    return messages


async def rolled_back(at: Desk) -> None:
    """Have the witness hold a larger checkpoint than the log has; it is one of this very log."""
    at.log.grow(20)
    assert await at.cosign()
    at.log = GrowingLog(9)
    at.client = at.another_client()


async def forked(at: Desk, size: int) -> None:
    """Have the witness hold a checkpoint of another tree, signed by the log."""
    at.log = GrowingLog(size, salt="fork")
    assert await at.cosign()
    at.log = GrowingLog(9)
    at.client = at.another_client()


async def test_a_witness_that_holds_more_than_the_log_has_is_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    async with desk() as at:
        await rolled_back(at)
        assert not await at.cosign()
        assert "of size 27, and the log has 9 entries" in at.client.state.alarm
        assert at.client.state.problem == at.client.state.alarm
        assert alarms(caplog) == [at.client.state.alarm]
        assert at.old_sizes() == [0, 0]


async def test_a_witness_that_holds_more_than_it_is_asked_for_is_none_while_the_log_has_it() -> None:
    async with desk(size=12) as at:
        assert await at.cosign()
        at.client = at.another_client()
        assert not await at.cosign(size=7)
        assert "holds a newer checkpoint of this log already, of size 12" in at.client.state.problem
        assert at.client.state.alarm == ""
        assert await at.cosign()


async def test_a_witness_that_holds_another_prefix_is_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    async with desk() as at:
        await forked(at, 5)
        assert not await at.cosign()
        assert "tree of size 9 does not go on from the one of size 5" in at.client.state.alarm
        assert alarms(caplog) == [at.client.state.alarm]


async def test_a_witness_that_holds_another_root_at_this_size_is_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    async with desk() as at:
        await forked(at, 9)
        assert not await at.cosign()
        assert "tree of size 9 is another than its own" in at.client.state.alarm
        assert alarms(caplog) == [at.client.state.alarm]


async def test_a_witness_that_names_the_size_it_was_just_sent_is_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(misbehave="same-size") as at:
        assert not await at.cosign()
        assert at.old_sizes() == [0]
        assert "refuses the checkpoint of size 7" in at.client.state.alarm
        assert alarms(caplog) == [at.client.state.alarm]


async def test_it_is_an_alarm_in_the_second_answer_as_well() -> None:
    async with desk() as at:
        assert await at.cosign()
        at.client = at.another_client()

        async def honest_at_first(witness: object, body: bytes) -> object:
            at.server.misbehave = "same-size"
            return at.server.witness.answer(body)

        at.server.misbehave = honest_at_first  # type: ignore[assignment]
        assert not await at.cosign()
        assert at.old_sizes() == [0, 0, 7]
        assert "refuses the checkpoint of size 7" in at.client.state.alarm


async def test_a_witness_that_claims_a_larger_checkpoint_is_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(misbehave="larger") as at:
        assert not await at.cosign()
        assert "of size 1007, and the log has 7 entries" in at.client.state.alarm
        assert alarms(caplog) == [at.client.state.alarm]


async def test_an_alarm_is_raised_once_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(misbehave="larger") as at:
        assert not await at.cosign()
        first = at.client.state.alarm
        for _ in range(3):
            at.log.grow(1)
            assert not await at.cosign()
        at.server.misbehave = "same-size"
        assert not await at.cosign()
        assert at.client.state.problem != first
        at.server.misbehave = ""
        assert await at.cosign()
        assert (at.client.state.problem, at.client.state.alarm) == ("", first)
        assert alarms(caplog) == [first]


async def test_an_alarm_is_not_told_again_as_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with desk(misbehave="larger") as at:
        for _ in range(3):
            assert not await at.cosign()
            at.clock.at += TELL_EVERY_S
        assert told(caplog) == [at.client.state.alarm]


# --- problems --------------------------------------------------------------------------------------------------------


async def check_problem(at: Desk, problem: str, *, requests: Sequence[int] = (0,)) -> None:
    """The witness does not cosign, and says so in these words; nothing is believed, and it is asked again."""
    assert not await at.cosign()
    state = at.client.state
    assert state.problem.startswith("witness w1 ")
    assert problem in state.problem
    assert "\x1b" not in state.problem
    assert (state.alarm, state.cosigned_size, state.cosigned_at) == ("", 0, 0)
    assert at.old_sizes() == list(requests)
    at.server.misbehave = ""
    assert await at.cosign()
    assert at.client.state.problem == ""


@pytest.mark.parametrize(
    ("misbehave", "problem"),
    [
        ("garbage", "answers with no cosignature that counts: answer does not consist of signature lines"),
        ("silent", "answers with no cosignature that counts: answer does not consist of signature lines"),
        ("wrong-key", "answers with no cosignature that counts: note is not cosigned by w1.example"),
        ("forged", "a cosignature by w1.example that does not verify"),
        ("undated", "cosignature by w1.example has no time"),
        ("future", f"of the POSIX time {NOW + 2 * 86_400}, which has not come"),
        ("compressed", "the answer is encoded (gzip), although this was not asked for"),
        ("huge", f"the answer is larger than {ANSWER_BYTES_MAX} bytes"),
        ("huge-head", "there is no answer"),
        ("redirect", "answers 307: it redirects elsewhere, which is not followed"),
        ("leading-zero", "answers 409, but the size that the witness holds has leading zeros"),
        ("refuse:409", "answers 409 without a size (text/plain; charset=utf-8)"),
        ("refuse:400", r"answers 400 (it says: for a reason\x1b[31m): it takes the request for malformed"),
        ("refuse:403", "it does not know this log, or not the key that signs its checkpoints"),
        ("refuse:404", "it does not know this log, or is not at this URL"),
        ("refuse:429", "it has been asked too often"),
        ("refuse:503", "it is overloaded"),
        ("refuse:500", "answers 500 (it says: "),
        ("refuse:201", "answers 201 (it says: "),
    ],
)
async def test_what_is_no_cosignature_is_a_problem(misbehave: str, problem: str) -> None:
    async with desk(misbehave=misbehave) as at:
        await check_problem(at, problem)


async def test_a_size_with_another_content_type_is_not_read() -> None:
    async with desk() as at:
        assert await at.cosign()
        at.client = at.another_client()
        at.old_sizes()
        at.server.misbehave = "parameter"
        await check_problem(at, "answers 409 without a size (text/x.tlog.size; charset=utf-8)")


async def test_a_witness_that_names_ever_other_sizes_is_asked_twice() -> None:
    async with desk(misbehave="other-size") as at:
        await check_problem(at, "names another size each time", requests=(0, 1))


@pytest.mark.parametrize("misbehave", ["compressed", "huge", "hang", "drip"])
async def test_an_answer_that_is_not_read_to_its_end_ends_its_connection(misbehave: str) -> None:
    async with desk(misbehave=misbehave, timeout_ms=50 if misbehave in ("hang", "drip") else TIMEOUT_MS) as at:
        assert not await at.cosign()
        assert at.transport._pool.connections == []  # type: ignore[attr-defined]


async def test_a_redirect_is_not_followed() -> None:
    async with desk(misbehave="redirect") as at:
        assert not await at.cosign()
        assert [request.target for request in at.server.requests] == ["/add-checkpoint"]
        assert at.held.size == 0


@pytest.mark.parametrize("misbehave", ["hang", "drip"])
async def test_a_witness_that_comes_to_no_end_has_a_deadline(misbehave: str) -> None:
    async with desk(misbehave=misbehave, timeout_ms=50) as at:
        assert not await at.cosign()
        assert at.client.state.problem == "witness w1 has not cosigned within 50 ms"
        assert at.client.state.alarm == ""


async def test_an_answer_within_the_deadline_counts() -> None:
    async with desk(misbehave="slow:20") as at:
        assert await at.cosign()


async def test_a_witness_that_does_not_know_the_log_is_a_problem() -> None:
    async with desk(logs=()) as at:
        assert not await at.cosign()
        assert "answers 404 (it says: unknown log): it does not know this log" in at.client.state.problem


async def test_a_witness_that_knows_the_log_by_another_key_is_a_problem() -> None:
    async with desk(logs=(OTHER_LOG_KEY,)) as at:
        assert not await at.cosign()
        assert (
            "answers 403 (it says: not signed by a trusted key): it does not know this log, or not the key"
            in at.client.state.problem
        )


async def test_a_witness_that_is_down_is_a_problem_and_cosigns_when_it_is_back() -> None:
    async with desk() as at:
        assert await at.cosign()
        witness, port = at.server.witness, int(at.server.address.rpartition(":")[2])
        client = at.client
    async with witness_transport(SystemTls()) as transport:
        client._transport = transport
        assert await client.cosign(at.log.note(), size=7, prove=at.log.prove) is None
        assert "there is no answer" in client.state.problem
        async with WitnessServer(witness).listening(port=port):
            assert await client.cosign(at.log.note(), size=7, prove=at.log.prove) is not None
    assert client.state.problem == ""


async def test_a_proof_that_cannot_be_made_is_a_problem_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def prove(size1: int, size2: int) -> Sequence[bytes]:
        raise StorageError("tile 0/3 of /var/log.sqlite is damaged")

    async with desk() as at:
        assert await at.client.cosign(at.log.note(), size=7, prove=prove) is None
        assert at.server.requests == []
        assert at.client.state.problem == "witness w1 was not asked: the log cannot read its database"
        assert alarms(caplog) == ["there is no proof for the witness w1: tile 0/3 of /var/log.sqlite is damaged"]


# --- the journal -----------------------------------------------------------------------------------------------------


async def test_the_journal_hears_of_a_problem_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with desk() as at:
        assert await at.cosign()
        assert told(caplog) == []
        at.server.misbehave = "refuse:503"
        for _ in range(5):
            assert not await at.cosign()
            at.clock.at += TELL_EVERY_S
        assert told(caplog) == [at.client.state.problem]
        at.server.misbehave = ""
        assert await at.cosign()
        assert told(caplog) == ["witness w1 cosigns again"]


async def test_the_journal_hears_of_another_problem(caplog: pytest.LogCaptureFixture) -> None:
    async with desk(misbehave="refuse:503") as at:
        assert not await at.cosign()
        at.clock.at += TELL_EVERY_S
        at.server.misbehave = "refuse:404"
        assert not await at.cosign()
        assert ["answers 503" in message for message in told(caplog)] == [True, False]


async def test_a_witness_that_comes_and_goes_does_not_fill_the_journal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with desk() as at:
        for misbehave in ("refuse:503", "", "garbage", "", "refuse:404", ""):
            at.server.misbehave = misbehave
            await at.cosign()
        assert [("answers 503" in message) for message in told(caplog)] == [True]
        at.clock.at += TELL_EVERY_S
        assert await at.cosign()
        assert told(caplog) == ["witness w1 cosigns again"]


async def test_the_library_beneath_tells_the_journal_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with desk() as at:
        assert await at.cosign()
    assert caplog.records == []


# --- the way there ---------------------------------------------------------------------------------------------------

SOMEBODY = stand_in(Clock()).vkey


def client_at(url: bytes | None, *, key: VerifierKey = SOMEBODY) -> WitnessClient:
    return WitnessClient(
        Witness(name=b"w\xff1", key=key, url=url),
        transport=witness_transport(SystemTls()),
        timeout_ms=1_000,
        log_size=lambda: 0,
        now=Clock(),
    )


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        (b"https://w1.example", "https://w1.example"),
        (b"https://w1.example/", "https://w1.example"),
        (b"http://127.0.0.1:8080/a/b/", "http://127.0.0.1:8080/a/b"),
        (b"http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_url_is_a_prefix_with_or_without_a_final_slash(url: bytes, prefix: str) -> None:
    assert client_at(url).state.url == prefix


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(None, id="none"),
        pytest.param(b"w1.example", id="no_scheme"),
        pytest.param(b"w1.example:443", id="host_and_port"),
        pytest.param(b"ftp://w1.example", id="ftp"),
        pytest.param(b"unix:///run/witness", id="unix"),
        pytest.param(b"https://", id="no_host"),
        pytest.param(b"https:///path", id="empty_host"),
        pytest.param(b"https://w1.example:port", id="port_that_is_no_number"),
        pytest.param(b"https://w1.example:70000", id="port_out_of_range"),
        pytest.param(b"https://w1.example:0", id="port_zero"),
        pytest.param(b"https://[::1", id="bracket"),
        pytest.param(b"https://1.2.3.400", id="address"),
        pytest.param(b"https://w1..example", id="empty_label"),
        pytest.param(b"https://" + b"w" * 64 + b".example", id="long_label"),
        pytest.param(b"https://w1.example" + b"/x" * 40_000, id="long"),
        pytest.param(b"https://user@w1.example", id="user"),
        pytest.param(b"https://@w1.example", id="empty_user"),
        pytest.param(b"https://w1.example/?a=b", id="query"),
        pytest.param(b"https://w1.example/?", id="empty_query"),
        pytest.param(b"https://w1.example/#a", id="fragment"),
        pytest.param("https://wé.example".encode(), id="no_ascii"),
        pytest.param(b"https://w\xff.example", id="no_text"),
    ],
)
def test_a_witness_that_cannot_be_asked_is_no_witness_of_a_log(url: bytes | None) -> None:
    with pytest.raises(UsageError, match=r"witness w\\xff1 of the policy"):
        client_at(url)


def test_a_witness_whose_cosignatures_cannot_be_verified_is_no_witness_of_a_log() -> None:
    key = VerifierKey(name="w1.example", key_type=NoteKeyType.COSIGNATURE_MLDSA44, public_key=bytes(1312))
    with pytest.raises(UsageError, match="0x06, whose cosignatures cannot be verified here"):
        client_at(b"https://w1.example", key=key)


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with desk() as at:
        assert await at.cosign()


async def test_tls_counts_only_with_a_certificate_of_a_trusted_authority(tmp_path: Path) -> None:
    authority = Authority()
    files = authority.server(tmp_path / "witness")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    trusting = ClientTls(ca=authority.file(tmp_path / "ca.pem"))
    clock, log = Clock(), GrowingLog(7)
    async with WitnessServer(stand_in(clock)).listening(tls=context) as server:
        assert policy_witness(server).url == server.url.encode()
        assert server.url.startswith("https://")
        for tls, problem in ((SystemTls(), "CERTIFICATE_VERIFY_FAILED"), (trusting, "")):
            async with witness_transport(tls) as transport:
                client = client_of(server, log=log, transport=transport, clock=clock)
                line = await client.cosign(log.note(), size=7, prove=log.prove)
                assert (line is None) == bool(problem)
                assert problem in client.state.problem
