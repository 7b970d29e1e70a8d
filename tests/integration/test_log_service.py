"""Every call of treehead.v1.Log through real gRPC: what it promises, every proof verified, and how it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    PUBLISHER,
    STRANGER,
    attestation_leaf,
    digests,
    hashedrekord_leaf,
    release,
)
from treehead import server
from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.encoding import format_canonical_json
from treehead.keys import VerifierKey, parse_vkey
from treehead.merkle import hash_leaf, root_from_inclusion, verify_consistency, verify_inclusion
from treehead.server import HEALTH_WATCHERS_MAX, REFLECTIONS_MAX
from treehead.statement import STATEMENT_TYPE, format_release_statement
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS, CONNECTIONS_MAX, SERVER_OPTIONS
from treehead_logserver import checker
from treehead_logserver.app import running_log
from treehead_logserver.config import Limits, ServeConfig
from treehead_logserver.datadir import DataDirectory, create_log

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import LogAsyncStub

_T = TypeVar("_T")

DEADLINE_SECONDS = 30
UINT64_MAX = 2**64 - 1
LIMITS = Limits(
    batch_entries_max=300,
    find_entries_max=5,
    chunk_entries_max=7,
    chunk_bytes_max=2_000,
    watchers_max=3,
    publish_ms=10,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A log that runs in this process, and a client of it."""

    address: str
    vkey: VerifierKey
    channel: grpc.aio.Channel
    stub: LogAsyncStub

    async def add(self, leaf: bytes, *, witnessed: bool = False) -> log_pb2.AddEntryResponse:
        wait = log_pb2.WAIT_WITNESSED if witnessed else log_pb2.WAIT_INTEGRATED
        return await self.stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf, wait=wait), timeout=DEADLINE_SECONDS)

    async def add_all(self, *leaves: bytes, witnessed: bool = False) -> log_pb2.AddEntriesResponse:
        wait = log_pb2.WAIT_WITNESSED if witnessed else log_pb2.WAIT_INTEGRATED
        request = log_pb2.AddEntriesRequest(leaves=leaves, wait=wait)
        return await self.stub.AddEntries(request, timeout=DEADLINE_SECONDS)

    async def published(self, leaf: bytes) -> Checkpoint:
        """The published checkpoint, once that holds a leaf which is in the log."""
        await self.add(leaf, witnessed=True)
        return await self.head()

    async def holds_nothing(self) -> bool:
        """Whether an entry that is added now is the first."""
        return (await self.add(leaves_of(1, tag="the first")[0])).proof.leaf_index == 0

    async def head(self) -> Checkpoint:
        response = await self.stub.GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=DEADLINE_SECONDS)
        return self.open(response.checkpoint)

    def open(self, checkpoint: bytes) -> Checkpoint:
        return open_checkpoint(checkpoint, key=self.vkey)

    async def inclusion(self, **fields: int | bytes) -> log_pb2.GetInclusionProofResponse:
        request = log_pb2.GetInclusionProofRequest(**fields)  # type: ignore[arg-type]
        return await self.stub.GetInclusionProof(request, timeout=DEADLINE_SECONDS)

    async def consistency(self, first_size: int, second_size: int) -> Sequence[bytes]:
        request = log_pb2.GetConsistencyProofRequest(first_size=first_size, second_size=second_size)
        return (await self.stub.GetConsistencyProof(request, timeout=DEADLINE_SECONDS)).hashes

    async def entries(self, first_index: int, end_index: int | None = None) -> list[log_pb2.GetEntriesResponse]:
        request = log_pb2.GetEntriesRequest(first_index=first_index, end_index=end_index)
        return [message async for message in self.stub.GetEntries(request, timeout=DEADLINE_SECONDS)]

    async def find(self, algorithm: str, digest: bytes, first_index: int = 0) -> log_pb2.FindEntriesResponse:
        return await self.ask(digest=log_pb2.Digest(algorithm=algorithm, value=digest), first_index=first_index)

    async def ask(self, **query: Any) -> log_pb2.FindEntriesResponse:
        return await self.stub.FindEntries(log_pb2.FindEntriesRequest(**query), timeout=DEADLINE_SECONDS)


@contextlib.asynccontextmanager
async def started(folder: Path, limits: Limits = LIMITS) -> AsyncIterator[Log]:
    """A new log in a folder."""
    create_log(DataDirectory(path=folder), origin="log.example/service", passphrase=None)
    async with serving(folder, limits) as log:
        yield log


@contextlib.asynccontextmanager
async def serving(folder: Path, limits: Limits = LIMITS) -> AsyncIterator[Log]:
    """The log in a folder, served."""
    async with (
        running_log(ServeConfig(data=folder, grpc="127.0.0.1:0", http="127.0.0.1:0", limits=limits)) as running,
        grpc.aio.insecure_channel(running.grpc, options=CHANNEL_OPTIONS) as channel,
    ):
        yield Log(address=running.grpc, vkey=running.vkey, channel=channel, stub=LogStub(channel))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    async with started(tmp_path / "log") as log:
        yield log


