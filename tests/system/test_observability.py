"""/metrics, /stats, /healthz, /readyz: correct with one gateway process and with several."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.brokers import Broker, eventually
from tests.system.stack import Stack
from tests.system.test_batching import bodies, send_all


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, distinguishing labels) → value. Fails on text that Prometheus would reject."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model", "version", "worker")}
            key = (sample.name, ",".join(labels.values()))
            found[key] = found.get(key, 0) + sample.value
    return found


@pytest.mark.parametrize("processes", [1, 3])
async def test_every_request_is_counted_once(stack: Callable[..., Stack], processes: int) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0", GATEWAY_PROCESSES=processes)
    system.up(2)
    await send_all(system.url, bodies(400), 20)
    assert system.predict(b"x", params={"top_k": "many"}).status_code == 400

    def seen() -> dict[tuple[str, str], float] | None:
        found = samples(httpx.get(f"{system.url}/metrics").text)
        for url in system.worker_urls():
            for key, value in samples(httpx.get(f"{url}/metrics").text).items():
                found[key] = found.get(key, 0) + value
        # These may come late: twice a second gateway processes measure their event loop and share their counts.
        counted = found.get(("smartbatch_requests_total", "ok"), 0) >= 400
        counted = counted and found.get(("smartbatch_gateway_loop_lag_seconds_count", ""), 0) > 0
        return found if counted and found.get(("smartbatch_entries_total", "ok")) == 400 else None

    found = eventually(seen)
    assert found["smartbatch_requests_total", "ok"] == 400
    assert found["smartbatch_requests_total", "invalid"] == 1
    assert found["smartbatch_request_seconds_count", "ok"] == 400
    assert found["smartbatch_request_seconds_count", "invalid"] == 1
    assert found["smartbatch_request_errors_total", "bad_request"] == 1
    assert found["smartbatch_answered_rows_total", ""] == 400
    assert found["smartbatch_answered_batches_total", ""] == found["smartbatch_batch_rows_count", ""]
    in_forwards_s = pytest.approx(found["smartbatch_request_forward_seconds_total", ""], rel=0.01)
    assert found["smartbatch_request_part_seconds_total", "forward"] == in_forwards_s
    assert found["smartbatch_batch_requests_sum", ""] == 400
    assert found["smartbatch_rows_total", ""] == 400
    assert found["smartbatch_queue_wait_seconds_count", ""] == 400
    assert (
        found["smartbatch_batches_total", "full"]
        + found["smartbatch_batches_total", "window"]
        + found["smartbatch_batches_total", "idle"]
        > 0
    )
    assert found["smartbatch_queue_depth", ""] == 0
    assert found["smartbatch_workers", "ready"] == 2
    assert found["smartbatch_batch_limit_rows", ""] == 2 * 32
    assert found["smartbatch_request_timeout_seconds", ""] == 30
    assert found["smartbatch_gateway_cpu_seconds_total", ""] > 0
    assert found["smartbatch_gateway_resident_memory_bytes", ""] > processes * 10_000_000
    assert found["smartbatch_gateway_loop_lag_seconds_count", ""] > 0


def test_redis_gauges_are_absent_while_redis_is_unreachable(stack: Callable[..., Stack], broker: Broker) -> None:
    system = stack(MODEL_PATH="simulated")
    system.up()
    assert system.predict(b"x").status_code == 200
    eventually(lambda: system.counter("smartbatch_workers", 'state="ready"') == 1)
    broker.pause()
    try:
        eventually(lambda: "smartbatch_workers{" not in system.client.get(f"{system.url}/metrics").text, 15)
        text = system.client.get(f"{system.url}/metrics").text
        assert "smartbatch_broker_up 0.0" in text
        assert "smartbatch_queue_depth{" not in text
        assert system.counter("smartbatch_requests_total", 'outcome="ok"') == 1
        assert system.counter("smartbatch_rows_total") == 1  # which the worker reports itself
    finally:
        broker.resume()
    eventually(lambda: system.counter("smartbatch_broker_up") == 1 and system.counter("smartbatch_workers") == 1, 15)


def test_worker_serves_its_own_metrics_with_its_id(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    system.up()
    assert system.predict(b"x").status_code == 200
    [worker_id] = system.stats()["workers"]
    [url] = system.worker_urls()
    eventually(
        lambda: f'smartbatch_rows_total{{model="simulated",version="1",worker="{worker_id}"}} 1.0' in _shown(url)
    )
    assert "smartbatch_rows_total" not in _shown(system.url)


def _shown(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


async def test_stats_show_throughput_latency_batches_and_workers(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=20,row_ms=0")
    system.up()
    await send_all(system.url, bodies(200), 10)
    stats = eventually(lambda: (s := system.stats()) and s["outcomes"].get("ok") == 200 and s)
    assert stats["throughput_rps"] == 20.0
    assert 20 < stats["latency_ms"]["p50"] < stats["latency_ms"]["p99"] < 5000
    assert sum(stats["batches"]["closed"].values()) == sum(stats["batches"]["rows_at_most"].values())
    [worker] = stats["workers"].values()
    assert (worker["state"], worker["rows"]) == ("ready", 200)


def test_readiness_needs_a_worker_and_health_does_not(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    system.gateway()
    assert system.client.get(f"{system.url}/healthz").status_code == 200
    not_yet = system.client.get(f"{system.url}/readyz")
    assert (not_yet.status_code, not_yet.json()["ready"]) == (503, False)
    worker = system.worker()
    system.ready()
    worker.kill()
    eventually(lambda: system.client.get(f"{system.url}/readyz").status_code == 503, 15)


def test_one_gateway_serves_every_model_that_is_announced(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    system.gateway()
    system.worker()
    system.worker(MODEL_NAME="second")
    system.ready()
    eventually(lambda: system.predict(b"x", params={"model": "second"}).status_code == 200)
    assert system.predict(b"x", params={"model": "second"}).json()["model"] == "second"
    unknown = system.predict(b"x", params={"model": "third"})
    assert unknown.status_code == 404
    assert unknown.json()["detail"] == "model 'third' not found; available: second, simulated"
    assert system.predict(b"x", params={"model": "{x}:requests"}).status_code == 404
