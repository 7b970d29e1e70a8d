"""Publication of a real log with real witness processes: the quorum decides, and everybody is told how it stands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from tests.processes import LogProcess, create_log
from tests.witnesses import WitnessProcess
from treehead.checkpoint import open_checkpoint
from treehead.cosignature import verify_cosignature
from treehead.keys import VerifierKey, parse_vkey
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.note import Note, parse_note
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS

ORIGIN = "log.example/published"
DEADLINE_SECONDS = 40


@dataclass(slots=True, kw_only=True)
class Published:
    """A log as a process, with the witnesses that it asks."""

    vkey: VerifierKey
    process: LogProcess
    witnesses: Sequence[WitnessProcess]
    http: httpx.AsyncClient

    async def add(self, leaf: bytes, *, witnessed: bool = True) -> log_pb2.AddEntryResponse:
        wait = log_pb2.WAIT_WITNESSED if witnessed else log_pb2.WAIT_INTEGRATED
        async with grpc.aio.insecure_channel(self.process.address, options=CHANNEL_OPTIONS) as channel:
            return await LogStub(channel).AddEntry(
                log_pb2.AddEntryRequest(leaf=leaf, wait=wait), timeout=DEADLINE_SECONDS
            )

    async def info(self) -> log_pb2.Witnessing:
        async with grpc.aio.insecure_channel(self.process.address, options=CHANNEL_OPTIONS) as channel:
            answer = await LogStub(channel).GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=DEADLINE_SECONDS)
            return answer.witnessing

    async def checkpoint(self) -> Note:
        response = await self.http.get(f"{self.process.http}/checkpoint")
        return parse_note(response.content)

    async def becomes(self, text: str) -> None:
        """Returns when the metrics have this line."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while text not in await self._metrics():  # noqa: ASYNC110 -- of another process, which is asked
                await asyncio.sleep(0.01)

    async def counts(self, series: str) -> None:
        """Returns when this series of the metrics is no longer 0."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while f"{series} 0.0" in await self._metrics():  # noqa: ASYNC110 -- of another process, which is asked
                await asyncio.sleep(0.01)

    async def _metrics(self) -> Sequence[str]:
        return (await self.http.get(f"{self.process.http}/metrics")).text.splitlines()

    def cosigners(self, note: Note) -> list[str]:
        """Whose cosignatures verify; none that is there does not."""
        there = [witness for witness in self.witnesses if note.by(witness.vkey) is not None]
        for witness in there:
            verify_cosignature(note, key=witness.vkey)
        return [witness.name for witness in there]


@contextlib.asynccontextmanager
async def published(
    folder: Path,
    *,
    quorum: str,
    fail: str = "closed",
    misbehave: Sequence[str] = ("", "", ""),
    config: str = "",
) -> AsyncIterator[Published]:
    vkey = parse_vkey(await create_log(folder / "log", origin=ORIGIN))
    async with contextlib.AsyncExitStack() as stack:
        witnesses = [
            await stack.enter_async_context(
                WitnessProcess(f"w{number}", log=vkey, key_seed=number, misbehave=misbehaviour)
            )
            for number, misbehaviour in enumerate(misbehave, 1)
        ]
        lines = [witness.policy_line for witness in witnesses]
        names = " ".join(witness.name for witness in witnesses)
        (folder / "policy").write_text(
            "\n".join([*lines, f"group all-of-them {quorum} {names}", "quorum all-of-them\n"])
        )
        (folder / "log" / "log.toml").write_text(
            f'[witnesses]\npolicy = "../policy"\nfail = "{fail}"\n[publication]\ninterval_ms = 100\n{config}'
        )
        process = LogProcess(folder / "log", "--kind", "opaque")
        await stack.enter_async_context(process)
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=DEADLINE_SECONDS))
        yield Published(vkey=vkey, process=process, witnesses=witnesses, http=http)


async def test_a_witnessed_proof_leads_to_a_checkpoint_with_the_cosignatures(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="all") as log:
        for number in range(3):
            leaf = b"entry %d" % number
            proof = (await log.add(leaf)).proof
            note = parse_note(proof.checkpoint)
            checkpoint = open_checkpoint(proof.checkpoint, key=log.vkey)
            verify_inclusion(
                index=number,
                size=checkpoint.size,
                leaf_hash=hash_leaf(leaf),
                proof=proof.hashes,
                root=checkpoint.root,
            )
            assert log.cosigners(note) == ["w1", "w2", "w3"]
        assert log.cosigners(await log.checkpoint()) == ["w1", "w2", "w3"]
        state = await log.info()
        assert (state.quorum_met, state.problem, state.published_size) == (True, "", 3)
        assert [(witness.name, witness.cosigned_size, witness.problem) for witness in state.witnesses] == [
            ("w1", 3, ""),
            ("w2", 3, ""),
            ("w3", 3, ""),
        ]


async def test_an_integrated_proof_waits_for_no_witness(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="all", misbehave=["hang", "hang", "hang"]) as log:
        proof = (await log.add(b"entry", witnessed=False)).proof
        assert open_checkpoint(proof.checkpoint, key=log.vkey).size == 1


async def test_two_of_three_publish_when_one_is_stopped(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="2") as log:
        await log.add(b"before")
        await log.witnesses[1].stop()
        for number in range(3):
            note = parse_note((await log.add(b"after %d" % number)).proof.checkpoint)
            assert log.cosigners(note) == ["w1", "w3"]
        state = await log.info()
        assert (state.quorum_met, state.problem) == (True, "")
        assert "w2" in state.witnesses[1].problem
        await log.becomes('treehead_log_witness_failing{witness="w2"} 1.0')
        await log.witnesses[1].start()
        async with asyncio.timeout(DEADLINE_SECONDS):
            number = 0
            while "w2" not in log.cosigners(parse_note((await log.add(b"again %d" % number)).proof.checkpoint)):
                number += 1


async def test_three_of_three_fail_closed_when_one_is_stopped_and_say_so(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="all") as log:
        before = (await log.add(b"before")).proof.checkpoint
        await log.witnesses[2].stop()
        logged = (await log.add(b"during", witnessed=False)).proof
        assert open_checkpoint(logged.checkpoint, key=log.vkey).size == 2
        await log.counts('treehead_log_publications_total{outcome="withheld"}')
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await log.add(b"during")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for words in ("entry 1 is logged and not witnessed yet", "not published", "w3", "try again"):
            assert words in (caught.value.details() or "")
        assert (await log.checkpoint()).text == parse_note(before).text
        state = await log.info()
        assert (state.fail_open, state.published_size) == (False, 1)
        assert "w3" in state.problem
        await log.process.says("w3")
        await log.witnesses[2].start()
        assert log.cosigners(parse_note((await log.add(b"during")).proof.checkpoint)) == ["w1", "w2", "w3"]
        assert (await log.info()).problem == ""


async def test_a_log_that_fails_open_publishes_without_the_quorum_and_says_so(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="all", fail="open") as log:
        await log.witnesses[0].stop()
        note = parse_note((await log.add(b"during")).proof.checkpoint)
        assert log.cosigners(note) == ["w2", "w3"]
        state = await log.info()
        assert (state.fail_open, state.quorum_met) == (True, False)
        assert "w1" in state.problem
        await log.becomes("treehead_log_quorum_met 0.0")
        await log.witnesses[0].start()
        await log.becomes("treehead_log_quorum_met 1.0")
        assert log.cosigners(await log.checkpoint()) == ["w1", "w2", "w3"]


async def test_a_witness_that_hangs_delays_nobody_for_long(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="2", misbehave=["hang", "", ""]) as log:
        began = asyncio.get_running_loop().time()
        for number in range(5):
            await log.add(b"entry %d" % number)
        # Each round would take the witness's two seconds, if it were waited for.
        assert asyncio.get_running_loop().time() - began < 8


@pytest.mark.parametrize(
    ("misbehaviour", "words"),
    [("larger", "the log was rolled back"), ("same-size", "though it was asked to go on from the size")],
)
async def test_a_witness_that_contradicts_the_log_is_an_alarm(tmp_path: Path, misbehaviour: str, words: str) -> None:
    async with published(tmp_path, quorum="2", misbehave=["", misbehaviour, ""]) as log:
        note = parse_note((await log.add(b"entry")).proof.checkpoint)
        assert log.cosigners(note) == ["w1", "w3"]
        await log.becomes('treehead_log_witness_alarm{witness="w2"} 1.0')
        alarm = (await log.info()).witnesses[1].alarm
        assert any(word in alarm for word in words.split("|")), alarm
        await log.process.says('"level": "ERROR"')


async def test_after_a_restart_the_log_shows_what_it_had_published(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="all") as log:
        await log.add(b"entry")
        before = await log.checkpoint()
        await log.process.stop()
        for witness in log.witnesses:
            await witness.stop()
        await log.process.start()
        assert await log.checkpoint() == before
        await log.add(b"another", witnessed=False)
        for witness in log.witnesses:
            await witness.start()
        after = parse_note((await log.add(b"another")).proof.checkpoint)
        assert log.cosigners(after) == ["w1", "w2", "w3"]


async def test_nothing_is_shown_before_the_first_quorum(tmp_path: Path) -> None:
    async with published(tmp_path, quorum="all", misbehave=["", "refuse", ""]) as log:
        response = await log.http.get(f"{log.process.http}/checkpoint")
        assert response.status_code == 503
        assert "not published a checkpoint yet" in response.text
        assert (await log.add(b"entry", witnessed=False)).proof.leaf_index == 0
