"""The throughput that a worker reports of rows that have sizes, and how their cost follows from their bytes."""

from __future__ import annotations

import random

import pytest

from smartbatch.worker.batching.throughput import RECENT_ROWS, ThroughputEstimator
from smartbatch.worker.core.cost_model import CostModel


def measured(fixed: float, linear: float) -> CostModel:
    costs = CostModel()
    for rows in (1, 2, 4, 8, 16, 32):
        for size in (8, 64, 512):
            costs.record(rows, fixed + linear * rows * size, size=size, warm_up=True)
    return costs


def test_before_any_request_warm_up_determines_the_rate() -> None:
    costs = CostModel()
    for rows in (1, 32):
        costs.record(rows, 0.01 * rows, size=64, warm_up=True)
    costs.record(1, 0.001, size=8, warm_up=True)
    rate = ThroughputEstimator(costs, 32)
    assert rate.rows_per_s() == pytest.approx(100)
    assert rate.bytes_share() == (0.0, 0.0)


def test_the_rate_is_that_of_a_backlog_of_rows_as_large_as_the_last_ones() -> None:
    rate = ThroughputEstimator(measured(0.0, 1e-3), 32)
    rate.record_sized([(10, 40.0)] * 32, 0.32, 0.32)
    assert rate.rows_per_s() == pytest.approx(100, rel=0.05)
    for _ in range(4):
        rate.record_sized([(100, 400.0)] * 32, 3.2, 3.2)
    assert rate.rows_per_s() == pytest.approx(10, rel=0.05)
    assert rate.batch_full_s() == pytest.approx(3.2, rel=0.05)


def test_a_launch_is_shared_by_the_rows_of_a_full_batch() -> None:
    rate = ThroughputEstimator(measured(1.0, 1e-6), 32)
    rate.record_sized([(10, 40.0)] * 32, 1.0, 1.0)
    assert rate.rows_per_s() == pytest.approx(32, rel=0.05)
    rate.max_rows = 8
    assert rate.rows_per_s() == pytest.approx(8, rel=0.05)


def test_batches_that_take_longer_than_their_forward_lower_the_rate() -> None:
    rate = ThroughputEstimator(measured(0.0, 1e-3), 32)
    for _ in range(40):
        rate.record_sized([(10, 40.0)] * 8, 0.16, 0.08)
    assert rate.rows_per_s() == pytest.approx(50, rel=0.05)


def test_a_pause_of_the_process_hardly_changes_the_rate() -> None:
    rate = ThroughputEstimator(measured(0.0, 1e-3), 32)
    for _ in range(40):
        rate.record_sized([(10, 40.0)] * 8, 0.08, 0.08)
    rate.record_sized([(10, 40.0)] * 8, 20.0, 0.08)
    assert rate.rows_per_s() > 65


def test_cost_that_grows_with_bytes_is_shared_by_bytes() -> None:
    """Four bytes a token, more or less: a text of twice the bytes takes twice as long."""
    rate, draw = ThroughputEstimator(measured(0.0, 1e-3), 32), random.Random(0)
    rows = [(size, size * draw.uniform(3, 5)) for size in (draw.randint(5, 400) for _ in range(RECENT_ROWS))]
    rate.record_sized(rows, 1.0, 1.0)
    mean, share = rate.bytes_share()
    assert mean == pytest.approx(sum(size_bytes for _, size_bytes in rows) / len(rows))
    assert share > 0.85


def test_cost_that_is_the_same_for_all_rows_is_not_shared_by_bytes() -> None:
    rate, draw = ThroughputEstimator(measured(0.1, 1e-9), 1), random.Random(0)
    rows = [(size, size * 4.0) for size in (draw.randint(5, 400) for _ in range(RECENT_ROWS))]
    rate.record_sized(rows, 1.0, 1.0)
    assert rate.bytes_share()[1] < 0.05


def test_bytes_that_say_nothing_about_the_size_have_no_share() -> None:
    rate, draw = ThroughputEstimator(measured(0.0, 1e-3), 32), random.Random(1)
    rows = [(draw.randint(5, 400), draw.uniform(10, 2000)) for _ in range(RECENT_ROWS)]
    rate.record_sized(rows, 1.0, 1.0)
    assert rate.bytes_share()[1] < 0.2


@pytest.mark.parametrize("rows", [[(10, 40.0)] * RECENT_ROWS, [(10, 40.0), (500, 2000.0)]])
def test_too_little_is_known_of_few_or_equal_rows(rows: list[tuple[int, float]]) -> None:
    rate = ThroughputEstimator(measured(0.0, 1e-3), 32)
    rate.record_sized(rows, 1.0, 1.0)
    assert rate.bytes_share()[1] == 0.0


def test_before_the_model_was_measured_nothing_fails() -> None:
    rate = ThroughputEstimator(CostModel(), 32)
    rate.record_sized([(n, 4.0 * n) for n in range(1, 33)], 1.0, 0.0)
    assert rate.rows_per_s() > 0
    assert rate.bytes_share()[1] == 0.0
