"""gRPC without a log, to compare with: `python -m bench.rig.echo BYTES`.

It answers every call at once with the same bytes, with the settings and the event loop of our servers. What a log
takes beyond this is the log; what this takes is gRPC in Python.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

from treehead.server import loop_factory, stop_requested
from treehead.wire import SERVER_OPTIONS

# Of more than 1,000 calls that it has not taken up yet, gRPC would cancel some.
OPTIONS = [
    *SERVER_OPTIONS,
    ("grpc.server.max_pending_requests", 65_536),
    ("grpc.server.max_pending_requests_hard_limit", 65_536),
]


class _Echo(grpc.GenericRpcHandler):
    """One handler for whatever is called."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._reply)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """See grpc.GenericRpcHandler."""
        return self._handler

    async def _reply(self, request: bytes, context: object) -> bytes:
        return self._answer


async def _serve(answer: bytes) -> None:
    stop = stop_requested()
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_Echo(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(bytes(int(sys.argv[1]))))
