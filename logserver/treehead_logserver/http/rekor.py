"""`POST /api/v2/log/entries`: what Sigstore's clients write to, as Rekor v2 answers it; the formats are in `rekor`.

One thing is done otherwise, and every client takes it: an entry that is there already is answered with itself and a
current proof, where Rekor answers 409 without one, so that a client whose first answer was lost can go on.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from treehead.checkpoint import parse_checkpoint
from treehead.errors import SignatureError, TreeheadError
from treehead.keys import VerifierKey
from treehead.note import parse_note
from treehead_logserver.http.answering import peer_of
from treehead_logserver.http.bodies import SHORT_BODY_BYTES_MAX, Bodies
from treehead_logserver.intake import Intake
from treehead_logserver.prover import Prover
from treehead_logserver.rekor.request import BODY_BYTES_MAX, CreateEntry, parse_create_entry
from treehead_logserver.rekor.response import format_error, format_log_entry, log_id

_JSON = "application/json"
_CODES = {400: 3, 413: 3, 415: 3, 403: 7, 404: 5, 405: 9, 429: 8, 500: 13, 503: 14}
"""The gRPC status that Rekor's gateway would have made each HTTP status of."""


class RekorFace:
    """Takes hashedrekord entries."""

    def __init__(self, *, vkey: VerifierKey, intake: Intake, bodies: Bodies, prover: Prover) -> None:
        self._log_id = log_id(vkey)
        self._intake = intake
        self._bodies = bodies
        self._prover = prover

    async def create_entry(self, request: Request) -> Response:
        """POST /api/v2/log/entries."""
        self._intake.check_open(face="rekor")
        asked = await _read(request, self._bodies)
        logged = await self._intake.log([asked.leaf], face="rekor", address=peer_of(request), signed=True)
        (outcome,) = logged.outcomes
        if isinstance(outcome, SignatureError):  # which names the field of the leaf, and the caller sent another
            raise SignatureError(f"field {asked.signature_field}: the signature does not verify") from outcome
        if isinstance(outcome, TreeheadError):
            raise outcome
        head = logged.head
        entry = format_log_entry(
            leaf=asked.leaf,
            leaf_index=outcome.leaf_index,
            tree_size=head.size,
            root=parse_checkpoint(parse_note(head.checkpoint).text).root,
            hashes=await self._prover.prove_inclusion(index=outcome.leaf_index, size=head.size, head=head),
            checkpoint=head.checkpoint,
            log_id=self._log_id,
        )
        return Response(entry, status_code=201, media_type=_JSON)


async def _read(request: Request, bodies: Bodies) -> CreateEntry:
    async with bodies.read(request, bytes_max=BODY_BYTES_MAX, what="request") as body:
        if len(body) > SHORT_BODY_BYTES_MAX:  # off the event loop
            return await asyncio.to_thread(parse_create_entry, body)
        return parse_create_entry(body)


def format_refusal(status: int, sentence: str) -> Response:
    """An error as Rekor's gateway words it."""
    return Response(format_error(_CODES.get(status, 2), sentence), status_code=status, media_type=_JSON)
