"""Every dashboard query and every alert, evaluated by a real Prometheus on a real system with two gateways."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from smartbatch.deploy.observability import dashboard
from smartbatch.shared.telemetry.metric_names import MODEL as LABELS
from tests.brokers import eventually
from tests.prometheus import RULES, Prometheus
from tests.system.stack import Stack
from tests.system.test_batching import bodies, send_all

pytestmark = [pytest.mark.extended, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
MODEL = "simulated:base_ms=2,row_ms=0.1"
# Panels without data: there are no keys, no GPU and no partitions, no connection was closed by a gateway, and rows have
# no sizes.
EMPTY = {"Requests by API key", "Device memory", "Connections closed early", "Padding", "Waiting by partition"}
SENT = {"first": 300, "second": 200}  # by gateway
BAD = 40


def panels() -> list[dict]:
    found = json.loads((ROOT / dashboard.FILE).read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def query_of(expression: str) -> str:
    """An expression as Grafana sends it, with every variable set to all."""
    return every(expression).replace("$__rate_interval", "1m")


def in_total(expression: str) -> str:
    """Replace the rate of a counter by its total, whose value is known exactly."""
    return every(re.sub(r"\b(?:rate|increase)\(([^()]+?)\[\$__rate_interval\]\)", r"\1", expression))


def every(expression: str) -> str:
    return expression.replace("$model", ".*").replace("$version", ".*")


@pytest.fixture
def watched(stack: Callable[..., Stack], tmp_path: Path) -> Iterator[tuple[Stack, Prometheus]]:
    """Two gateways, of which one is two processes, and two workers, that have done what SENT and BAD say."""
    system = stack(MODEL_PATH=MODEL)
    first, second = system.gateway(GATEWAY_PROCESSES=2).url, system.gateway().url
    system.worker()
    system.worker()
    system.ready(2)
    prometheus = Prometheus(tmp_path, [first, second], system.worker_urls())
    try:
        eventually(lambda: prometheus.value("sum(up)") == 4)
        eventually(lambda: prometheus.value("count(smartbatch_rows_total)") == 2)
        asyncio.run(send_all(first, bodies(SENT["first"]), 20))
        asyncio.run(send_all(second, bodies(SENT["second"]), 20))
        for _ in range(BAD):
            assert httpx.post(f"{second}/predict", params={"top_k": "many"}, content=b"x").status_code == 400
        requests = sum(SENT.values()) + BAD
        for name in ("smartbatch_requests_total", "smartbatch_request_seconds_count"):
            eventually(lambda: prometheus.value(f"sum({name})") == requests, 20)  # noqa: B023
        eventually(lambda: prometheus.value("sum(smartbatch_rows_total)") == sum(SENT.values()), 20)
        yield system, prometheus
    finally:
        prometheus.close()


def test_every_dashboard_query_has_data_and_no_request_counts_twice(
    watched: tuple[Stack, Prometheus],
) -> None:
    _, prometheus = watched
    empty = set()
    for panel in panels():
        for target in panel["targets"]:
            found = prometheus.query(query_of(target["expr"]))
            if not any(math.isfinite(value) for _, value in found):
                empty.add(panel["title"])
    assert empty == EMPTY

    def total(title: str, query: int = 0) -> dict[str, float]:
        """A panel's numbers in total, by the label that tells its series apart."""
        (panel,) = [panel for panel in panels() if panel["title"] == title]
        found = prometheus.query(in_total(panel["targets"][query]["expr"]))
        rest = ({name: text for name, text in labels.items() if name not in LABELS} for labels, _ in found)
        return {next(iter(each.values()), ""): value for each, (_, value) in zip(rest, found, strict=True)}

    ok = sum(SENT.values())
    outcomes = total("Throughput by outcome")
    assert {name: value for name, value in outcomes.items() if value} == {"ok": ok, "invalid": BAD}
    assert total("Answered") == {"": ok}
    assert total("Errors and rejections by code") == {"bad_request": BAD}
    assert total("Rows per second and capacity") == {"": ok}
    batches = sum(total("Batches by close reason").values())
    assert total("Rows per batch")["+Inf"] == batches
    assert total("Mean batch size") == {"": pytest.approx(ok / batches)}
    assert total("Mean batch size", 1) == {"": pytest.approx(ok / batches)}
    assert total("Mean batch size", 2) == {"": 32}
    assert {name: value for name, value in total("Workers by state").items() if value} == {"ready": 2}
    assert total("Ready workers") == {"": 2}
    assert len(total("Device busy")) == 2
    assert total("Oldest wait", 1) == {"": 30}
    increase = prometheus.value('sum(increase(smartbatch_requests_total{outcome="ok"}[1m]))')
    assert increase == pytest.approx(ok, rel=0.25)  # Prometheus extrapolates
    assert prometheus.value("sum(smartbatch_answered_batches_total)") == batches


