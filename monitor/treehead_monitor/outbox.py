"""What waits to be said to one peer, and the saying of it: a slow or dead peer holds up nothing but its own outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Self

import grpc

from treehead.errors import MalformedError, StorageError, TreeheadError
from treehead.tls import ClientTls
from treehead.v1 import monitor_pb2, monitor_pb2_grpc
from treehead.wire import error_of, open_channel, parse_endpoint, received
from treehead_monitor.message import Gossip
from treehead_monitor.peer import PeerRecord
from treehead_monitor.source import channel_options
from treehead_monitor.wire import GOSSIP_BYTES_MAX, gossip_from_wire, gossip_to_wire

_LOG = logging.getLogger(__name__)

Converse = Callable[[str, Gossip], Awaitable[Gossip | None]]
"""Hears a peer's answer; returns what to say to it, or None when the exchange is over."""


class Outbox:
    """One peer, by its address, and the messages for it. For one event loop."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        record: PeerRecord,
        now_ms: Callable[[], int],
        timeout_ms: int,
        messages_max: int,
        rounds_max: int,
    ) -> None:
        self.record = record
        self._channel = channel
        self._stub: monitor_pb2_grpc.MonitorAsyncStub = monitor_pb2_grpc.MonitorStub(channel)
        self._now_ms = now_ms
        self._timeout_s = timeout_ms / 1_000
        self._rounds_max = rounds_max
        self._waiting: asyncio.Queue[Gossip] = asyncio.Queue(messages_max)
        self._busy = False

    @classmethod
    def connect(
        cls,
        record: PeerRecord,
        *,
        now_ms: Callable[[], int],
        timeout_ms: int,
        messages_max: int,
        rounds_max: int,
        reconnect_ms: int,
        tls: ClientTls | None = None,
    ) -> Self:
        """An outbox that connects when there is something to say, and again soon after a failure.

        Raises:
            UsageError: the address, or a file of `tls`, cannot be used.
        """
        # Of two options of one name gRPC takes the first.
        options = [("grpc.max_receive_message_length", GOSSIP_BYTES_MAX), *channel_options(reconnect_ms=reconnect_ms)]
        channel = open_channel(parse_endpoint(record.address), tls=tls, options=options)
        return cls(
            channel,
            record=record,
            now_ms=now_ms,
            timeout_ms=timeout_ms,
            messages_max=messages_max,
            rounds_max=rounds_max,
        )

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    def offer(self, gossip: Gossip) -> None:
        """Let a message wait its turn; never blocks.

        Nothing is lost by leaving one out: a later exchange begins with digests again, and the peer asks for what it
        lacks.
        """
        if not gossip.evidence and (self._busy or not self._waiting.empty()):
            return
        try:
            self._waiting.put_nowait(gossip)
        except asyncio.QueueFull:
            _LOG.warning("peer %s is too slow for all that there is to tell; it has to ask", self.record.address)

    async def run(self, converse: Converse) -> None:
        """Say what waits, for ever. Whatever goes wrong with this peer is no concern of the others.

        Raises:
            StorageError: our own disk failed.
        """
        while True:
            gossip = await self._waiting.get()
            self._busy = True
            try:
                await self._exchange(gossip, converse)
            except StorageError:
                raise
            except TreeheadError as exc:
                if self.record.failing_since_ms is None:
                    _LOG.warning("%s", exc)
                self._fail(str(exc), is_fault=isinstance(exc, MalformedError))
            except Exception:  # noqa: BLE001 -- the last line of defence: it is logged, and ends this exchange only
                _LOG.exception("an exchange with peer %s failed over a defect of Treehead", self.record.address)
                self._fail("its answer met a defect of Treehead; see the journal", is_fault=True)
            finally:
                self._busy = False

    def _fail(self, error: str, *, is_fault: bool) -> None:
        failed = self.record.failed(error, at_ms=self._now_ms())
        self.record = failed.at_fault() if is_fault else failed

    async def _exchange(self, gossip: Gossip | None, converse: Converse) -> None:
        """Talk until neither side lacks anything, or for as many rounds as are allowed."""
        for _ in range(self._rounds_max):
            if gossip is None:
                return
            answer = await self._call(gossip)
            if self.record.failing_since_ms is not None:
                _LOG.info("peer %s answers again", self.record.address)
            self.record = self.record.answered(at_ms=self._now_ms())
            gossip = await converse(self.record.address, answer)

    async def _call(self, gossip: Gossip) -> Gossip:
        request = monitor_pb2.ExchangeRequest(gossip=gossip_to_wire(gossip))
        try:
            answer = await self._stub.Exchange(request, timeout=self._timeout_s)
        except grpc.RpcError as exc:
            address = self.record.address
            raise error_of(exc, peer=f"peer {address}", endpoint=parse_endpoint(address)) from exc
        return gossip_from_wire(received(answer, peer=f"peer {self.record.address}").gossip)
