"""Metrics of a model as Prometheus reads them."""

from __future__ import annotations

import gc
import weakref

import pytest
from prometheus_client import generate_latest

from smartbatch.gateway.core import latency_window
from smartbatch.gateway.core.latency_window import LatencyWindow, Summary, merge
from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.shared.errors import INTERNAL, ClientGone

LABELS = {"model": "m", "version": "1"}
OK = LABELS | {"outcome": "ok"}
TIMING_MS = {"admit": 1.0, "queue": 2.0, "decode": 0.0, "batch_wait": 1.0, "forward": 5.0, "reply": 1.0, "total": 10.0}


def test_series_exist_before_the_first_request() -> None:
    """Prometheus computes no rate from a series that starts at a value above zero."""
    metrics = GatewayMetrics()
    metrics.of("m")
    metrics.publish()
    shown = metrics.registry.get_sample_value
    assert shown("smartbatch_requests_total", OK) == 0
    assert shown("smartbatch_request_seconds_count", OK) == 0
    assert shown("smartbatch_request_part_seconds_total", LABELS | {"part": "forward"}) == 0
    assert shown("smartbatch_answered_rows_total", LABELS) == 0


def test_a_request_counts_once_in_reports_and_metrics() -> None:
    metrics = GatewayMetrics()
    queue = metrics.of("m")
    queue.answered(TIMING_MS, rows=3)
    part_s = {part: pytest.approx(ms / 1000) for part, ms in TIMING_MS.items() if part != "total"}
    assert queue.counts() == {"total": {"answered": 1}, "part": part_s}
    metrics.publish()
    shown = metrics.registry.get_sample_value
    assert shown("smartbatch_requests_total", OK) == 1
    assert shown("smartbatch_request_seconds_sum", OK) == pytest.approx(0.01)
    assert shown("smartbatch_answered_rows_total", LABELS) == 3


def test_a_failure_counts_by_its_outcome_and_its_code() -> None:
    metrics = GatewayMetrics()
    metrics.of("m").failed(RuntimeError("boom"), 0.5)
    metrics.publish()
    shown = metrics.registry.get_sample_value
    assert shown("smartbatch_requests_total", LABELS | {"outcome": "error"}) == 1
    assert shown("smartbatch_request_errors_total", LABELS | {"code": INTERNAL}) == 1
    assert shown("smartbatch_request_seconds_sum", LABELS | {"outcome": "error"}) == 0.5


def test_versions_of_a_model_are_counted_apart() -> None:
    metrics = GatewayMetrics()
    metrics.of("m").answered(TIMING_MS, rows=1)
    metrics.of("m@2").answered(TIMING_MS, rows=4)
    metrics.publish()
    shown = metrics.registry.get_sample_value
    assert [shown("smartbatch_answered_rows_total", LABELS | {"version": v}) for v in ("1", "2")] == [1, 4]


def test_a_removed_version_leaves_no_series_and_begins_at_zero_if_it_returns() -> None:
    metrics = GatewayMetrics()
    before = exposition(metrics)
    kept = metrics.of("m")
    kept.answered(TIMING_MS, rows=1)
    metrics.publish()
    alone = exposition(metrics)
    removed = metrics.of("m@2")
    removed.answered(TIMING_MS, rows=1)
    removed.failed(RuntimeError("boom"), 0.5)
    metrics.publish()
    assert 'version="2"' in exposition(metrics)
    metrics.remove("m@2")
    metrics.remove("m@2")
    removed.failed(ClientGone("late"), 0.5)
    metrics.publish()
    assert exposition(metrics) == alone
    metrics.of("m@2")
    metrics.publish()
    assert metrics.registry.get_sample_value("smartbatch_requests_total", OK | {"version": "2"}) == 0
    metrics.remove("m@2")
    metrics.remove("m")
    assert exposition(metrics) == before


def test_a_removed_version_takes_no_memory() -> None:
    metrics = GatewayMetrics()
    reference = weakref.ref(metrics.of("m@2"))
    metrics.remove("m@2")
    gc.collect()
    assert reference() is None


def exposition(metrics: GatewayMetrics) -> str:
    return generate_latest(metrics.registry).decode()


class Clock:
    """The seconds that a window sees, from 1000."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(latency_window.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_total_has_all_seconds_but_the_present_one(clock: Clock) -> None:
    window = LatencyWindow()
    for second in range(200):
        clock.now = 1000.0 + second
        window.answered(0.016)
        window.failed("error", "model_failed")
        window.summary()
        window.minute()
    assert window.total == Summary({"ok": 199, "error": 199}, {"model_failed": 199}, {32: 199})
    clock.now += 1
    window.summary()
    assert window.total.answered == 200


def test_the_minute_has_sixty_to_seventy_seconds(clock: Clock) -> None:
    window = LatencyWindow()
    for second in range(300):
        clock.now = 1000.0 + second
        window.answered(0.016)
        seen = window.minute().answered
        assert seen == second if second < 60 else 60 <= seen <= 70
    clock.now += 71
    window.minute()
    clock.now += 61
    assert window.minute() == Summary()
    assert window.total.answered == 300


def test_what_came_since_is_the_difference() -> None:
    earlier = Summary({"ok": 5, "error": 1}, {"model_failed": 1}, {10: 3, 11: 2})
    later = merge((earlier, Summary({"ok": 2, "timeout": 4}, {"deadline_exceeded": 4}, {11: 1, 40: 1})))
    assert later.since(earlier) == Summary({"ok": 2, "timeout": 4}, {"deadline_exceeded": 4}, {11: 1, 40: 1})
    assert later.since(later) == earlier.since(later) == Summary()


def test_slow_requests_are_counted_by_whole_buckets() -> None:
    """Bucket 32 is from 16 to 17.4 ms, 33 from there to 19.0 ms."""
    summary = Summary({"ok": 6}, {}, {31: 1, 32: 2, 33: 3})
    assert [summary.slower_than(ms) for ms in (1, 16.0, 16.1, 17.5, 20)] == [6, 5, 3, 0, 0]
    assert summary.percentile_at_most_ms(50) == pytest.approx(17.4, abs=0.05)
    assert summary.percentile_at_most_ms(99) == pytest.approx(19.0, abs=0.05)
    assert Summary().percentile_at_most_ms(99) == 0.0
