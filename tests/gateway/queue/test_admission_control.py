"""What admission control rejects, in virtual time."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.shared.broker.queue.admission import AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.errors import DeadlineExceeded, DeadlineUnattainable, QueueFull, Unavailable


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission_control(clock: Clock) -> AdmissionControl:
    return AdmissionControl(100, lambda: Capacity(rows_per_s=50, batch_s=0.2), clock)


def request(timeout_ms: int = 5000) -> NewEntry:
    return NewEntry("r", timeout_ms, 1, "raw", b"x")


def full(admission_control: AdmissionControl) -> None:
    admission_control.update(AdmitResult(100, 120, [AdmitStatus.FULL]), [(request(), AdmitStatus.FULL)])


def is_rejected(admission_control: AdmissionControl, timeout_ms: int = 5000) -> bool:
    try:
        admission_control.check(timeout_ms)
    except (QueueFull, DeadlineUnattainable):
        return True
    return False


def test_requests_are_admitted_until_redis_rejects_one(admission_control: AdmissionControl) -> None:
    assert not is_rejected(admission_control)
    full(admission_control)
    assert is_rejected(admission_control)


def test_as_many_requests_pass_as_places_become_free(admission_control: AdmissionControl, clock: Clock) -> None:
    full(admission_control)
    clock.now += 0.125  # six rows at 50 a second, and a quarter
    assert [is_rejected(admission_control) for _ in range(8)] == [False] * 6 + [True] * 2


def test_it_reopens_once_redis_shows_room_and_not_at_each_free_place(admission_control: AdmissionControl) -> None:
    full(admission_control)
    admission_control.update(AdmitResult(96, 120, [AdmitStatus.ADMITTED]), [])
    assert is_rejected(admission_control)
    admission_control.update(AdmitResult(94, 120, [AdmitStatus.ADMITTED]), [])
    assert not is_rejected(admission_control)


def test_old_rejections_are_forgotten(admission_control: AdmissionControl, clock: Clock) -> None:
    full(admission_control)
    clock.now += 0.3
    assert [is_rejected(admission_control) for _ in range(100)] == [False] * 100


def test_a_request_rejected_for_its_bytes_rejects_no_other(admission_control: AdmissionControl) -> None:
    admission_control.update(AdmitResult(3, 3, [AdmitStatus.FULL]), [(request(), AdmitStatus.FULL)])
    assert not is_rejected(admission_control)


def test_only_timeouts_as_short_as_the_unattainable_one_are_rejected(admission_control: AdmissionControl) -> None:
    admission_control.update(
        AdmitResult(90, 100, [AdmitStatus.DEADLINE_UNATTAINABLE]), [(request(2000), AdmitStatus.DEADLINE_UNATTAINABLE)]
    )
    assert [is_rejected(admission_control, timeout_ms) for timeout_ms in (1000, 2000, 2001, 30000)] == [
        True,
        True,
        False,
        False,
    ]


def test_short_timeouts_are_admitted_again_once_the_wait_is_well_below_them(
    admission_control: AdmissionControl,
) -> None:
    admission_control.update(
        AdmitResult(90, 100, [AdmitStatus.DEADLINE_UNATTAINABLE]), [(request(2000), AdmitStatus.DEADLINE_UNATTAINABLE)]
    )
    admission_control.update(AdmitResult(80, 85, [AdmitStatus.ADMITTED]), [])  # (85 + 1) / 50 + 0.2 = 1.92 s
    assert is_rejected(admission_control, 2000)
    admission_control.update(AdmitResult(80, 83, [AdmitStatus.ADMITTED]), [])  # (83 + 1) / 50 + 0.2 = 1.88 s
    assert not is_rejected(admission_control, 2000)


def test_an_unattainable_request_of_many_rows_rejects_no_small_one(admission_control: AdmissionControl) -> None:
    many_rows = NewEntry("r", 2000, 60, "raw", b"x")
    admission_control.update(
        AdmitResult(40, 50, [AdmitStatus.DEADLINE_UNATTAINABLE]), [(many_rows, AdmitStatus.DEADLINE_UNATTAINABLE)]
    )  # 60 more rows are; one more isn't
    assert not is_rejected(admission_control, 2000)
    text = str(admission_control.rejection(AdmitStatus.DEADLINE_UNATTAINABLE, 2000, rows=60))
    assert text == (
        "50 rows ahead and 60 of this request at 50 rows/s: 2.2 s, plus 0.2 s for its own batch = 2.4 s; "
        "the timeout is 2 s"
    )


def test_nothing_is_rejected_while_the_rate_is_unknown(clock: Clock) -> None:
    admission_control = AdmissionControl(100, Capacity, clock)
    full(admission_control)
    assert not is_rejected(admission_control)


def test_without_a_worker_a_full_queue_and_an_expired_request_say_how_long_a_start_takes(clock: Clock) -> None:
    admission_control = AdmissionControl(100, lambda: Capacity(start_s=12.4), clock)
    full(admission_control)
    assert not is_rejected(admission_control)  # places may be free: Redis is asked
    rejected, expired = admission_control.rejection(AdmitStatus.FULL, 5000), admission_control.expiry(30.0)
    assert str(rejected) == (
        "the queue is full (MAX_QUEUE or MAX_QUEUE_BYTES); no worker is ready, and the last one took 12.4 s to start"
    )
    assert str(expired) == "not answered within 30 s: no worker is ready, and the last one took 12.4 s to start"
    for error in (rejected, expired):
        assert isinstance(error, Unavailable) and 12.4 <= error.retry_after_s <= 15.5


@pytest.mark.parametrize("capacity", [Capacity(), Capacity(50, 0.2, workers=1, start_s=12.4)])
def test_otherwise_an_expired_request_is_late(clock: Clock, capacity: Capacity) -> None:
    expired = AdmissionControl(100, lambda: capacity, clock).expiry(0.05)
    assert isinstance(expired, DeadlineExceeded) and str(expired) == "not answered within 0.05 s"


def test_retry_after_is_the_time_to_finish_what_is_inflight_with_jitter(admission_control: AdmissionControl) -> None:
    admission_control.update(
        AdmitResult(100, 1000, [AdmitStatus.FULL]), [(request(), AdmitStatus.FULL)]
    )  # 1000 rows at 50 a second
    times = [admission_control.retry_after_s() for _ in range(200)]
    assert 20 <= min(times) < 20.5
    assert 24.5 < max(times) <= 25


def test_short_retry_times_are_spread_over_a_second(admission_control: AdmissionControl) -> None:
    times = [admission_control.retry_after_s() for _ in range(200)]
    assert 0.5 <= min(times) < 0.6
    assert 1.4 < max(times) <= 1.5


def test_an_unattainable_request_is_told_when_its_timeout_would_suffice(admission_control: AdmissionControl) -> None:
    admission_control.update(
        AdmitResult(500, 1000, [AdmitStatus.DEADLINE_UNATTAINABLE]),
        [(request(2000), AdmitStatus.DEADLINE_UNATTAINABLE)],
    )
    with pytest.raises(DeadlineUnattainable) as caught:
        admission_control.check(2000)
    assert str(caught.value) == (
        "1000 rows ahead and 1 of this request at 50 rows/s: 20.02 s, plus 0.2 s for its own batch = 20.22 s; "
        "the timeout is 2 s"
    )
    assert 18.2 <= caught.value.retry_after_s <= 18.2 * 1.25


EXPLANATION = re.compile(
    r"(\d+) rows? ahead and (\d+) of this request at (\S+) rows/s: (\S+) s, plus (\S+) s for its own batch = (\S+) s; "
    r"(?:the timeout is (\S+) s|timeouts up to (\S+) s are accepted again below (\S+) s)"
)


@given(
    inflight=st.integers(1, 100_000),
    rows=st.integers(1, 100),
    rate=st.floats(0.01, 1e5),
    batch_s=st.floats(0, 20),
    timeout_ms=st.integers(1, 100_000),
)
def test_the_numbers_of_an_explanation_add_up(
    inflight: int, rows: int, rate: float, batch_s: float, timeout_ms: int
) -> None:
    admission_control = AdmissionControl(100, lambda: Capacity(rate, batch_s), Clock())
    late = NewEntry("r", timeout_ms, rows, "raw", b"x")
    status = AdmitStatus.DEADLINE_UNATTAINABLE
    admission_control.update(AdmitResult(1, inflight, [status]), [(late, status)])
    found = EXPLANATION.fullmatch(str(admission_control.rejection(status, timeout_ms, rows)))
    assert found
    ahead, own, shown_rate, queue_s, own_s, wait_s = map(Decimal, found.groups()[:6])
    assert (ahead, own) == (inflight, rows)
    assert float(shown_rate) == pytest.approx(rate, rel=0.005)
    assert float((ahead + own) / shown_rate) == pytest.approx(float(queue_s), abs=0.00501)
    assert queue_s + own_s == wait_s
    if found[7]:
        assert float(found[7]) == timeout_ms / 1000


def test_while_the_wait_falls_a_rejection_says_when_timeouts_are_accepted_again(
    admission_control: AdmissionControl,
) -> None:
    status = AdmitStatus.DEADLINE_UNATTAINABLE
    admission_control.update(AdmitResult(90, 100, [status]), [(request(2000), status)])
    admission_control.update(AdmitResult(80, 87, [AdmitStatus.ADMITTED]), [])
    with pytest.raises(DeadlineUnattainable) as caught:
        admission_control.check(2000)
    assert str(caught.value) == (
        "87 rows ahead and 1 of this request at 50 rows/s: 1.76 s, plus 0.2 s for its own batch = 1.96 s; "
        "timeouts up to 2 s are accepted again below 1.9 s"
    )


def test_long_texts_make_a_longer_queue_than_short_ones(clock: Clock) -> None:
    capacity = Capacity.of([50 / 0.9], [0.2], bytes_shares=[(100.0, 0.8)])
    admission_control = AdmissionControl(100, lambda: capacity, clock)
    status = AdmitStatus.DEADLINE_UNATTAINABLE
    late = NewEntry("r", 2000, 1, "text", b"x" * 1000)
    admission_control.update(AdmitResult(9, 10, [status], 20_000), [(late, status)])  # 10 * 0.2 + 20,000 * 0.008 rows
    assert str(admission_control.rejection(status, 2000, 1, 1000)) == (
        "162 rows of the usual size ahead and 8.2 of this request at 50 rows/s: 3.4 s, plus 0.2 s for its own batch = "
        "3.6 s; the timeout is 2 s"
    )
    assert is_rejected(admission_control, 2000)
    admission_control.update(AdmitResult(9, 10, [AdmitStatus.ADMITTED], 1000), [])
    assert not is_rejected(admission_control, 2000)


def test_requests_rejected_together_retry_one_after_the_other(
    admission_control: AdmissionControl, clock: Clock
) -> None:
    full(admission_control)  # 120 rows at 50 a second
    times = sorted(admission_control.rejection(AdmitStatus.FULL, 5000).retry_after_s or 0.0 for _ in range(300))
    assert times[0] >= 2.4
    assert 3.0 <= times[150] <= 4.5  # most retry after those before them: after at most 6 s
    assert 5.5 <= times[-1] <= 7.5
    clock.now += 6.0
    assert (
        admission_control.rejection(AdmitStatus.FULL, 5000).retry_after_s or 0.0
    ) <= 2.4 * 1.42  # by then they have retried or never will


def test_retries_of_a_flood_are_spread_over_seconds(admission_control: AdmissionControl) -> None:
    full(admission_control)
    times = [admission_control.rejection(AdmitStatus.FULL, 5000).retry_after_s or 0.0 for _ in range(50_000)]
    assert max(times) <= 12.5
