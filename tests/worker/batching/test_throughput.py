"""The throughput that a worker reports."""

from __future__ import annotations

import pytest

from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.cost_model import CostModel


@pytest.fixture
def forwards() -> CostModel:
    times = CostModel()
    times.record(1, 0.01, warm_up=True)
    times.record(32, 0.1, warm_up=True)
    return times


def test_before_any_request_warm_up_determines_the_rate(forwards: CostModel) -> None:
    rate = ThroughputEstimator(forwards, 32)
    assert (rate.rows_per_s(), rate.batch_full_s()) == (pytest.approx(320), pytest.approx(0.1))


def test_served_batches_count_for_more_than_bare_forwards(forwards: CostModel) -> None:
    rate = ThroughputEstimator(forwards, 32)
    rate.record(32, 0.25, backlog=True)  # includes waiting for decodes
    assert (rate.rows_per_s(), rate.batch_full_s()) == (pytest.approx(128), pytest.approx(0.25))


def test_a_pause_of_the_process_hardly_changes_the_rate(forwards: CostModel) -> None:
    rate = ThroughputEstimator(forwards, 32)
    for _ in range(20):
        rate.record(32, 0.1, backlog=True)
    rate.record(32, 15.0, backlog=True)
    assert rate.rows_per_s() > 200
    assert rate.batch_full_s() < 0.16


def test_small_batches_count_once_full_ones_have_become_slow(forwards: CostModel) -> None:
    rate = ThroughputEstimator(forwards, 32)
    for _ in range(50):
        rate.record(32, 10.0, backlog=True)  # permanently slow
    rate.record(1, 0.01, backlog=False)
    assert rate.rows_per_s() == pytest.approx(100)
    assert rate.batch_full_s() == pytest.approx(0.32)


def test_under_a_backlog_only_served_batches_count(forwards: CostModel) -> None:
    forwards.record(8, 0.02, warm_up=True)  # 400 a second, on an idle machine
    rate = ThroughputEstimator(forwards, 32)
    rate.record(8, 0.02, backlog=False)
    for _ in range(20):
        rate.record(32, 0.16, backlog=True)
    assert rate.rows_per_s() == pytest.approx(200)
    rate.record(3, 0.02, backlog=False)  # no backlog any more
    assert rate.rows_per_s() == pytest.approx(400)


@pytest.mark.parametrize("backlog", [True, False])
def test_a_batch_counts_for_the_rows_that_it_had(backlog: bool) -> None:
    rate = ThroughputEstimator(CostModel(), 32)
    for _ in range(10):
        rate.record(17, 0.17, backlog=backlog)
    assert rate.rows_per_s() == pytest.approx(100)


def test_a_batch_without_rows_changes_nothing(forwards: CostModel) -> None:
    rate = ThroughputEstimator(forwards, 32)
    rate.record(0, 0.000001, backlog=True)
    assert rate.rows_per_s() == pytest.approx(320)


def test_unknown_is_zero() -> None:
    rate = ThroughputEstimator(CostModel(), 32)
    assert (rate.rows_per_s(), rate.batch_full_s()) == (0.0, 0.0)


def test_sizes_that_are_not_run_any_more_do_not_count() -> None:
    rate = ThroughputEstimator(CostModel(), 128)
    rate.record(128, 0.128, backlog=False)
    rate.record(8, 0.04, backlog=False)
    rate.max_rows = 8
    assert (rate.rows_per_s(), rate.batch_full_s()) == (pytest.approx(200), pytest.approx(0.04))


def test_a_worker_that_shares_its_device_promises_only_its_share(forwards: CostModel) -> None:
    rate = ThroughputEstimator(forwards, 32)
    rate.device_available = lambda: 0.5
    assert (rate.rows_per_s(), rate.batch_full_s()) == (pytest.approx(160), pytest.approx(0.2))