def leaves_of(count: int, *, tag: str = "content") -> list[bytes]:
    """Signed entries that differ."""
    return [hashedrekord_leaf(b"%s %d" % (tag.encode(), number)) for number in range(count)]


FILLED = leaves_of(600)


@pytest.fixture(scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    """A log of 600 entries, which no test adds to."""
    async with started(tmp_path_factory.mktemp("filled") / "log") as log:
        await log.add_all(*FILLED[:300])
        await log.add_all(*FILLED[300:], witnessed=True)
        yield log


@contextlib.asynccontextmanager
async def refused(code: grpc.StatusCode, *names: str) -> AsyncIterator[grpc.aio.AioRpcError]:
    """The call ends with a status whose one line names these, and has no more of our insides than that."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield  # type: ignore[misc]
    details = caught.value.details() or ""
    assert caught.value.code() is code, details
    assert all(name in details for name in names), details
    assert "\n" not in details
    assert "Traceback" not in details


async def as_soon_as_there_is_room(call: Callable[[], Awaitable[_T]]) -> _T:
    """What the call returns, once the log has learnt that others are gone, which it does in its own time."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise


# --- adding ----------------------------------------------------------------------------------------------------------


async def test_an_added_entry_is_proven_to_be_in_a_signed_tree(log: Log) -> None:
    for index, leaf in enumerate([attestation_leaf(), *leaves_of(5)]):
        response = await log.add(leaf)
        assert not response.duplicate
        assert response.proof.leaf_index == index
        checkpoint = log.open(response.proof.checkpoint)
        assert checkpoint.size > index
        verify_inclusion(
            index=index,
            size=checkpoint.size,
            leaf_hash=hash_leaf(leaf),
            proof=response.proof.hashes,
            root=checkpoint.root,
        )


async def test_an_entry_again_gets_its_first_index_and_a_current_proof(log: Log) -> None:
    first, *more = leaves_of(40)
    await log.add(first)
    await log.add_all(*more)
    response = await log.add(first)
    assert response.duplicate
    assert response.proof.leaf_index == 0
    checkpoint = log.open(response.proof.checkpoint)
    assert checkpoint == await log.published(more[-1])
    assert checkpoint.size == 40
    verify_inclusion(index=0, size=40, leaf_hash=hash_leaf(first), proof=response.proof.hashes, root=checkpoint.root)


async def test_one_entry_from_many_submitters_at_once_is_logged_once(log: Log) -> None:
    responses = await asyncio.gather(*(log.add(attestation_leaf()) for _ in range(20)))
    assert {response.proof.leaf_index for response in responses} == {0}
    assert [response.duplicate for response in responses].count(False) == 1
    assert (await log.published(attestation_leaf())).size == 1


async def test_each_item_of_a_batch_has_a_result_of_its_own(log: Log) -> None:
    good = leaves_of(4)
    response = await log.add_all(good[0], b"not an entry", good[1], good[0], b"", good[2], b"x" * 65_536, good[3])
    outcomes = [
        (result.added.leaf_index, result.added.duplicate) if result.HasField("added") else result.refused.reason
        for result in response.results
    ]
    assert [outcome for outcome in outcomes if isinstance(outcome, tuple)] == [
        (0, False), (1, False), (0, True), (2, False), (3, False)
    ]  # fmt: skip
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)] == [1, 4, 6]
    assert "65535" in str(outcomes[6])
    assert log.open(response.checkpoint).size == 4
    (message,) = await log.entries(0)
    assert list(message.leaves) == good


async def test_a_batch_of_nothing_has_no_results(log: Log) -> None:
    response = await log.add_all()
    assert list(response.results) == []
    assert log.open(response.checkpoint).size == 0


async def test_a_batch_says_for_a_bad_item_what_add_entry_says(log: Log) -> None:
    for leaf in (b"", b"{}", attestation_leaf() + b" ", b"x" * 65_536):
        (result,) = (await log.add_all(leaf)).results
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, result.refused.reason):
            await log.add(leaf)


async def test_a_batch_that_is_too_long_is_refused_with_the_limit(log: Log) -> None:
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "field leaves", "301", "300"):
        await log.add_all(*[b"x"] * 301)
    assert await log.holds_nothing()


FORGED = attestation_leaf().replace(b'"sig":"', b'"sig":"AAAA', 1)


@pytest.mark.parametrize(
    ("leaf", "names"),
    [
        pytest.param(b"", ["leaf"], id="empty"),
        pytest.param(b"\xff\xfe", ["leaf", "UTF-8"], id="not_text"),
        pytest.param(b"[]", ["leaf", "not a JSON object"], id="not_an_object"),
        pytest.param(b"[" * 60_000, ["leaf"], id="nested"),
        pytest.param(b"x" * 65_536, ["leaf", "65535"], id="too_large"),
        pytest.param(attestation_leaf() + b"\n", ["leaf", "canonical"], id="not_canonical"),
        pytest.param(b'{"apiVersion":"9","kind":"attestation","spec":{}}', ["field kind"], id="unknown_version"),
        pytest.param(FORGED, ["field spec.envelope.signatures[0].sig"], id="bad_signature"),
    ],
)
async def test_what_is_no_signed_entry_is_invalid_by_the_name_of_its_field(
    log: Log, leaf: bytes, names: list[str]
) -> None:
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, *names):
        await log.add(leaf)
    assert await log.holds_nothing()


