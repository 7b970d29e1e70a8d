"""What a running log exposes to Prometheus is what is documented, shown on the dashboard and watched by the alerts."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.library.specimens import WITNESS_KEYS
from treehead.keys import format_vkey
from treehead.policy import parse_policy
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub
from treehead.wire import CHANNEL_OPTIONS
from treehead_logserver.app import running_log
from treehead_logserver.config import Limits, ServeConfig
from treehead_logserver.configfile import Witnessing
from treehead_logserver.datadir import DataDirectory, create_log
from treehead_logserver.kinds import ALL_KINDS
from treehead_logserver.metrics import CONTENT_TYPE, Metrics
from treehead_logserver.rules import AdmissionRules

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"
DASHBOARD = ROOT / "deploy" / "grafana" / "treehead-log.json"
ALERTS = ROOT / "deploy" / "prometheus" / "treehead-log.rules.yml"
PROMTOOL = shutil.which("promtool")

DEADLINE_SECONDS = 30
NOBODY = "http://127.0.0.1:1"
"""Where no witness is: so there are figures of one, and it fails."""

METRIC = re.compile(r"\b(?:treehead_log|process)_[a-z_]+")
LABEL = re.compile(r"`([a-z_]+)` \(([^)]*)\)")
IN_CODE = re.compile(r"`([^`]+)`")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (it comes with Prometheus)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the document says of one metric: the values of a label are None where it only gives examples."""

    type: str
    labels: Mapping[str, frozenset[str] | None]


def exposed_name(family: Metric) -> str:
    """The name by which a metric is asked for; the parser takes the end from those of counters."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def series_names(family: Metric) -> set[str]:
    """The names of its series."""
    if family.type == "histogram":
        return {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return {exposed_name(family)}


def label_values(family: Metric) -> dict[str, set[str]]:
    """The labels that a metric has, and the values that were seen."""
    seen: dict[str, set[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                seen.setdefault(label, set()).add(value)
    return seen


def documented() -> dict[str, Entry]:
    """What the document says, metric by metric."""
    entries = {}
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n### ")[1:]:
        title, _, rest = section.partition("\n\n")
        kind, _, labels = rest.partition("\n")[0].partition("; ")
        entries[title.strip("`")] = Entry(type=kind, labels=dict(_documented_labels(labels)))
    return entries


def _documented_labels(text: str) -> Iterator[tuple[str, frozenset[str] | None]]:
    for label, values in LABEL.findall(text):
        is_closed = values.startswith("`")
        yield label, frozenset(IN_CODE.findall(values)) if is_closed else None


@pytest.fixture(scope="module")
async def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a log exposes that has a witness, and that met one of everything."""
    folder = tmp_path_factory.mktemp("metrics") / "log"
    create_log(DataDirectory(path=folder), origin="log.example/metrics", passphrase=None)
    policy = f"witness w1 {format_vkey(WITNESS_KEYS['w1'])} {NOBODY}\nquorum w1\n"
    config = ServeConfig(
        data=folder,
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        rules=AdmissionRules(kinds=ALL_KINDS),
        witnessing=Witnessing(policy=parse_policy(policy.encode()), fail_open=True),
        limits=Limits(publish_ms=10),
    )
    async with (
        running_log(config) as log,
        httpx.AsyncClient(base_url=f"http://{log.http}", trust_env=False, timeout=DEADLINE_SECONDS) as http,
    ):
        await call_it(log.grpc)
        for path in ("/checkpoint", "/tile/0/000", "/freeze", "/healthz", "/metrics"):
            await http.get(path)
        await http.post("/add", content=b"one")
        await http.post("/add", content=b"x" * 65_536)
        await http.post("/api/v2/log/entries", content=b"no request")
        await send_nonsense(log.http)
        response = await http.get("/metrics")
        assert response.headers["content-type"] == CONTENT_TYPE
        return response.text


async def call_it(address: str) -> None:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = LogStub(channel)
        await stub.AddEntry(log_pb2.AddEntryRequest(leaf=b"one"), timeout=DEADLINE_SECONDS)
        await stub.AddEntries(log_pb2.AddEntriesRequest(leaves=[b"one", b"x" * 65_536]), timeout=DEADLINE_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetInclusionProof(log_pb2.GetInclusionProofRequest(), timeout=DEADLINE_SECONDS)


async def send_nonsense(address: str) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"nonsense\r\n\r\n")
    await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
    writer.close()


@pytest.fixture(scope="module")
def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


@pytest.fixture(scope="module")
def ours(families: Sequence[Metric]) -> list[Metric]:
    """Without those that every Prometheus client has."""
    return [family for family in families if not family.name.startswith("process_")]


@pytest.fixture(scope="module")
def series(families: Sequence[Metric]) -> frozenset[str]:
    return frozenset(name for family in families for name in series_names(family))


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_as_prometheus_has_them(ours: Sequence[Metric]) -> None:
    assert len(ours) > 20
    for family in ours:
        name = exposed_name(family)
        assert re.fullmatch(r"treehead_log(_[a-z]+)+", name), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert (family.type == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|kib|percent|count|sum|bucket)(_|$)", name), name


def test_every_metric_says_in_a_sentence_what_it_is(families: Sequence[Metric]) -> None:
    for family in families:
        assert family.documentation.endswith("."), family.name


