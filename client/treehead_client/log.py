"""A log, spoken to over gRPC. Nothing that it answers is taken for true before a checkpoint has proven it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from treehead.checkpoint import Checkpoint
from treehead.errors import MalformedError, RefusedError, TreeheadError, UnsupportedError
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.note import parse_note
from treehead.policy import Policy, SignedHead, verify_head
from treehead.tlogproof import TlogProof
from treehead.tls import ClientTls
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import (
    CHANNEL_OPTIONS,
    error_of,
    format_endpoint,
    hashes_from_wire,
    open_channel,
    parse_endpoint,
    proof_from_wire,
    received,
)
from treehead_client.search import Found, Search

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


class Log:
    """The log at an address; a context, whose end closes the connection. Each call has `timeout_s` seconds.

    With an address that begins with https://, `tls` says whom to trust; None are the authorities of the operating
    system.

    Raises:
        UsageError: the address or a file of `tls` cannot be used.
    """

    def __init__(self, address: str, *, timeout_s: int, tls: ClientTls | None = None) -> None:
        self._endpoint = parse_endpoint(address)
        self.address = format_endpoint(self._endpoint)
        self._timeout_s = timeout_s
        options = [*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(_RETRY))]
        self._channel = open_channel(self._endpoint, tls=tls, options=options)
        self._stub = LogStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    def _error(self, error: grpc.RpcError) -> TreeheadError:
        """What a failed call stands for."""
        return error_of(error, peer=f"log {self.address}", endpoint=self._endpoint)

    async def add(self, leaf: bytes, *, policy: Policy) -> Logged:
        """The entry is in a tree whose checkpoint a log of the policy signed. The policy's quorum is not checked.

        Raises:
            RefusedError, MalformedError: the log refused the entry, or its answer does not prove that it is logged.
            UnavailableError: the log did not answer.
        """
        try:
            response = await self._stub.AddEntry(log_pb2.AddEntryRequest(leaf=leaf), timeout=self._timeout_s)
        except grpc.RpcError as exc:
            raise self._error(exc) from exc
        try:
            response = received(response, peer="it")
            proof = proof_from_wire(response.proof, leaf=leaf)
            head = verify_head(policy, parse_note(proof.checkpoint))
            _verify_place(leaf, index=proof.index, hashes=proof.hashes, checkpoint=head.checkpoint)
        except (RefusedError, MalformedError, UnsupportedError) as exc:
            raise RefusedError(f"log {self.address} answered without proving that the entry is logged: {exc}") from exc
        return Logged(proof=proof, head=head, duplicate=response.duplicate)

    async def find(self, search: Search) -> AsyncIterator[tuple[Found, ...]]:
        """The pages of a search that begins, each proven, until the search is over.

        Raises:
            RefusedError, MalformedError, MisbehaviourError: see `Search.accept`.
            UnavailableError: the log did not answer.
        """
        while not search.is_over:
            try:
                page = await self._stub.FindEntries(search.request(), timeout=self._timeout_s)
                page = received(page, peer=f"log {self.address}")
                link = await self._consistency(search.link_request(page))
            except grpc.RpcError as exc:
                raise self._error(exc) from exc
            yield search.accept(page, link=link)

    async def _consistency(self, request: log_pb2.GetConsistencyProofRequest | None) -> tuple[bytes, ...]:
        if request is None:
            return ()
        response = await self._stub.GetConsistencyProof(request, timeout=self._timeout_s)
        return hashes_from_wire(received(response, peer=f"log {self.address}").hashes, what="hashes")


def _verify_place(leaf: bytes, *, index: int, hashes: tuple[bytes, ...], checkpoint: Checkpoint) -> None:
    verify_inclusion(index=index, size=checkpoint.size, leaf_hash=hash_leaf(leaf), proof=hashes, root=checkpoint.root)
