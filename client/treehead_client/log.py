"""A log, spoken to over gRPC. Nothing that it answers is taken for true before a checkpoint has proven it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from treehead.checkpoint import Checkpoint, parse_checkpoint
from treehead.entry import Entry, parse_entry, verify_entry
from treehead.errors import MalformedError, RefusedError, UnsupportedError
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.note import parse_note
from treehead.policy import Policy, SignedHead, verify_head
from treehead.tlogproof import TlogProof
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS, error_of, hashes_from_wire, parse_address, proof_from_wire, received

# A busy log says so with RESOURCE_EXHAUSTED; asking again is always safe, for an entry is only ever added once. gRPC
# says the same of a message over its limit: that is asked a few times in vain, and then told as it is.
_RETRY = {
    "methodConfig": [
        {
            "name": [{"service": "treehead.v1.Log"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """An entry that a log was shown to hold: the proof, the head it leads to, and whether it was there before."""

    proof: TlogProof
    head: SignedHead
    duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry that a log was shown to hold at `index`. `entry` is None if it is of a kind not known here."""

    index: int
    entry: Entry | None


class Log:
    """The log at an address; a context, whose end closes the connection. Each call has `timeout_s` seconds."""

    def __init__(self, address: str, *, timeout_s: int) -> None:
        self.address = parse_address(address)
        self._timeout_s = timeout_s
        options = [*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(_RETRY))]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub = LogStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def add(self, leaf: bytes, *, policy: Policy) -> Logged:
        """The entry is in a tree whose checkpoint a log of the policy signed. The policy's quorum is not checked.

        Raises:
            RefusedError, MalformedError: the log refused the entry, or its answer does not prove that it is logged.
            UnavailableError: the log did not answer.
        """
        try:
            response = await self._stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=self._timeout_s)
        except grpc.RpcError as exc:
            raise error_of(exc, peer=f"log {self.address}") from exc
        try:
            response = received(response, peer="it")
            proof = proof_from_wire(response.proof, leaf=leaf)
            head = verify_head(policy, parse_note(proof.checkpoint))
            _verify_place(leaf, index=proof.index, hashes=proof.hashes, checkpoint=head.checkpoint)
        except (RefusedError, MalformedError, UnsupportedError) as exc:
            raise RefusedError(f"log {self.address} answered without proving that the entry is logged: {exc}") from exc
        return Logged(proof=proof, head=head, duplicate=response.duplicate)

    async def find(self, *, algorithm: str, digest: bytes, policy: Policy | None) -> AsyncIterator[Found]:
        """The entries that speak of a digest, in the log's order, each proven into the checkpoint that came with it.

        Without a policy the checkpoints' signatures are not checked. That there are no further entries is never proven.

        Raises:
            RefusedError, MalformedError: an answer does not prove what it says.
            UnavailableError: the log did not answer.
        """
        first_index = 0
        while True:
            request = log_pb2.FindEntriesRequest(algorithm=algorithm, digest=digest, first_index=first_index)
            try:
                page = await self._stub.FindEntries(request, timeout=self._timeout_s)
            except grpc.RpcError as exc:
                raise error_of(exc, peer=f"log {self.address}") from exc
            page = received(page, peer=f"log {self.address}")
            if not page.entries:
                return
            checkpoint = _open_checkpoint(page.checkpoint, policy)
            for item in page.entries:
                if item.leaf_index < first_index:
                    raise RefusedError(f"log {self.address} sent entry {item.leaf_index} out of order")
                hashes = hashes_from_wire(item.hashes, what="entries.hashes")
                _verify_place(item.leaf, index=item.leaf_index, hashes=hashes, checkpoint=checkpoint)
                entry = _read_found(item.leaf, index=item.leaf_index, algorithm=algorithm, digest=digest)
                yield Found(index=item.leaf_index, entry=entry)
                first_index = item.leaf_index + 1
            if not page.more:
                return


def _open_checkpoint(data: bytes, policy: Policy | None) -> Checkpoint:
    """The checkpoint in a note; signed by a log of the policy, if there is one."""
    note = parse_note(data)
    return parse_checkpoint(note.text) if policy is None else verify_head(policy, note).checkpoint


def _verify_place(leaf: bytes, *, index: int, hashes: tuple[bytes, ...], checkpoint: Checkpoint) -> None:
    verify_inclusion(index=index, size=checkpoint.size, leaf_hash=hash_leaf(leaf), proof=hashes, root=checkpoint.root)


def _read_found(leaf: bytes, *, index: int, algorithm: str, digest: bytes) -> Entry | None:
    """The entry in a leaf, which does speak of the digest and whose signature verifies; None if its kind is unknown."""
    try:
        entry = parse_entry(leaf)
    except UnsupportedError:
        return None
    if all(artifact.digests.get(algorithm) != digest for artifact in entry.artifacts):
        raise RefusedError(f"entry {index} does not speak of this digest, though the log says so")
    try:
        verify_entry(entry)
    except RefusedError as exc:
        raise RefusedError(f"entry {index}: {exc}") from exc
    return entry
