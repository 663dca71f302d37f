"""What a worker says it can do."""

from __future__ import annotations

import pytest

from worker.forward_times import ForwardTimes
from worker.service_rate import ServiceRate


@pytest.fixture
def forwards() -> ForwardTimes:
    times = ForwardTimes()
    times.record(1, 0.01, warm_up=True)
    times.record(32, 0.1, warm_up=True)
    return times


def test_before_any_request_warm_up_tells(forwards: ForwardTimes) -> None:
    rate = ServiceRate(forwards, 32)
    assert (rate.rows_per_s(), rate.batch_full_s()) == (pytest.approx(320), pytest.approx(0.1))


def test_served_batches_count_for_more_than_bare_forwards(forwards: ForwardTimes) -> None:
    rate = ServiceRate(forwards, 32)
    rate.record(32, 0.4)  # it waited for decodes
    assert (rate.rows_per_s(), rate.batch_full_s()) == (pytest.approx(100), pytest.approx(0.4))


def test_a_batch_of_which_nothing_ran_says_nothing(forwards: ForwardTimes) -> None:
    rate = ServiceRate(forwards, 32)
    rate.record(0, 0.000001)
    assert rate.rows_per_s() == pytest.approx(320)


def test_unknown_is_zero() -> None:
    rate = ServiceRate(ForwardTimes(), 32)
    assert (rate.rows_per_s(), rate.batch_full_s()) == (0.0, 0.0)
