"""The gRPC service treehead.v1.Log: messages to values, values to messages, and errors to statuses.

protos/treehead/v1/log.proto says what each call promises. Numbers from the wire go up to 2^64-1; each is compared with
the size of the log before anything else sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc

from treehead.entry import KINDS
from treehead.errors import MalformedError, StorageError, TreeheadError, UnsupportedError
from treehead.keys import VerifierKey, format_vkey
from treehead.lookup import digest_term, name_term, purl_term, signer_term
from treehead.merkle import HASH_BYTES
from treehead.v1 import log_pb2, log_pb2_grpc
from treehead_logserver.calls import Calls, Places, Status, invalid, out_of_range, status_of
from treehead_logserver.config import Limits
from treehead_logserver.finder import Finder
from treehead_logserver.freeze import Freeze
from treehead_logserver.heads import Head, Heads
from treehead_logserver.intake import Intake, Logged
from treehead_logserver.kinds import OPAQUE
from treehead_logserver.prover import Prover
from treehead_logserver.publisher import Publisher
from treehead_logserver.rules import AdmissionRules
from treehead_logserver.storage.base import Placed, Reading, Term
from treehead_logserver.witness.panel import Panel

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import _ServicerContext as Context


class LogService(log_pb2_grpc.LogServicer):
    """Answers from the parts of one log. Every error becomes a status with one sentence; nothing else gets out."""

    def __init__(
        self,
        *,
        vkey: VerifierKey,
        rules: AdmissionRules,
        limits: Limits,
        intake: Intake,
        heads: Heads,
        published: Heads,
        publisher: Publisher,
        freeze: Freeze | None,
        prover: Prover,
        storage: Reading,
        calls: Calls,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._intake = intake
        self._heads = heads
        self._published = published
        self._publisher = publisher
        self._prover = prover
        self._storage = storage
        self._watchers = Places(limits.watchers_max, doing="watch")
        self._readers = Places(limits.readers_max, doing="read entries of")
        self._finders = Places(limits.finders_max, doing="look for entries in")
        self._finder = Finder(storage, prover, limits)
        self._info = log_pb2.GetLogInfoResponse(
            origin=vkey.name,
            vkey=format_vkey(vkey),
            kinds=[*("/".join(kind) for kind in KINDS if kind[0] in rules.kinds), *{OPAQUE}.intersection(rules.kinds)],
            entry_bytes_max=rules.entry_bytes_max,
            batch_entries_max=limits.batch_entries_max,
            find_entries_max=limits.find_entries_max,
            software_version=version("treehead"),
            freeze=b"" if freeze is None else freeze.note,
        )

    # --- writing -----------------------------------------------------------------------------------------------------

    async def AddEntry(self, request: log_pb2.AddEntryRequest, context: Context) -> log_pb2.AddEntryResponse:
        async with self._calls.answering("AddEntry", context):
            logged = await self._log([request.leaf], request.wait, context)
            (outcome,) = logged.outcomes
            if not isinstance(outcome, Placed):
                raise Status(status_of(outcome), _refusal(outcome))
            (index, duplicate), head = outcome, logged.head
            hashes = await self._prover.prove_inclusion(index=index, size=head.size, head=head)
            proof = log_pb2.InclusionProof(leaf_index=index, hashes=hashes, checkpoint=head.checkpoint)
            return log_pb2.AddEntryResponse(proof=proof, duplicate=duplicate)

    async def AddEntries(self, request: log_pb2.AddEntriesRequest, context: Context) -> log_pb2.AddEntriesResponse:
        async with self._calls.answering("AddEntries", context):
            leaves = list(request.leaves)
            if len(leaves) > self._limits.batch_entries_max:
                raise invalid(f"field leaves has {len(leaves)} entries; at most {self._limits.batch_entries_max} fit")
            logged = await self._log(leaves, request.wait, context)
            response = log_pb2.AddEntriesResponse(checkpoint=logged.head.checkpoint)
            add_result = response.results.add  # a third of what it takes to make each message and copy it
            for outcome in logged.outcomes:
                if isinstance(outcome, Placed):
                    added = add_result().added
                    added.leaf_index, added.duplicate = outcome
                else:
                    add_result().refused.reason = _refusal(outcome)
            return response

    async def _log(self, leaves: Sequence[bytes], wait: log_pb2.Wait.ValueType, context: Context) -> Logged:
        if wait not in log_pb2.Wait.values():
            raise invalid(f"field wait is {wait}, which is not one of {', '.join(log_pb2.Wait.keys())}")
        return await self._intake.log(
            leaves, face="grpc", address=context.peer(), witnessed=wait == log_pb2.WAIT_WITNESSED
        )

    # --- heads -------------------------------------------------------------------------------------------------------

    async def GetCheckpoint(
        self, request: log_pb2.GetCheckpointRequest, context: Context
    ) -> log_pb2.GetCheckpointResponse:
        async with self._calls.answering("GetCheckpoint", context):
            return log_pb2.GetCheckpointResponse(checkpoint=self._published.newest.checkpoint)

    async def WatchCheckpoints(  # type: ignore[override] # see _write
        self, request: log_pb2.WatchCheckpointsRequest, context: Context
    ) -> None:
        async with self._calls.answering("WatchCheckpoints", context):
            self._watchers.take(context)
            head: Head | None = self._published.newest
            while head is not None:
                await self._write(context, log_pb2.WatchCheckpointsResponse(checkpoint=head.checkpoint))
                head = await self._published.after(head.size)
            raise Status(grpc.StatusCode.UNAVAILABLE, "the log is shutting down; watch it again later")

    # --- proofs ------------------------------------------------------------------------------------------------------

    async def GetInclusionProof(
        self, request: log_pb2.GetInclusionProofRequest, context: Context
    ) -> log_pb2.GetInclusionProofResponse:
        async with self._calls.answering("GetInclusionProof", context):
            index = await self._leaf_index(request)
            head = self._heads.newest
            if request.HasField("tree_size"):
                size = request.tree_size
            else:
                size = self._published.size if index < self._published.size else head.size
            if size > head.size:
                raise out_of_range(f"field tree_size is {size}; the log has {head.size} entries")
            if index >= size:
                raise out_of_range(f"field leaf: entry {index} is not in the tree of size {size}")
            return log_pb2.GetInclusionProofResponse(
                leaf_index=index,
                tree_size=size,
                hashes=await self._prover.prove_inclusion(index=index, size=size, head=head),
                checkpoint=self._checkpoint_of(size, head),
            )

    def _checkpoint_of(self, size: int, newest: Head) -> bytes:
        if size == self._published.size:
            return self._published.newest.checkpoint
        return newest.checkpoint if size == newest.size else b""

    async def _leaf_index(self, request: log_pb2.GetInclusionProofRequest) -> int:
        match request.WhichOneof("leaf"):
            case "leaf_index":
                return request.leaf_index
            case "leaf_hash":
                if len(request.leaf_hash) != HASH_BYTES:
                    raise invalid(f"field leaf_hash has {len(request.leaf_hash)} bytes, not {HASH_BYTES}")
                index = await self._storage.find_leaf(request.leaf_hash)
                # The store may know of an entry whose commit is still on its way back to us, and so to its submitter.
                if index is None or index >= self._heads.newest.size:
                    raise Status(grpc.StatusCode.NOT_FOUND, "field leaf_hash: the log has no such leaf")
                return index
            case None:
                raise invalid("field leaf is missing: give leaf_index or leaf_hash")

    async def GetConsistencyProof(
        self, request: log_pb2.GetConsistencyProofRequest, context: Context
    ) -> log_pb2.GetConsistencyProofResponse:
        async with self._calls.answering("GetConsistencyProof", context):
            head = self._heads.newest
            if request.second_size > head.size:
                raise out_of_range(f"field second_size is {request.second_size}; the log has {head.size} entries")
            if request.first_size > request.second_size:
                raise out_of_range(
                    f"field first_size is {request.first_size}, which is larger than second_size {request.second_size}"
                )
            hashes = await self._prover.prove_consistency(
                size1=request.first_size, size2=request.second_size, head=head
            )
            return log_pb2.GetConsistencyProofResponse(hashes=hashes)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def GetEntries(  # type: ignore[override] # see _write
        self, request: log_pb2.GetEntriesRequest, context: Context
    ) -> None:
        async with self._calls.answering("GetEntries", context):
            size = self._heads.newest.size
            index, end = request.first_index, request.end_index if request.HasField("end_index") else size
            if end > size:
                raise out_of_range(f"field end_index is {end}; the log has {size} entries")
            if index > size:
                raise out_of_range(f"field first_index is {index}; the log has {size} entries")
            if index > end:
                raise invalid(f"field first_index is {index}, which is beyond end_index {end}")
            self._readers.take(context)
            while index < end:
                leaves = await self._read_leaves(index, min(end, index + self._limits.chunk_entries_max))
                await self._write(context, log_pb2.GetEntriesResponse(first_index=index, leaves=leaves))
                index += len(leaves)
                if index < end:
                    await self._calls.paced(context)

    async def FindEntries(self, request: log_pb2.FindEntriesRequest, context: Context) -> log_pb2.FindEntriesResponse:
        async with self._calls.answering("FindEntries", context):
            term = _term_of(request)
            self._finders.take(context)
            head = self._published.newest
            page = await self._finder.find(term, first_index=min(request.first_index, head.size), head=head)
            return log_pb2.FindEntriesResponse(
                entries=[
                    log_pb2.FoundEntry(leaf=hit.leaf, leaf_index=hit.index, hashes=hit.hashes) for hit in page.hits
                ],
                checkpoint=head.checkpoint,
                more=page.more,
                tree_size=head.size,
                next_index=page.next_index,
            )

    async def _read_leaves(self, index: int, end: int) -> list[bytes]:
        leaves = await self._storage.read_leaves(
            first_index=index, end_index=end, bytes_max=self._limits.chunk_bytes_max
        )
        if not leaves:
            raise StorageError(f"the database has lost entry {index}")
        return list(leaves)

    async def GetLogInfo(self, request: log_pb2.GetLogInfoRequest, context: Context) -> log_pb2.GetLogInfoResponse:
        async with self._calls.answering("GetLogInfo", context):
            info = log_pb2.GetLogInfoResponse()
            info.CopyFrom(self._info)
            if self._publisher.panel is not None:
                info.witnessing.CopyFrom(self._witnessing(self._publisher.panel))
            return info

    def _witnessing(self, panel: Panel) -> log_pb2.Witnessing:
        state = self._publisher.state
        return log_pb2.Witnessing(
            fail_open=self._publisher.fail_open,
            quorum_met=state.quorum_met,
            published_size=max(state.published_size, 0),
            problem=state.problem,
            witnesses=[
                log_pb2.WitnessState(
                    name=witness.name,
                    vkey=format_vkey(witness.vkey),
                    cosigned_size=witness.cosigned_size,
                    cosigned_at=witness.cosigned_at,
                    problem=witness.problem,
                    alarm=witness.alarm,
                )
                for witness in panel.states
            ],
        )

    async def _write(self, context: Context, message: object) -> None:
        """Send one message of a stream; a caller who takes nothing for `write_ms` is answered no further.

        Streams are coroutines that write, which gRPC takes as well as generators, though its types do not know it: what
        a generator yields has no deadline.
        """
        try:
            async with asyncio.timeout(self._limits.write_ms / 1_000):
                await context.write(message)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None  # the caller has gone, and gRPC has not told us yet
        except TimeoutError:
            raise Status(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"the last message was not taken within {self._limits.write_ms} ms"
            ) from None


def _term_of(request: log_pb2.FindEntriesRequest) -> Term:
    """What a call of FindEntries looks for.

    Raises:
        Status: the query is missing or malformed; the message names the field.
    """
    field = request.WhichOneof("query")
    try:
        match field:
            case "digest":
                return digest_term(request.digest.algorithm, request.digest.value)
            case "name":
                return name_term(request.name)
            case "purl":
                return purl_term(request.purl)
            case "signer":
                return signer_term(request.signer)
            case None:
                raise invalid("field query is missing: give digest, name, purl or signer")
    except (MalformedError, UnsupportedError) as exc:
        raise invalid(f"field {field}: {exc}") from exc


def _refusal(error: TreeheadError) -> str:
    """Why a leaf was not admitted, in one sentence."""
    return f"leaf: {error}"
