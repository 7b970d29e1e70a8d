"""`POST /add`: any bytes become an entry, for logs that take them. The answer is the index, in decimal.

The field's load generators speak this, and so does whoever has nothing but curl.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from treehead.encoding import format_decimal
from treehead.errors import TreeheadError
from treehead.tile import ENTRY_BYTES_MAX
from treehead_logserver.http.answering import peer_of
from treehead_logserver.http.bodies import Bodies
from treehead_logserver.intake import Intake


class AddFace:
    """Takes entries as they are."""

    def __init__(self, *, intake: Intake, bodies: Bodies) -> None:
        self._intake = intake
        self._bodies = bodies

    async def add(self, request: Request) -> Response:
        """POST /add."""
        self._intake.check_open(face="add")
        async with self._bodies.read(request, bytes_max=ENTRY_BYTES_MAX, what="entry") as body:
            leaf = body
        (outcome,) = (await self._intake.log([leaf], face="add", address=peer_of(request))).outcomes
        if isinstance(outcome, TreeheadError):
            raise outcome
        return Response(format_decimal(outcome.leaf_index), media_type="text/plain; charset=utf-8")
