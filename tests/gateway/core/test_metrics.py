"""Metrics of a model as Prometheus reads them."""

from __future__ import annotations

import pytest

from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.shared.errors import INTERNAL

LABELS = {"model": "m"}
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
