"""What operators look at: `/healthz` and `/metrics`."""

from __future__ import annotations

import json
from dataclasses import asdict

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
        """GET /healthz: 503 if the log does not do what it is for, else 200; what is wrong, one sentence each."""
        findings = self._health.look()
        body = json.dumps({"healthy": not findings.problems, **asdict(findings)})
        status = 503 if findings.problems else 200
        return Response(f"{body}\n", status_code=status, headers=_NOT_KEPT, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """GET /metrics, in Prometheus' text format."""
        return Response(self._metrics.exposition(), headers={**_NOT_KEPT, "content-type": CONTENT_TYPE})
