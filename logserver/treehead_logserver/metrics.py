"""The figures of a running log, for Prometheus; docs/metrics.md says what each one means.

What happens is counted where it happens. What stands at a moment is read at the moment of a scrape, by `gauges`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ENTRIES = (1, 4, 16, 64, 256, 1_024, 4_096)

FACES = ("grpc", "add", "rekor")
"""The ways by which entries come in."""
SUBMISSION_OUTCOMES = ("added", "duplicate", "refused", "busy", "unavailable")
PUBLICATION_OUTCOMES = ("published", "unwitnessed", "withheld", "failed")


class Metrics:
    """The counters and histograms of one log process, and where to register gauges."""

    def __init__(self, *, origin: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each, which nobody asks for
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Info(origin))
        self.submissions = Counter(
            "treehead_log_submissions",
            "Entries that were submitted, by the face they came in by and what became of them.",
            ["face", "outcome"],
            registry=self.registry,
        )
        _count_from_zero(self.submissions, itertools.product(FACES, SUBMISSION_OUTCOMES))
        self.commit_seconds = Histogram(
            "treehead_log_commit_seconds",
            "How long a commit took, from the group being closed to its head being given out.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.commit_entries = Histogram(
            "treehead_log_commit_entries",
            "Entries that one commit was asked to log.",
            buckets=_ENTRIES,
            registry=self.registry,
        )
        self.commit_failures = Counter(
            "treehead_log_commit_failures", "Commits that failed and were rolled back.", registry=self.registry
        )
        self.publications = Counter(
            "treehead_log_publications",
            "Attempts to publish the newest checkpoint, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        _count_from_zero(self.publications, [(outcome,) for outcome in PUBLICATION_OUTCOMES])
        self.publication_seconds = Histogram(
            "treehead_log_publication_seconds",
            "How long an attempt to publish took, with the witnesses' answers.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.grpc_calls = Counter(
            "treehead_log_grpc_calls", "gRPC calls, by method and status.", ["method", "code"], registry=self.registry
        )
        self.grpc_seconds = Histogram(
            "treehead_log_grpc_call_seconds",
            "How long unary gRPC calls took, by method.",
            ["method"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.http_requests = Counter(
            "treehead_log_http_requests",
            "HTTP requests, by face and status.",
            ["face", "status"],
            registry=self.registry,
        )
        self.http_seconds = Histogram(
            "treehead_log_http_request_seconds",
            "How long HTTP requests took until their answer began, by face.",
            ["face"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def watch(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Have `read` called at each scrape for what stands at that moment."""
        self.registry.register(_Reading(read))

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


def _count_from_zero(counter: Counter, labels: Iterable[tuple[str, ...]]) -> None:
    """Have the series there from the start: Prometheus does not see the first event of one that begins with it."""
    for values in labels:
        counter.labels(*values)


class _Info(Collector):
    def __init__(self, origin: str) -> None:
        self._labels = {"origin": origin, "version": version("treehead")}

    def collect(self) -> Iterator[Metric]:
        info = InfoMetricFamily("treehead_log", "Which log this is, and which version of Treehead serves it.")
        info.add_metric([], self._labels)
        yield info


class _Reading(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        return ()  # or the registry would read before there is anything to


def gauge(name: str, documentation: str, value: float) -> Metric:
    """What stands at this moment, without labels."""
    return GaugeMetricFamily(name, documentation, value=value)
