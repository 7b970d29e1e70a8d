"""The routes of the HTTP listener."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from treehead_logserver.freeze import Freeze
from treehead_logserver.http.add import AddFace
from treehead_logserver.http.answering import Answering
from treehead_logserver.http.errors import NotFoundError
from treehead_logserver.http.operations import OperationsFace
from treehead_logserver.http.rekor import RekorFace, format_refusal
from treehead_logserver.http.tiles import TilesFace

if TYPE_CHECKING:
    from starlette.types import ExceptionHandler

_REKOR_PREFIX = "/api/v2"
"""Where clients of Rekor v2 look for everything, the tiles included."""


def make_application(
    answering: Answering,
    *,
    tiles: TilesFace,
    operations: OperationsFace,
    add: AddFace | None,
    rekor: RekorFace | None,
    freeze: Freeze | None,
) -> Starlette:
    """The ASGI application of a log; a face that is None is not there.

    Paths are as they are: one with a slash at its end is another, and nobody is sent elsewhere.
    """

    def routes() -> Iterator[Route]:
        if add is not None:
            yield Route("/add", answering.by(add.add, face="add"), methods=["POST"])
        if rekor is not None:
            create = answering.by(rekor.create_entry, face="rekor", format_error=format_refusal)
            yield Route(f"{_REKOR_PREFIX}/log/entries", create, methods=["POST"])
        for prefix in ("", *([_REKOR_PREFIX] if rekor is not None else [])):
            yield Route(f"{prefix}/checkpoint", answering.by(tiles.checkpoint, face="checkpoint"))
            tile = partial(tiles.tile, prefix=f"{prefix}/")
            yield Route(f"{prefix}/tile/{{path:path}}", answering.by(tile, face="tile"))
        yield Route("/freeze", answering.by(_freeze_note, face="freeze"))
        yield Route("/healthz", answering.by(operations.healthz, face="healthz", is_charged=False))
        yield Route("/metrics", answering.by(operations.metrics, face="metrics", is_charged=False))

    async def _freeze_note(request: Request) -> Response:
        if freeze is None:
            raise NotFoundError("the log is not frozen")
        return Response(freeze.note, media_type="text/plain; charset=utf-8")

    nowhere = cast("ExceptionHandler", answering.nowhere)
    application = Starlette(routes=list(routes()), exception_handlers={404: nowhere, 405: nowhere})
    # The address would be made of the host that the caller says it called, and a cache could keep it.
    application.router.redirect_slashes = False
    return application
