"""One key's limits in one process, in virtual time."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from smartbatch.gateway.auth import principal as module
from smartbatch.gateway.auth.keys import Key
from smartbatch.gateway.auth.principal import Principal, UsageDelta
from smartbatch.shared.errors import Forbidden, LimitReached, QuotaExceeded, RateLimited
from smartbatch.shared.telemetry import metric_names as names

SHA = hashlib.sha256(b"x").hexdigest()
MIDNIGHT = 1_700_006_400.0  # a multiple of 86,400


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return MIDNIGHT + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def principal(**limits) -> Principal:
    return Principal("app", Key(sha256=SHA, **limits), names.KEY_REQUESTS.counter(CollectorRegistry()))


def let_through(one: Principal, tries: int) -> int:
    through = 0
    for _ in range(tries):
        try:
            one.authorize("m")
            through += 1
        except LimitReached:
            pass
    return through


def test_a_burst_is_allowed_and_then_the_rate(clock: Clock) -> None:
    one = principal(rate=10, burst=5)
    assert let_through(one, 100) == 5
    clock.now = 0.1
    assert let_through(one, 100) == 1
    clock.now = 1.1
    assert let_through(one, 100) == 5  # never more than the burst, however long the pause


def test_the_rejection_says_when_the_next_request_is_allowed(clock: Clock) -> None:
    one = principal(rate=0.1)
    one.authorize("m")
    clock.now = 4.0
    with pytest.raises(RateLimited, match=r"^rate limit exceeded: 0\.1 requests per second, bursts of 1$") as caught:
        one.authorize("m")
    assert caught.value.retry_after_s == pytest.approx(6.0)


def test_without_limits_nothing_is_counted(clock: Clock) -> None:
    one = principal()
    assert let_through(one, 1000) == 1000
    assert one.take_usage() == UsageDelta(0, 0)


def test_a_quota_lasts_until_midnight_utc(clock: Clock) -> None:
    one = principal(quota=3)
    clock.now = 86_400 - 60.0
    assert let_through(one, 10) == 3
    with pytest.raises(QuotaExceeded) as caught:
        one.authorize("m")
    assert caught.value.retry_after_s == pytest.approx(60.0)
    one.take_usage()
    one.update_usage(1, 3)
    clock.now = 86_400.0
    assert let_through(one, 10) == 3


def test_server_failures_are_refunded_to_the_quota_and_not_to_the_rate(clock: Clock) -> None:
    one = principal(quota=2, rate=1, burst=3)
    one.authorize("m")
    one.refund()
    assert let_through(one, 10) == 2
    assert one.take_usage() == UsageDelta(tokens=3, counted=2)


def test_usage_of_other_processes_counts_from_the_next_report(clock: Clock) -> None:
    one = principal(rate=10, burst=5, quota=100)
    assert let_through(one, 2) == 2
    assert one.take_usage() == UsageDelta(2, 2)
    one.authorize("m")  # while the usage call is in progress
    one.update_usage(tokens=2.0, counted=98)
    assert (
        let_through(one, 10) == 1
    )  # two tokens less the one not yet reported to Redis; and the hundredth request of the day
    clock.now = 1.0
    assert let_through(one, 10) == 0


def test_debt_is_paid_back_first(clock: Clock) -> None:
    one = principal(rate=10, burst=5)
    one.update_usage(tokens=-20.0, counted=0)
    clock.now = 2.0
    assert let_through(one, 10) == 0
    clock.now = 2.1
    assert let_through(one, 10) == 1


def test_roles_and_models(clock: Clock) -> None:
    with pytest.raises(Forbidden, match="/metrics"):
        principal(role="monitor").authorize("m")
    principal(role="admin").authorize("m")
    one = principal(models=("a", "b"))
    one.authorize("a")
    with pytest.raises(Forbidden, match=r"^this API key may not use this model$"):
        one.authorize("m")


def test_changed_limits_apply_and_usage_is_kept(clock: Clock) -> None:
    one = principal(rate=1, burst=2, quota=5)
    assert let_through(one, 10) == 2
    one.change(Key(sha256=SHA, rate=1, burst=4, quota=3))
    assert let_through(one, 10) == 1  # two more tokens, one more of the quota
    one.change(Key(sha256=SHA))
    assert let_through(one, 10) == 10


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 30)), max_size=40))
def test_no_pattern_exceeds_burst_plus_rate(pattern: list[tuple[float, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(module, "time", clock)
        one = principal(rate=7, burst=9)
        through = 0
        for pause, tries in pattern:
            clock.now += pause
            through += let_through(one, tries)
        assert through <= 9 + 7 * clock.now + 1e-6
