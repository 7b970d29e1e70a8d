"""What operators look at: `/healthz` and `/metrics`."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from treehead_logserver.health import Health
from treehead_logserver.metrics import CONTENT_TYPE, Metrics

_NOT_KEPT = {"cache-control": "no-store"}


class OperationsFace:
    """Answers from the parts of a running log."""

    def __init__(self, *, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    async def healthz(self, request: Request) -> Response:
        """GET /healthz: 200 if all is well, else 503; what is wrong, one sentence each."""
        problems = self._health.problems()
        body = json.dumps({"healthy": not problems, "problems": problems})
        return Response(
            f"{body}\n", status_code=503 if problems else 200, headers=_NOT_KEPT, media_type="application/json"
        )

    async def metrics(self, request: Request) -> Response:
        """GET /metrics, in Prometheus' text format."""
        return Response(self._metrics.exposition(), headers={**_NOT_KEPT, "content-type": CONTENT_TYPE})