async def test_the_largest_entry_is_not_too_large(log: Log) -> None:
    payload = format_release_statement(release(), digests=digests(CONTENT))
    padded = payload[:-1] + b" " * (45_000 - len(payload)) + payload[-1:]
    leaf = attestation_leaf(padded)
    assert 60_000 < len(leaf) <= 65_535
    assert (await log.add(leaf)).proof.leaf_index == 0


async def test_a_message_that_is_too_large_is_resource_exhausted(log: Log) -> None:
    options = [("grpc.max_send_message_length", -1)]
    request = log_pb2.AddEntryRequest(leaf=bytes(LIMITS.message_bytes_max + 1))
    async with (
        grpc.aio.insecure_channel(log.address, options=options) as channel,
        refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(LIMITS.message_bytes_max)),
    ):
        await LogStub(channel).AddEntry(request, timeout=DEADLINE_SECONDS)


def retry_delay_ms(error: grpc.aio.AioRpcError) -> int:
    """After how long the log says to come again, in both ways in which it is asked for."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    (detail,) = status.details
    info = error_details_pb2.RetryInfo()
    assert detail.Unpack(info)
    assert metadata["grpc-retry-pushback-ms"] == str(info.retry_delay.ToMilliseconds())
    return int(info.retry_delay.ToMilliseconds())


async def test_a_busy_log_says_when_to_try_again(tmp_path: Path) -> None:
    leaves = leaves_of(5)
    async with started(tmp_path / "log", Limits(queue_entries_max=4, retry_ms=250)) as log:
        with pytest.raises(grpc.aio.AioRpcError, match="busy") as caught:
            await log.add_all(*leaves)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_delay_ms(caught.value) == 250
        assert await log.holds_nothing()
        await log.add_all(*leaves[:4])


async def test_a_submitter_who_goes_away_disturbs_nobody(log: Log) -> None:
    leaves = leaves_of(60)
    calls = [asyncio.create_task(log.add(leaf)) for leaf in leaves]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in calls[::3]:
        call.cancel()
    stayed = await asyncio.gather(*(call for number, call in enumerate(calls) if number % 3))
    assert len({response.proof.leaf_index for response in stayed}) == 40
    responses = [await log.add(leaf) for leaf in leaves]
    assert sorted(response.proof.leaf_index for response in responses) == list(range(60))


# --- heads -----------------------------------------------------------------------------------------------------------


async def test_a_new_log_signs_the_empty_tree(log: Log) -> None:
    head = await log.head()
    assert (head.origin, head.size, head.root) == ("log.example/service", 0, sha256(b"").digest())


async def test_a_watcher_gets_the_newest_head_and_each_newer_one(log: Log) -> None:
    leaves = leaves_of(5)
    await log.add(leaves[0], witnessed=True)
    watch = log.stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest(), timeout=DEADLINE_SECONDS)
    messages = aiter(watch)
    assert log.open((await anext(messages)).checkpoint).size == 1
    for leaf in leaves[1:]:
        added = await log.add(leaf)
        assert (await anext(messages)).checkpoint == added.proof.checkpoint
    watch.cancel()


async def test_a_slow_watcher_gets_the_newest_and_never_an_older_one(log: Log) -> None:
    watch = log.stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest(), timeout=DEADLINE_SECONDS)
    messages = aiter(watch)
    sizes = [log.open((await anext(messages)).checkpoint).size]
    for leaf in leaves_of(30):
        await log.add(leaf)
    while sizes[-1] < 30:
        sizes.append(log.open((await anext(messages)).checkpoint).size)
    assert sizes == sorted(set(sizes))
    watch.cancel()


async def test_watchers_have_a_bound_and_make_room_when_they_go(log: Log) -> None:
    async def watch() -> grpc.aio.UnaryStreamCall[log_pb2.WatchCheckpointsRequest, log_pb2.WatchCheckpointsResponse]:
        call = log.stub.WatchCheckpoints(log_pb2.WatchCheckpointsRequest(), timeout=DEADLINE_SECONDS)
        await call.read()
        return call

    watches = [await watch() for _ in range(LIMITS.watchers_max)]
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "watch"):
        await watch()
    watches[0].cancel()
    watches[0] = await as_soon_as_there_is_room(watch)
    for call in watches:
        call.cancel()


# --- proofs ----------------------------------------------------------------------------------------------------------


async def test_every_leaf_is_proven_by_index_and_by_hash_at_any_size(filled: Log) -> None:
    rng = random.Random(1)
    head = await filled.head()
    roots = {}
    for size in (1, 2, 255, 256, 257, 512, 599, 600):
        proof = await filled.consistency(size, 600)
        # The root at an older size comes from a proof itself, for the log signs none; the newest root binds it.
        first = await filled.inclusion(leaf_index=0, tree_size=size)
        root = root_from_inclusion(index=0, size=size, leaf_hash=hash_leaf(FILLED[0]), proof=first.hashes)
        roots[size] = root
        verify_consistency(size1=size, size2=600, root1=root, root2=head.root, proof=proof)
    for size, root in roots.items():
        for index in {0, size - 1, rng.randrange(size), rng.randrange(size)}:
            by_index = await filled.inclusion(leaf_index=index, tree_size=size)
            by_hash = await filled.inclusion(leaf_hash=hash_leaf(FILLED[index]), tree_size=size)
            assert by_index == by_hash
            assert (by_index.leaf_index, by_index.tree_size) == (index, size)
            verify_inclusion(
                index=index, size=size, leaf_hash=hash_leaf(FILLED[index]), proof=by_index.hashes, root=root
            )
            assert bool(by_index.checkpoint) == (size == 600)


async def test_without_a_size_the_proof_is_in_the_newest_tree_with_its_checkpoint(filled: Log) -> None:
    response = await filled.inclusion(leaf_index=17)
    checkpoint = filled.open(response.checkpoint)
    assert response.tree_size == checkpoint.size == 600
    verify_inclusion(index=17, size=600, leaf_hash=hash_leaf(FILLED[17]), proof=response.hashes, root=checkpoint.root)


async def test_equal_sizes_and_the_empty_tree_need_no_hashes(filled: Log) -> None:
    assert list(await filled.consistency(600, 600)) == []
    assert list(await filled.consistency(0, 600)) == []
    assert list(await filled.consistency(0, 0)) == []


@pytest.mark.parametrize(
    ("fields", "code", "names"),
    [
        pytest.param({}, grpc.StatusCode.INVALID_ARGUMENT, ["field leaf"], id="no_leaf"),
        pytest.param({"tree_size": 5}, grpc.StatusCode.INVALID_ARGUMENT, ["field leaf"], id="only_a_size"),
        pytest.param({"leaf_hash": b""}, grpc.StatusCode.INVALID_ARGUMENT, ["field leaf_hash"], id="empty_hash"),
        pytest.param({"leaf_hash": bytes(31)}, grpc.StatusCode.INVALID_ARGUMENT, ["leaf_hash", "31"], id="short_hash"),
        pytest.param({"leaf_hash": bytes(1_000_000)}, grpc.StatusCode.INVALID_ARGUMENT, ["leaf_hash"], id="long_hash"),
        pytest.param({"leaf_hash": bytes(32)}, grpc.StatusCode.NOT_FOUND, ["leaf_hash"], id="unknown_hash"),
        pytest.param({"leaf_index": 600}, grpc.StatusCode.OUT_OF_RANGE, ["600"], id="index_is_the_size"),
        pytest.param({"leaf_index": UINT64_MAX}, grpc.StatusCode.OUT_OF_RANGE, ["leaf"], id="largest_index"),
        pytest.param(
            {"leaf_index": 0, "tree_size": 601}, grpc.StatusCode.OUT_OF_RANGE, ["tree_size", "600"], id="larger_tree"
        ),
        pytest.param(
            {"leaf_index": 0, "tree_size": UINT64_MAX}, grpc.StatusCode.OUT_OF_RANGE, ["tree_size"], id="largest_tree"
        ),
        pytest.param({"leaf_index": 0, "tree_size": 0}, grpc.StatusCode.OUT_OF_RANGE, ["leaf"], id="empty_tree"),
        pytest.param({"leaf_index": 9, "tree_size": 9}, grpc.StatusCode.OUT_OF_RANGE, ["leaf"], id="beyond_that_tree"),
        pytest.param(
            {"leaf_hash": hash_leaf(FILLED[9]), "tree_size": 9},
            grpc.StatusCode.OUT_OF_RANGE,
            ["leaf"],
            id="hash_beyond_that_tree",
        ),
    ],
)
async def test_what_cannot_be_proven_has_a_reason(
    filled: Log, fields: dict[str, int | bytes], code: grpc.StatusCode, names: list[str]
) -> None:
    async with refused(code, *names):
        await filled.inclusion(**fields)


@pytest.mark.parametrize(
    ("first_size", "second_size", "name"),
    [(0, 601, "second_size"), (601, 601, "second_size"), (2, 1, "first_size"), (UINT64_MAX, 600, "first_size")],
)
async def test_sizes_that_are_not_in_order_are_out_of_range(
    filled: Log, first_size: int, second_size: int, name: str
) -> None:
    async with refused(grpc.StatusCode.OUT_OF_RANGE, f"field {name}"):
        await filled.consistency(first_size, second_size)


# --- entries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "end"), [(0, None), (0, 600), (1, 599), (599, None), (600, None), (255, 257), (0, 0), (600, 600)]
)
async def test_entries_come_in_order_and_in_bounded_messages(filled: Log, first: int, end: int | None) -> None:
    messages = await filled.entries(first, end)
    assert [leaf for message in messages for leaf in message.leaves] == FILLED[first:end]
    index = first
    for message in messages:
        assert message.first_index == index
        assert 0 < len(message.leaves) <= LIMITS.chunk_entries_max
        assert len(message.leaves) == 1 or sum(map(len, message.leaves)) <= LIMITS.chunk_bytes_max
        index += len(message.leaves)


@pytest.mark.parametrize(
    ("first", "end", "code", "name"),
    [
        (601, None, grpc.StatusCode.OUT_OF_RANGE, "first_index"),
        (UINT64_MAX, None, grpc.StatusCode.OUT_OF_RANGE, "first_index"),
        (0, 601, grpc.StatusCode.OUT_OF_RANGE, "end_index"),
        (0, UINT64_MAX, grpc.StatusCode.OUT_OF_RANGE, "end_index"),
        (5, 4, grpc.StatusCode.INVALID_ARGUMENT, "first_index"),
    ],
)
async def test_entries_that_are_not_there_are_out_of_range(
    filled: Log, first: int, end: int | None, code: grpc.StatusCode, name: str
) -> None:
    async with refused(code, f"field {name}"):
        await filled.entries(first, end)


async def test_entries_end_where_the_log_ended_when_the_call_began(log: Log) -> None:
    leaves = leaves_of(40)
    await log.add_all(*leaves[:30])
    call = log.stub.GetEntries(log_pb2.GetEntriesRequest(), timeout=DEADLINE_SECONDS)
    messages = aiter(call)
    read = list((await anext(messages)).leaves)
    await log.add_all(*leaves[30:])
    async for message in messages:
        read += message.leaves
    assert read == leaves[:30]


# --- finding ---------------------------------------------------------------------------------------------------------


PROVENANCE = attestation_leaf(
    format_canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "predicateType": "https://slsa.dev/provenance/v1",
            "subject": [
                {
                    "name": "pkg:npm/%40acme/tool@1.0.0",
                    "digest": {"sha512": digests(CONTENT)["sha512"].hex(), "sha1": "00ff", "dirHash": "h1:x="},
                }
            ],
        }
    )
)
NEXT_VERSION = attestation_leaf(format_release_statement(release(version="2.0"), digests=digests(b"2.0")))
MINE = [attestation_leaf(), hashedrekord_leaf(), attestation_leaf(signer=STRANGER), PROVENANCE, NEXT_VERSION]

QUERIES: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    "sha256": (
        {"digest": log_pb2.Digest(algorithm="sha256", value=digests(CONTENT)["sha256"])},
        [MINE[0], MINE[1], MINE[2]],
    ),
    "sha512": (
        {"digest": log_pb2.Digest(algorithm="sha512", value=digests(CONTENT)["sha512"])},
        [MINE[0], MINE[2], MINE[3]],
    ),
    "sha1": ({"digest": log_pb2.Digest(algorithm="sha1", value=b"\0\xff")}, [PROVENANCE]),
    "dirHash": ({"digest": log_pb2.Digest(algorithm="dirHash", value=b"h1:x=")}, [PROVENANCE]),
    "name": ({"name": FILENAME}, [MINE[0], MINE[2], NEXT_VERSION]),
    "name_that_is_a_purl": ({"name": "pkg:npm/%40acme/tool@1.0.0"}, [PROVENANCE]),
    "version": ({"purl": "pkg:pypi/acme-tool@1.0"}, [MINE[0], MINE[2]]),
    "package": ({"purl": "pkg:pypi/acme-tool"}, [MINE[0], MINE[2], NEXT_VERSION]),
    "version_of_a_subject": ({"purl": "pkg:npm/%40acme/tool@1.0.0"}, [PROVENANCE]),
    "package_of_a_subject": ({"purl": "pkg:npm/%40acme/tool"}, [PROVENANCE]),
    "signer": ({"signer": PUBLISHER.public.spki}, [MINE[0], PROVENANCE, NEXT_VERSION]),
    "stranger": ({"signer": STRANGER.public.spki}, [MINE[2]]),
    "another_version": ({"purl": "pkg:pypi/acme-tool@1"}, []),
    "another_package": ({"purl": "pkg:pypi/acme"}, []),
}


@pytest.fixture(scope="module")
async def furnished(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    """A log with entries to find among others, which no test adds to."""
    fill = leaves_of(20)
    async with started(tmp_path_factory.mktemp("furnished") / "log") as log:
        await log.add_all(*fill[:3], MINE[0], *fill[3:10], MINE[1], *fill[10:], *MINE[2:], witnessed=True)
        yield log


@pytest.mark.parametrize("query", QUERIES)
async def test_entries_are_found_by_what_they_say_and_proven_under_one_checkpoint(furnished: Log, query: str) -> None:
    fields, expected = QUERIES[query]
    response = await furnished.ask(**fields)
    checkpoint = furnished.open(response.checkpoint)
    assert [found.leaf for found in response.entries] == expected
    assert not response.more
    assert response.tree_size == response.next_index == checkpoint.size == 25
    for found in response.entries:
        verify_inclusion(
            index=found.leaf_index,
            size=checkpoint.size,
            leaf_hash=hash_leaf(found.leaf),
            proof=found.hashes,
            root=checkpoint.root,
        )


async def test_found_entries_are_proven_under_the_published_checkpoint(tmp_path: Path) -> None:
    async with started(tmp_path / "log", Limits(publish_ms=1_000 * DEADLINE_SECONDS)) as log:
        await log.add(attestation_leaf())
        response = await log.ask(name=FILENAME)
        assert (
            response.checkpoint
            == (await log.stub.GetCheckpoint(log_pb2.GetCheckpointRequest(), timeout=DEADLINE_SECONDS)).checkpoint
        )
        assert len(response.entries) == response.tree_size


async def test_pages_of_found_entries_neither_overlap_nor_skip(log: Log) -> None:
    versions = [
        attestation_leaf(format_release_statement(release(version=f"1.{number}"), digests=digests(CONTENT)))
        for number in range(2 * LIMITS.find_entries_max + 1)
    ]
    await log.add_all(*versions, witnessed=True)
    found: list[bytes] = []
    pages, first_index = 0, 0
    while True:
        response = await log.find("sha256", digests(CONTENT)["sha256"], first_index)
        assert len(response.entries) <= LIMITS.find_entries_max
        found += [entry.leaf for entry in response.entries]
        pages += 1
        assert response.next_index > response.entries[-1].leaf_index
        first_index = response.next_index
        if not response.more:
            break
    assert found == versions
    assert pages == 3
    assert list((await log.find("sha256", digests(CONTENT)["sha256"], first_index)).entries) == []


async def test_a_page_of_found_entries_has_a_bound_in_bytes(tmp_path: Path) -> None:
    versions = [
        attestation_leaf(format_release_statement(release(version=f"1.{number}"), digests=digests(CONTENT)))
        for number in range(7)
    ]
    async with started(tmp_path / "log", Limits(page_bytes_max=3 * len(versions[0]))) as log:
        await log.add_all(*versions, witnessed=True)
        first = await log.find("sha256", digests(CONTENT)["sha256"])
        second = await log.find("sha256", digests(CONTENT)["sha256"], 3)
        third = await log.find("sha256", digests(CONTENT)["sha256"], 6)
    pages = (first, second, third)
    assert [[entry.leaf for entry in page.entries] for page in pages] == [versions[:3], versions[3:6], versions[6:]]
    assert [(page.more, page.next_index) for page in pages] == [(True, 3), (True, 6), (False, 7)]


async def test_an_entry_larger_than_a_page_is_a_page(tmp_path: Path) -> None:
    async with started(tmp_path / "log", Limits(page_bytes_max=1)) as log:
        await log.add(attestation_leaf(), witnessed=True)
        (found,) = (await log.find("sha256", digests(CONTENT)["sha256"])).entries
        assert found.leaf == attestation_leaf()


class Hoarder:
    """A caller who begins calls on a connection of its own, with little room for answers, and takes none of them."""

    def __init__(self, address: str) -> None:
        options = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.stub = LogStub(self.channel)

    async def __aenter__(self) -> Hoarder:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def read(self) -> grpc.aio.UnaryStreamCall[log_pb2.GetEntriesRequest, log_pb2.GetEntriesResponse]:
        call = self.stub.GetEntries(log_pb2.GetEntriesRequest(), timeout=DEADLINE_SECONDS)
        await call.initial_metadata()  # the first message is on its way
        return call


def large_leaves(count: int) -> list[bytes]:
    """Entries of 60 KB that differ, all of one artifact."""
    leaves = []
    for number in range(count):
        payload = format_release_statement(release(version=f"1.{number}"), digests=digests(CONTENT))
        leaves.append(attestation_leaf(payload[:-1] + b" " * (45_000 - len(payload)) + payload[-1:]))
    return leaves


async def test_readers_who_take_nothing_have_a_bound_and_leave_the_log_to_others(tmp_path: Path) -> None:
    leaves = large_leaves(60)
    limits = Limits(readers_max=2, chunk_bytes_max=1_000_000)
    async with started(tmp_path / "log", limits) as log:
        await log.add_all(*leaves[:30])
        await log.add_all(*leaves[30:])
        async with Hoarder(log.address) as hoarder:
            calls = [await hoarder.read() for _ in range(limits.readers_max)]
            async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "read entries"):
                await log.entries(0)
            await log.add(hashedrekord_leaf())
            calls[0].cancel()
            messages = await as_soon_as_there_is_room(lambda: log.entries(0, 60))
            assert [leaf for message in messages for leaf in message.leaves] == leaves


async def test_a_reader_who_takes_nothing_in_time_is_answered_no_further(tmp_path: Path) -> None:
    leaves = large_leaves(120)
    async with started(tmp_path / "log", Limits(write_ms=50, chunk_bytes_max=1_000_000)) as log:
        for at in range(0, len(leaves), 30):
            await log.add_all(*leaves[at : at + 30])
        call = log.stub.GetEntries(log_pb2.GetEntriesRequest(), timeout=DEADLINE_SECONDS)
        await call.initial_metadata()
        await asyncio.sleep(0.5)  # to take nothing for a while is what this is about, no wait for a condition
        async with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "50 ms"):
            async for _ in call:
                pass


async def test_lookups_have_a_bound_until_their_answers_are_taken(tmp_path: Path) -> None:
    digest = digests(CONTENT)["sha256"]
    async with started(tmp_path / "log", Limits(finders_max=2, retry_ms=250)) as log:
        await log.add_all(*large_leaves(5), witnessed=True)
        outcomes = await asyncio.gather(*(log.find("sha256", digest) for _ in range(20)), return_exceptions=True)
        busy = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert 0 < len(busy) < 20
        for error in busy:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_delay_ms(error) == 250
        for _ in range(5):
            assert (await as_soon_as_there_is_room(lambda: log.find("sha256", digest))).entries


async def test_what_nobody_logged_is_not_found(filled: Log) -> None:
    for first_index in (0, 600, UINT64_MAX):
        response = await filled.find("sha256", bytes(32), first_index)
        assert (list(response.entries), response.more) == ([], False)
        assert filled.open(response.checkpoint).size == 600


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["query", "digest, name, purl or signer"]),
        ({"digest": log_pb2.Digest()}, ["digest", "algorithm"]),
        ({"digest": log_pb2.Digest(algorithm="name:", value=b"x")}, ["digest", "algorithm"]),
        ({"digest": log_pb2.Digest(algorithm="x" * 100_000, value=bytes(32))}, ["digest", "algorithm"]),
        ({"digest": log_pb2.Digest(algorithm="sha256")}, ["digest", "value", "32"]),
        ({"digest": log_pb2.Digest(algorithm="sha256", value=bytes(64))}, ["digest", "value", "32"]),
        ({"digest": log_pb2.Digest(algorithm="sha512", value=bytes(32))}, ["digest", "value", "64"]),
        ({"digest": log_pb2.Digest(algorithm="md5", value=bytes(100_000))}, ["digest", "value"]),
        ({"name": ""}, ["name"]),
        ({"name": "a\nb"}, ["name"]),
        ({"name": "x" * 100_000}, ["name"]),
        ({"purl": ""}, ["purl"]),
        ({"purl": "acme-tool"}, ["purl"]),
        ({"purl": "x" * 100_000}, ["purl"]),
        ({"purl": "pkg:pypi/Acme_Tool@1.0"}, ["purl", "pkg:pypi/acme-tool@1.0"]),
        ({"purl": "pkg:npm/@acme/tool"}, ["purl", "pkg:npm/%40acme/tool"]),
        ({"signer": b""}, ["signer"]),
        ({"signer": b"x" * 100_000}, ["signer"]),
        ({"signer": PUBLISHER.public.spki + b"x"}, ["signer"]),
    ],
)
async def test_a_query_that_no_entry_can_answer_is_invalid_by_the_name_of_its_field(
    furnished: Log, query: dict[str, Any], names: list[str]
) -> None:
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"field {names[0]}", *names[1:]):
        await furnished.ask(**query)


# --- what else there is ----------------------------------------------------------------------------------------------


async def test_the_log_says_who_it_is_and_what_it_takes(log: Log) -> None:
    info = await log.stub.GetLogInfo(log_pb2.GetLogInfoRequest(), timeout=DEADLINE_SECONDS)
    assert info.origin == "log.example/service"
    assert parse_vkey(info.vkey) == log.vkey
    assert list(info.kinds) == ["attestation/0.0.1", "hashedrekord/0.0.2"]
    assert (info.entry_bytes_max, info.batch_entries_max, info.find_entries_max) == (65_535, 300, 5)
    assert info.software_version


async def test_health_and_reflection_answer(log: Log) -> None:
    health: Any = health_pb2_grpc.HealthStub(log.channel)
    for service in ("", "treehead.v1.Log"):
        response = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_SECONDS)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast("grpc.Channel", log.channel))
    call = reflection.ServerReflectionInfo(timeout=DEADLINE_SECONDS)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response = await call.read()
    assert "treehead.v1.Log" in {service.name for service in response.list_services_response.service}
    await call.done_writing()
    call.cancel()


async def test_health_watchers_have_a_bound_and_make_room_when_they_go(log: Log) -> None:
    health: Any = health_pb2_grpc.HealthStub(log.channel)

    async def watch() -> Any:
        call = health.Watch(health_pb2.HealthCheckRequest(service="treehead.v1.Log"), timeout=DEADLINE_SECONDS)
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        return call

    watches = [await watch() for _ in range(HEALTH_WATCHERS_MAX)]
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(HEALTH_WATCHERS_MAX)):
        await watch()
    await log.add(attestation_leaf())
    watches[0].cancel()
    watches[0] = await as_soon_as_there_is_room(watch)
    for call in watches:
        call.cancel()


async def test_reflection_has_a_bound_and_makes_room(log: Log) -> None:
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast("grpc.Channel", log.channel))

    async def ask() -> Any:
        call = reflection.ServerReflectionInfo(timeout=DEADLINE_SECONDS)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.read()
        return call

    calls = [await ask() for _ in range(REFLECTIONS_MAX)]
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(REFLECTIONS_MAX)):
        call = reflection.ServerReflectionInfo(timeout=DEADLINE_SECONDS)
        await call.read()
    calls[0].cancel()
    calls[0] = await as_soon_as_there_is_room(ask)
    for call in calls:
        call.cancel()


async def test_a_service_that_is_not_here_has_no_health(log: Log) -> None:
    health: Any = health_pb2_grpc.HealthStub(log.channel)
    request = health_pb2.HealthCheckRequest(service="another")
    async with refused(grpc.StatusCode.NOT_FOUND, "field service"):
        await health.Check(request, timeout=DEADLINE_SECONDS)
    watch = health.Watch(request, timeout=DEADLINE_SECONDS)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_who_watches_health_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with started(tmp_path / "log", Limits(drain_ms=2_000 * DEADLINE_SECONDS)) as log:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(log.address))
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_what_grpc_itself_meets_is_one_line_in_the_journal(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    call: Any = log.channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"\xff\xff\xff", timeout=DEADLINE_SECONDS)
    (record,) = [record for record in caplog.records if record.name.startswith("grpc")]
    assert record.levelname == "WARNING"
    assert "/grpc.health.v1.Health/Check" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.exc_info is None
    await log.add(attestation_leaf())


async def test_a_log_that_is_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    leaves = leaves_of(260)
    async with started(tmp_path / "log") as log:
        await log.add_all(*leaves[:257], witnessed=True)
        before = await log.head()
    async with serving(tmp_path / "log") as log:
        assert await log.head() == before
        response = await log.add(leaves[256])
        assert (response.duplicate, response.proof.leaf_index) == (True, 256)
        await log.add_all(*leaves[257:], witnessed=True)
        after = await log.head()
        proof = await log.consistency(before.size, after.size)
        verify_consistency(size1=before.size, size2=after.size, root1=before.root, root2=after.root, proof=proof)


async def test_a_database_that_fails_is_the_operators_to_read_about_and_not_the_callers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log" / "log.sqlite"
    async with started(tmp_path / "log") as log:
        await log.add_all(*leaves_of(300))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("delete from entries where leaf_index = 100")
    async with serving(tmp_path / "log") as log, refused(grpc.StatusCode.UNAVAILABLE, "cannot read its database"):
        await log.entries(98, 103)
    assert f"{path}: the database has lost entry 100" in caplog.text


async def test_a_defect_over_one_leaf_of_a_batch_fails_it_before_any_is_logged(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poison = leaves_of(2)
    outcome = checker._outcome

    def found(leaf: bytes, item: tuple[Any, Any]) -> checker.Outcome:
        return outcome(leaf, (None, "Traceback: a defect of ours") if leaf == poison else item)

    monkeypatch.setattr(checker, "_outcome", found)
    async with refused(grpc.StatusCode.INTERNAL, "the log made a mistake"):
        await log.stub.AddEntries(log_pb2.AddEntriesRequest(leaves=[good, poison]), timeout=DEADLINE_SECONDS)
    assert await log.holds_nothing()


# --- floods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method.name for method in log_pb2.DESCRIPTOR.services_by_name["Log"].methods])
async def test_what_is_no_message_is_refused_as_that(log: Log, method: str, caplog: pytest.LogCaptureFixture) -> None:
    is_stream = method in ("GetEntries", "WatchCheckpoints")
    call: Any = (log.channel.unary_stream if is_stream else log.channel.unary_unary)(f"/treehead.v1.Log/{method}")
    called = call(b"\x0a\xff", timeout=DEADLINE_SECONDS)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "no message that this method takes"):
        await (called.read() if is_stream else called)
    assert await log.holds_nothing()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("size", [1_000, 50_000_000])
async def test_a_compressed_message_is_refused_before_it_is_unpacked(log: Log, size: int) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(log.address, options=options, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await LogStub(channel).AddEntry(log_pb2.AddEntryRequest(leaf=bytes(size)), timeout=DEADLINE_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await log.holds_nothing()


async def test_connections_beyond_the_bound_are_ended_and_the_others_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX) in SERVER_OPTIONS
    monkeypatch.setattr(server, "SERVER_OPTIONS", [*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", 3)])
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    async with started(tmp_path / "log") as log:
        await log.head()  # the client has its connection before the others come
        host, _, port = log.address.rpartition(":")
        answered = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
                async with asyncio.timeout(DEADLINE_SECONDS):
                    answered.append((bool(await reader.read(1)), writer))
            except ConnectionResetError:
                answered.append((False, writer))
        assert [is_answered for is_answered, _ in answered] == [True, True, False, False, False]
        assert await log.holds_nothing()
        for _, writer in answered:
            writer.transport.abort()


async def test_who_waits_for_witnesses_leaves_room_for_others(tmp_path: Path) -> None:
    limits = replace(LIMITS, witnessed_max=2, publish_ms=600)
    async with started(tmp_path / "log", limits) as log:
        await log.published(attestation_leaf())  # so that the next publication is a while away
        leaves = leaves_of(4)
        waiting = [asyncio.create_task(log.add(leaf, witnessed=True)) for leaf in leaves]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        refused_calls = [task for task in done if task.exception() is not None]
        assert refused_calls
        for task in refused_calls:
            error = task.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "2 others wait for witnesses already" in (error.details() or "")
        assert (await log.add(leaves[0])).duplicate
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 2
