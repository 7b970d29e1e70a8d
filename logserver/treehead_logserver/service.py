"""The gRPC service treehead.v1.Log: messages to values, values to messages, and errors to statuses.

protos/treehead/v1/log.proto says what each call promises. Numbers from the wire go up to 2^64-1; each is compared with
the size of the log before anything else sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from treehead.entry import KINDS, parse_entry
from treehead.errors import StorageError, TreeheadError
from treehead.keys import VerifierKey, format_vkey
from treehead.merkle import HASH_BYTES
from treehead.statement import DIGEST_BYTES
from treehead.tile import ENTRY_BYTES_MAX
from treehead.v1 import log_pb2, log_pb2_grpc
from treehead.wire import status_of
from treehead_logserver.admission import Admission
from treehead_logserver.backlog import BusyError
from treehead_logserver.config import Limits
from treehead_logserver.heads import Head, Heads
from treehead_logserver.kinds import OPAQUE
from treehead_logserver.leaf import terms_of
from treehead_logserver.prover import Prover
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.storage.base import Candidate, Reading, Term

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import _ServicerContext as Context

_LOG = logging.getLogger(__name__)

PUSHBACK = "grpc-retry-pushback-ms"
"""The trailing metadata by which a gRPC server says when to try again (gRFC A6)."""


class _Status(Exception):  # noqa: N818 -- it is the answer, not a fault of ours
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _invalid(message: str) -> _Status:
    return _Status(grpc.StatusCode.INVALID_ARGUMENT, message)


def _out_of_range(message: str) -> _Status:
    return _Status(grpc.StatusCode.OUT_OF_RANGE, message)


class _Places:
    """The places of one kind of call, each taken until gRPC is done with the call: its answer is ours till then."""

    def __init__(self, count_max: int, *, doing: str) -> None:
        self._count_max = count_max
        self._doing = doing
        self._taken = 0

    def take(self, context: Context) -> None:
        """Give the call a place.

        Raises:
            BusyError: there is none left.
        """
        if self._taken >= self._count_max:
            raise BusyError(f"{self._taken} others {self._doing} this log already, and it allows no more")
        self._taken += 1
        context.add_done_callback(self._leave)  # type: ignore[arg-type] # its type is no protocol

    def _leave(self, _: Context) -> None:
        self._taken -= 1


class LogService(log_pb2_grpc.LogServicer):
    """Answers from the parts of one log. Every error becomes a status with one sentence; nothing else gets out."""

    def __init__(
        self,
        *,
        vkey: VerifierKey,
        kinds: Collection[str],
        limits: Limits,
        admission: Admission,
        sequencer: Sequencer,
        heads: Heads,
        prover: Prover,
        storage: Reading,
    ) -> None:
        self._limits = limits
        self._admission = admission
        self._sequencer = sequencer
        self._heads = heads
        self._prover = prover
        self._storage = storage
        self._watchers = _Places(limits.watchers_max, doing="watch")
        self._readers = _Places(limits.readers_max, doing="read entries of")
        self._finders = _Places(limits.finders_max, doing="look for entries in")
        self._info = log_pb2.GetLogInfoResponse(
            origin=vkey.name,
            vkey=format_vkey(vkey),
            kinds=[*("/".join(kind) for kind in KINDS if kind[0] in kinds), *{OPAQUE}.intersection(kinds)],
            entry_bytes_max=ENTRY_BYTES_MAX,
            batch_entries_max=limits.batch_entries_max,
            find_entries_max=limits.find_entries_max,
            software_version=version("treehead"),
        )

    # --- writing -----------------------------------------------------------------------------------------------------

    async def AddEntry(self, request: log_pb2.AddEntryRequest, context: Context) -> log_pb2.AddEntryResponse:
        async with self._answering(context):
            (admitted,) = await self._admission.admit([request.leaf])
            if not isinstance(admitted, Candidate):
                raise _invalid(_refusal(admitted))
            ((index, duplicate),) = await self._sequencer.submit([admitted])
            head = self._heads.newest
            hashes = await self._prover.prove_inclusion(index=index, size=head.size, head=head)
            proof = log_pb2.InclusionProof(leaf_index=index, hashes=hashes, checkpoint=head.checkpoint)
            return log_pb2.AddEntryResponse(proof=proof, duplicate=duplicate)

    async def AddEntries(self, request: log_pb2.AddEntriesRequest, context: Context) -> log_pb2.AddEntriesResponse:
        async with self._answering(context):
            leaves = list(request.leaves)
            if len(leaves) > self._limits.batch_entries_max:
                raise _invalid(f"field leaves has {len(leaves)} entries; at most {self._limits.batch_entries_max} fit")
            admitted = await self._admission.admit(leaves)
            # First, since a defect of ours fails the call, which then must not have logged the others.
            refusals = iter([_refusal(item) for item in admitted if not isinstance(item, Candidate)])
            places = iter(await self._sequencer.submit([item for item in admitted if isinstance(item, Candidate)]))
            response = log_pb2.AddEntriesResponse(checkpoint=self._heads.newest.checkpoint)
            add_result = response.results.add  # a third of what it takes to make each message and copy it
            for item in admitted:
                if isinstance(item, Candidate):
                    added = add_result().added
                    added.leaf_index, added.duplicate = next(places)
                else:
                    add_result().refused.reason = next(refusals)
            return response

    # --- heads -------------------------------------------------------------------------------------------------------

    async def GetCheckpoint(
        self, request: log_pb2.GetCheckpointRequest, context: Context
    ) -> log_pb2.GetCheckpointResponse:
        return log_pb2.GetCheckpointResponse(checkpoint=self._heads.newest.checkpoint)

    async def WatchCheckpoints(  # type: ignore[override] # see _write
        self, request: log_pb2.WatchCheckpointsRequest, context: Context
    ) -> None:
        async with self._answering(context):
            self._watchers.take(context)
            head: Head | None = self._heads.newest
            while head is not None:
                await self._write(context, log_pb2.WatchCheckpointsResponse(checkpoint=head.checkpoint))
                head = await self._heads.after(head.size)
            raise _Status(grpc.StatusCode.UNAVAILABLE, "the log is shutting down; watch it again later")

    # --- proofs ------------------------------------------------------------------------------------------------------

    async def GetInclusionProof(
        self, request: log_pb2.GetInclusionProofRequest, context: Context
    ) -> log_pb2.GetInclusionProofResponse:
        async with self._answering(context):
            index = await self._leaf_index(request)
            head = self._heads.newest
            size = request.tree_size if request.HasField("tree_size") else head.size
            if size > head.size:
                raise _out_of_range(f"field tree_size is {size}; the log has {head.size} entries")
            if index >= size:
                raise _out_of_range(f"field leaf: entry {index} is not in the tree of size {size}")
            return log_pb2.GetInclusionProofResponse(
                leaf_index=index,
                tree_size=size,
                hashes=await self._prover.prove_inclusion(index=index, size=size, head=head),
                checkpoint=head.checkpoint if size == head.size else b"",
            )

    async def _leaf_index(self, request: log_pb2.GetInclusionProofRequest) -> int:
        match request.WhichOneof("leaf"):
            case "leaf_index":
                return request.leaf_index
            case "leaf_hash":
                if len(request.leaf_hash) != HASH_BYTES:
                    raise _invalid(f"field leaf_hash has {len(request.leaf_hash)} bytes, not {HASH_BYTES}")
                index = await self._storage.find_leaf(request.leaf_hash)
                # The store may know of an entry whose commit is still on its way back to us, and so to its submitter.
                if index is None or index >= self._heads.newest.size:
                    raise _Status(grpc.StatusCode.NOT_FOUND, "field leaf_hash: the log has no such leaf")
                return index
            case None:
                raise _invalid("field leaf is missing: give leaf_index or leaf_hash")

    async def GetConsistencyProof(
        self, request: log_pb2.GetConsistencyProofRequest, context: Context
    ) -> log_pb2.GetConsistencyProofResponse:
        async with self._answering(context):
            head = self._heads.newest
            if request.second_size > head.size:
                raise _out_of_range(f"field second_size is {request.second_size}; the log has {head.size} entries")
            if request.first_size > request.second_size:
                raise _out_of_range(
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
        async with self._answering(context):
            size = self._heads.newest.size
            index, end = request.first_index, request.end_index if request.HasField("end_index") else size
            if end > size:
                raise _out_of_range(f"field end_index is {end}; the log has {size} entries")
            if index > size:
                raise _out_of_range(f"field first_index is {index}; the log has {size} entries")
            if index > end:
                raise _invalid(f"field first_index is {index}, which is beyond end_index {end}")
            self._readers.take(context)
            while index < end:
                leaves = await self._read_leaves(index, min(end, index + self._limits.chunk_entries_max))
                await self._write(context, log_pb2.GetEntriesResponse(first_index=index, leaves=leaves))
                index += len(leaves)

    async def FindEntries(self, request: log_pb2.FindEntriesRequest, context: Context) -> log_pb2.FindEntriesResponse:
        async with self._answering(context):
            length = DIGEST_BYTES.get(request.algorithm)
            if length is None:
                raise _invalid(f"field algorithm is not one of {', '.join(DIGEST_BYTES)}")
            if len(request.digest) != length:
                raise _invalid(
                    f"field digest has {len(request.digest)} bytes; a {request.algorithm} digest has {length}"
                )
            self._finders.take(context)
            head = self._heads.newest
            return await self._find(
                Term(request.algorithm, request.digest), first_index=min(request.first_index, head.size), head=head
            )

    async def _find(self, term: Term, *, first_index: int, head: Head) -> log_pb2.FindEntriesResponse:
        """One page of the entries that are found by a term, from an index on."""
        response = log_pb2.FindEntriesResponse(checkpoint=head.checkpoint)
        room_bytes = self._limits.page_bytes_max
        while True:
            indices = await self._storage.find_term(
                term, first_index=first_index, end_index=head.size, count_max=self._limits.find_entries_max
            )
            for index in indices:
                (leaf,) = await self._read_leaves(index, index + 1)
                if not _is_found_by(leaf, term):
                    continue  # another term of the same key
                room_bytes -= len(leaf)
                if response.entries and (room_bytes < 0 or len(response.entries) == self._limits.find_entries_max):
                    response.more = True
                    return response
                hashes = await self._prover.prove_inclusion(index=index, size=head.size, head=head)
                response.entries.append(log_pb2.FoundEntry(leaf=leaf, leaf_index=index, hashes=hashes))
            if not indices:
                return response
            first_index = indices[-1] + 1

    async def _read_leaves(self, index: int, end: int) -> list[bytes]:
        leaves = await self._storage.read_leaves(
            first_index=index, end_index=end, bytes_max=self._limits.chunk_bytes_max
        )
        if not leaves:
            raise StorageError(f"the database has lost entry {index}")
        return list(leaves)

    async def GetLogInfo(self, request: log_pb2.GetLogInfoRequest, context: Context) -> log_pb2.GetLogInfoResponse:
        return self._info

    async def _write(self, context: Context, message: object) -> None:
        """Send one message of a stream; a caller who takes nothing for `write_ms` is answered no further.

        Streams are coroutines that write, which gRPC takes as well as generators, though its types do not know it: what
        a generator yields has no deadline.
        """
        try:
            async with asyncio.timeout(self._limits.write_ms / 1_000):
                await context.write(message)
        except TimeoutError:
            raise _Status(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"the last message was not taken within {self._limits.write_ms} ms"
            ) from None

    # --- errors ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _answering(self, context: Context) -> AsyncIterator[None]:
        """Whatever the call raises ends it with a status and one sentence that gives nothing of ours away."""
        try:
            yield
        except _Status as status:
            code, message = status.code, str(status)
        except BusyError as exc:
            code, message = grpc.StatusCode.RESOURCE_EXHAUSTED, str(exc)
            context.set_trailing_metadata(_when_to_retry(message, self._limits.retry_ms))
        except StorageError as exc:
            _LOG.error("%s", exc)
            code, message = grpc.StatusCode.UNAVAILABLE, "the log cannot read its database; try again later"
        except TreeheadError as exc:
            code, message = status_of(exc), str(exc)
        except Exception:  # noqa: BLE001 -- it is logged, and the caller learns no more than that it happened
            _LOG.exception("a call failed over a defect of Treehead")
            code, message = grpc.StatusCode.INTERNAL, "the log made a mistake, and its operator finds it in the journal"
        else:
            return
        await context.abort(code, message)


def _when_to_retry(message: str, retry_ms: int) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that tell a caller when to try again: gRPC itself, and programs that read `RetryInfo`."""
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(retry_ms)
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message=message)
    status.details.add().Pack(info)
    return ((PUSHBACK, str(retry_ms)), *rpc_status.to_status(status).trailing_metadata)


def _is_found_by(leaf: bytes, term: Term) -> bool:
    try:
        return term in terms_of(parse_entry(leaf))
    except TreeheadError:
        return False  # any bytes, in a log that takes them


def _refusal(error: Exception) -> str:
    """Why a leaf was not admitted, in one sentence; raises what is no reason but a defect of ours."""
    if not isinstance(error, TreeheadError):
        raise error
    return f"leaf: {error}"