def test_each_version_of_a_model_has_a_series_of_its_own(stack: Callable[..., Stack], tmp_path: Path) -> None:
    system = stack(MODEL_PATH=MODEL)
    system.gateway()
    system.worker()
    system.worker(MODEL_VERSION=2)
    system.ready()
    eventually(lambda: set(system.client.get(f"{system.url}/readyz").json()["ready_workers"].values()) == {1}, 30)
    for number in range(40):  # every fourth request is for version 2
        assert system.predict(b"%d" % number, params={"version": 1 + number % 4 // 3}).status_code == 200
    prometheus = Prometheus(tmp_path, [system.url], system.worker_urls())

    def by_version(title: str, query: int = 0) -> dict[str, float]:
        (panel,) = [panel for panel in panels() if panel["title"] == title]
        found = prometheus.query(in_total(panel["targets"][query]["expr"]))
        assert {labels["model"] for labels, _ in found} <= {"simulated"}
        return {labels["version"]: value for labels, value in found}

    try:
        eventually(lambda: by_version("Rows per second and capacity") == {"1": 30, "2": 10}, 20)
        eventually(lambda: by_version("Answered") == {"1": 30, "2": 10}, 20)
        assert by_version("Share of the requests") == {"1": 0.75, "2": 0.25}
        assert by_version("Failed requests") == {"1": 0, "2": 0}
        assert by_version("Ready workers") == {"1": 1, "2": 1}
        assert by_version("Mean batch size", 1) == {"1": 1, "2": 1}
        assert all(value > 0.002 for value in by_version("Mean latency").values())
        assert all(value > 0 for value in by_version("p99").values())
    finally:
        prometheus.close()


def test_alerts_are_valid_and_silent_until_the_last_worker_is_gone(watched: tuple[Stack, Prometheus]) -> None:
    system, prometheus = watched
    rules = eventually(
        lambda: (r := prometheus.rules("smartbatch")) and all(rule["health"] == "ok" for rule in r) and r, 20
    )
    assert {rule["name"] for rule in rules} == set(re.findall(r"alert: (\w+)", (RULES / "alerts.yml").read_text()))
    assert [(rule["name"], rule["state"]) for rule in rules if rule["state"] != "inactive"] == []
    for process in system.processes[2:]:
        process.kill()
    gone = "SmartBatchNoLiveWorker"
    (expression,) = [rule["query"] for rule in rules if rule["name"] == gone]
    eventually(lambda: prometheus.query(expression), 20)

    def pending() -> set[str]:
        return {rule["name"] for rule in prometheus.rules("smartbatch") if rule["state"] != "inactive"}

    eventually(lambda: gone in pending(), 20)
    assert pending() == {gone, "SmartBatchWorkersNotReady", "SmartBatchTargetDown"}  # for a minute, and for ten


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian: apt-get install prometheus)")
def test_promtool_accepts_the_metrics_of_gateways_and_workers(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH=MODEL)
    system.up()
    assert system.predict(b"x").status_code == 200
    eventually(lambda: system.counter("smartbatch_rows_total") == 1)
    for url in (system.url, *system.worker_urls()):
        text = system.client.get(f"{url}/metrics").text
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