def test_every_label_is_a_plain_word(ours: Sequence[Metric]) -> None:
    for family in ours:
        for label in label_values(family):
            assert re.fullmatch(r"[a-z]+", label), f"{family.name}: {label}"


def test_what_can_be_counted_is_there_before_it_has_happened() -> None:
    unused = text_string_to_metric_families(Metrics(origin="log.example").exposition().decode())
    counted = {exposed_name(family): family.samples for family in unused}
    for name in ("treehead_log_publications_total", "treehead_log_submissions_total"):
        labels = documented()[name].labels
        series = {tuple(sample.labels[label] for label in labels) for sample in counted[name]}
        assert series == set(itertools.product(*(values or () for values in labels.values())))
        assert {sample.value for sample in counted[name]} == {0.0}


@needs_promtool
def test_promtool_has_nothing_against_the_names(text: str) -> None:
    run_promtool("check", "metrics", stdin=text)


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_document_names_every_metric_and_no_other(ours: Sequence[Metric]) -> None:
    assert sorted(documented()) == sorted(map(exposed_name, ours))


def test_the_document_says_the_type_and_labels_of_each(ours: Sequence[Metric]) -> None:
    entries = documented()
    for family in ours:
        entry, seen = entries[exposed_name(family)], label_values(family)
        assert (entry.type, set(entry.labels)) == (family.type, set(seen)), family.name
        for label, values in entry.labels.items():
            assert values is None or seen[label] <= values, f"{family.name}: {label}"


def test_the_document_names_the_metrics_of_the_process(families: Sequence[Metric]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    process = {exposed_name(family) for family in families if family.name.startswith("process_")}
    assert process
    assert {name for name in IN_CODE.findall(text) if re.fullmatch(r"process_[a-z_]+", name)} == process


def test_the_document_says_of_each_metric_when_to_worry() -> None:
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n### ")[1:]:
        assert "Worry" in section, section.partition("\n")[0]


# --- the dashboard ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return value


def panels_of(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions_of(dashboard: Mapping[str, Any]) -> list[str]:
    return [target["expr"] for panel in panels_of(dashboard) for target in panel["targets"]]


def test_the_dashboard_is_one_that_grafana_imports(dashboard: Mapping[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 38  # Grafana 10
    assert (dashboard["uid"], dashboard["title"]) == ("treehead-log", "Treehead log")
    assert "id" not in dashboard  # a number of the Grafana that it came from
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert {name: variable["type"] for name, variable in variables.items()} == {
        "datasource": "datasource",
        "job": "query",
        "instance": "query",
    }
    for variable in (variables["job"], variables["instance"]):
        assert "treehead_log_info" in variable["definition"]
        assert variable["datasource"]["uid"] == "${datasource}"


def test_every_panel_says_what_it_shows_and_in_which_unit(dashboard: Mapping[str, Any]) -> None:
    for panel in panels_of(dashboard):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]


def test_panels_are_told_apart_and_do_not_overlap(dashboard: Mapping[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_shows_every_metric_and_none_that_is_not_there(
    dashboard: Mapping[str, Any], ours: Sequence[Metric], series: frozenset[str]
) -> None:
    shown = {name for expression in expressions_of(dashboard) for name in METRIC.findall(expression)}
    assert shown <= series
    assert [exposed_name(family) for family in ours if not series_names(family) & shown] == []


def test_the_dashboard_shows_one_log_at_a_time(dashboard: Mapping[str, Any]) -> None:
    for expression in expressions_of(dashboard):
        selectors = re.findall(r"\{[^{}]*\}", expression)
        assert selectors
        assert all(selector.startswith('{job="$job", instance="$instance"') for selector in selectors), expression


@needs_promtool
def test_promtool_understands_every_expression_of_the_dashboard(dashboard: Mapping[str, Any], tmp_path: Path) -> None:
    rules = [
        {"record": "x", "expr": expression.replace("$__rate_interval", "5m")}
        for expression in expressions_of(dashboard)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # which is YAML as well
    run_promtool("check", "rules", "--lint=none", path)


# --- the alerts ------------------------------------------------------------------------------------------------------


def test_alerts_watch_only_metrics_that_are_there(series: frozenset[str]) -> None:
    expressions = re.findall(r"^        expr: (.+)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)
    watched = {name for expression in expressions for name in METRIC.findall(expression)}
    assert len(watched) > 10
    assert watched <= series


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    rules = ALERTS.read_text(encoding="utf-8").split("      - alert: ")[1:]
    names = [rule.partition("\n")[0] for rule in rules]
    assert len(set(names)) == len(names) > 10
    for name, rule in zip(names, rules, strict=True):
        assert name.startswith("TreeheadLog")
        assert re.search(r"^          severity: (warning|critical)$", rule, re.MULTILINE), name
        for field in ("summary", "description"):
            assert re.search(rf"^          {field}: .+\.$", rule, re.MULTILINE), f"{name}: {field}"


@needs_promtool
def test_promtool_finds_that_alerts_fire_when_they_should() -> None:
    run_promtool("check", "rules", ALERTS)
    run_promtool("test", "rules", ALERTS.with_name("treehead-log.rules.test.yml"))


def run_promtool(*arguments: str | Path, stdin: str = "") -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
