"""What stands at a moment, read from the parts of a log at each scrape: sizes, queues, witnesses, connections."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from treehead.httpserver import HttpServer
from treehead_logserver.admission import Admission
from treehead_logserver.heads import Heads
from treehead_logserver.metrics import Metrics, gauge
from treehead_logserver.publisher import Publisher
from treehead_logserver.sequencer import Sequencer
from treehead_logserver.witness.panel import Panel


def watch_parts(
    metrics: Metrics,
    *,
    heads: Heads,
    publisher: Publisher,
    sequencer: Sequencer,
    admission: Admission,
    http: HttpServer,
    is_frozen: bool,
) -> None:
    """Have the parts looked at with each scrape."""

    def read() -> Iterator[Metric]:
        yield gauge("treehead_log_entries", "Entries in the log.", heads.size)
        yield gauge("treehead_log_frozen", "1 if the log is frozen, else 0.", is_frozen)
        yield _queues(admission=admission.waiting, sequencer=sequencer.waiting)
        yield gauge(
            "treehead_log_queue_wait_seconds",
            "For how long the submission has waited to be committed that waits longest.",
            sequencer.waits_s,
        )
        yield from _publication(publisher)
        if publisher.panel is not None:
            yield from _witnesses(publisher.panel)
        yield from _connections(http)

    metrics.watch(read)


def _queues(**waiting: int) -> Metric:
    family = GaugeMetricFamily("treehead_log_queue_entries", "Entries that wait, by stage.", labels=["stage"])
    for stage, entries in waiting.items():
        family.add_metric([stage], entries)
    return family


def _publication(publisher: Publisher) -> Iterator[Metric]:
    state = publisher.state
    yield gauge("treehead_log_published_entries", "Entries in the published tree.", max(state.published_size, 0))
    yield gauge(
        "treehead_log_publication_behind_seconds",
        "For how long there has been a checkpoint that is not published yet.",
        state.behind_s,
    )
    yield gauge(
        "treehead_log_quorum_met",
        "1 if the published checkpoint has the cosignatures that the policy asks for, else 0.",
        state.quorum_met,
    )


def _witnesses(panel: Panel) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "treehead_log_witness_cosigned_entries", "Size of what the witness cosigned last.", labels=["witness"]
    )
    time = GaugeMetricFamily(
        "treehead_log_witness_cosigned_timestamp_seconds", "When it did, by its own clock.", labels=["witness"]
    )
    failing = GaugeMetricFamily(
        "treehead_log_witness_failing", "1 if it did not cosign when it was asked last, else 0.", labels=["witness"]
    )
    alarm = GaugeMetricFamily(
        "treehead_log_witness_alarm", "1 if its memory contradicts this log, else 0.", labels=["witness"]
    )
    for state in panel.states:
        size.add_metric([state.name], state.cosigned_size)
        time.add_metric([state.name], state.cosigned_at)
        failing.add_metric([state.name], bool(state.problem))
        alarm.add_metric([state.name], bool(state.alarm))
    yield from (size, time, failing, alarm)


def _connections(http: HttpServer) -> Iterator[Metric]:
    yield gauge("treehead_log_http_connections", "HTTP connections that are open.", http.connections)
    ended = CounterMetricFamily(
        "treehead_log_http_connections_ended", "HTTP connections that the log ended, by reason.", labels=["reason"]
    )
    counts = http.counts
    for reason, count in (
        ("too_many", counts.refused),
        ("too_slow", counts.overdue),
        ("malformed", counts.malformed),
    ):
        ended.add_metric([reason], count)
    yield ended
