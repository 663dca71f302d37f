"""What a lane counts, as Prometheus is shown it."""

from __future__ import annotations

import pytest

from gateway.meters import Meters
from shared.errors import INTERNAL

LABELS = {"model": "m"}
OK = LABELS | {"outcome": "ok"}
TIMING_MS = {"admit": 1.0, "queue": 2.0, "decode": 0.0, "batch_wait": 1.0, "forward": 5.0, "reply": 1.0, "total": 10.0}


def test_what_answers_count_in_is_shown_before_the_first_answer() -> None:
    """A rate has nothing to start from where a series begins with what was already counted."""
    meters = Meters()
    meters.of("m")
    meters.settle()
    shown = meters.registry.get_sample_value
    assert shown("smartbatch_requests_total", OK) == 0
    assert shown("smartbatch_request_seconds_count", OK) == 0
    assert shown("smartbatch_request_part_seconds_count", LABELS | {"part": "forward"}) == 0
    assert shown("smartbatch_answered_rows_total", LABELS) == 0


def test_an_answer_counts_once_however_often_it_is_looked_for() -> None:
    meters = Meters()
    lane = meters.of("m")
    lane.answered(TIMING_MS, rows=3, ride=None)
    assert lane.parts() == (1, pytest.approx({p: ms / 1000 for p, ms in TIMING_MS.items() if p != "total"}))
    meters.settle()
    shown = meters.registry.get_sample_value
    assert shown("smartbatch_requests_total", OK) == 1
    assert shown("smartbatch_request_seconds_sum", OK) == pytest.approx(0.01)
    assert shown("smartbatch_answered_rows_total", LABELS) == 3


def test_a_failure_counts_by_its_outcome_and_its_code() -> None:
    meters = Meters()
    meters.of("m").failed(RuntimeError("boom"), 0.5)
    meters.settle()
    shown = meters.registry.get_sample_value
    assert shown("smartbatch_requests_total", LABELS | {"outcome": "error"}) == 1
    assert shown("smartbatch_request_errors_total", LABELS | {"code": INTERNAL}) == 1
    assert shown("smartbatch_request_seconds_sum", LABELS | {"outcome": "error"}) == 0.5
