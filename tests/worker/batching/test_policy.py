"""The policy in virtual time: by example, and by property over random arrivals."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from smartbatch.worker.batching.policy import DEADLINE_MARGIN_S, BatchState, Limits, decide

LIMITS = Limits(max_rows=32, max_bytes=1000, window_s=0.010)


def fill(rows: int = 1, *, size=10, oldest=100.0, deadline=130.0, next_too_large=False) -> BatchState:
    return BatchState(rows, size, oldest, deadline, next_too_large)


def test_a_batch_waits_until_its_oldest_entrys_window_ends() -> None:
    decision = decide(fill(), LIMITS, now=100.004, run_s=0.005)
    assert decision.reason is None
    assert decision.until == 100.010


def test_the_window_runs_from_admission_so_a_backlog_is_not_delayed_again() -> None:
    assert decide(fill(oldest=99.0), LIMITS, now=100.0, run_s=0.005).reason == "window"


def test_a_full_batch_closes_at_once() -> None:
    assert decide(fill(32), LIMITS, now=100.0, run_s=0.005).reason == "full"


def test_a_batch_is_full_when_the_next_request_does_not_fit() -> None:
    assert decide(fill(30, next_too_large=True), LIMITS, now=100.0, run_s=0.005).reason == "full"


def test_bytes_close_a_batch() -> None:
    assert decide(fill(size=1000), LIMITS, now=100.0, run_s=0.005).reason == "bytes"


def test_draining_closes_what_is_held() -> None:
    assert decide(fill(), LIMITS, now=100.0, run_s=0.005, draining=True).reason == "drain"


def test_a_deadline_closes_a_batch_before_its_window() -> None:
    tight = fill(deadline=100.045)
    before = decide(tight, LIMITS, now=100.0, run_s=0.015)
    assert math.isclose(before.until, 100.005)
    assert decide(tight, LIMITS, now=100.006, run_s=0.015).reason == "deadline"


def test_a_batch_without_rows_never_closes() -> None:
    assert decide(fill(0, oldest=0.0), LIMITS, now=100.0, run_s=1.0, draining=True).reason is None


def test_no_window_means_no_waiting() -> None:
    assert decide(fill(), Limits(32, 1000, 0.0), now=100.0, run_s=0.0).reason == "window"


ARRIVALS = st.lists(st.tuples(st.floats(0, 0.05), st.integers(1, 8), st.integers(1, 300)), min_size=1, max_size=60)


@given(arrivals=ARRIVALS, window_s=st.floats(0, 0.03), run_s=st.floats(0, 0.02), timeout_s=st.floats(0.02, 1))
def test_in_virtual_time_every_batch_closes_for_the_right_reason(arrivals, window_s, run_s, timeout_s) -> None:
    """Drive the policy like the batcher, over arrivals (gap, rows, bytes), with a device that is always free."""
    limits = Limits(max_rows=16, max_bytes=1000, window_s=window_s)
    queue, at = [], 0.0
    for gap, rows, size in arrivals:
        at += gap
        queue.append((at, rows, size))
    now, ran = 0.0, 0
    while queue:
        now = max(now, queue[0][0])
        rows = size = 0
        oldest, next_too_large = queue[0][0], False
        while True:
            while queue and queue[0][0] <= now and rows < limits.max_rows and size < limits.max_bytes:
                next_too_large = rows > 0 and rows + queue[0][1] > limits.max_rows
                if next_too_large:
                    break
                _, more_rows, more_bytes = queue.pop(0)
                rows, size, ran = rows + more_rows, size + more_bytes, ran + 1
            decision = decide(BatchState(rows, size, oldest, oldest + timeout_s, next_too_large), limits, now, run_s)
            if decision.reason:
                break
            assert decision.until > now  # never a time in the past
            now = min(decision.until, queue[0][0]) if queue else decision.until
        assert rows <= limits.max_rows
        late = oldest + timeout_s - run_s - DEADLINE_MARGIN_S
        match decision.reason:
            case "full":
                assert rows == limits.max_rows or next_too_large
            case "bytes":
                assert size >= limits.max_bytes
            case "window":
                assert now >= oldest + window_s
                assert oldest + window_s <= late
            case "deadline":
                assert now >= late
        assert now <= max(oldest, min(oldest + window_s, late)) + 1e-9  # with a free device no entry waits longer
    assert ran == len(arrivals)
