from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.deploy.rollout.plan import Plan, Waiting, parse_duration, parse_steps, weights_at
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.routing import check_weights


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("30d", 2_592_000), ("0s", 0), (" 5s ", 5)]
)
def test_a_duration_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10 m", "-1s", "31d", "1h30m", "nan", "infs", "٣s", "1e3s"])
def test_any_other_duration_is_an_error(text: str) -> None:
    with pytest.raises(SmartBatchError, match=r"a duration must be like 90s, 10m or 1h and at most 30d, got "):
        parse_duration(text)


def test_steps_are_parsed() -> None:
    assert parse_steps("1,5, 12.5,100") == [1.0, 5.0, 12.5, 100.0]
    assert parse_steps("100") == [100.0]


@pytest.mark.parametrize(
    "text", ["", "1,5", "0,100", "5,5,100", "50,10,100", "1,x,100", "1,nan,100", "nan", "1,,100", "200"]
)
def test_steps_that_do_not_grow_to_100_are_an_error(text: str) -> None:
    with pytest.raises(SmartBatchError, match=r"growing percentages that end with 100, like 1,10,100, got "):
        parse_steps(text)


def test_the_versions_before_keep_their_proportions() -> None:
    assert weights_at(10, 3, {1: 0.75, 2: 0.25}) == {1: 67.5, 2: 22.5, 3: 10}
    assert weights_at(100, 3, {1: 0.75, 2: 0.25}) == {3: 100}


@given(
    st.floats(0.001, 100),
    st.dictionaries(st.integers(2, 9), st.floats(1e-3, 1e6), min_size=1, max_size=8),
)
def test_weights_are_percentages(percent: float, others: dict[int, float]) -> None:
    weights = weights_at(percent, 1, others)
    check_weights(weights)
    assert weights[1] == percent
    assert sum(weights.values()) == pytest.approx(100, abs=1e-5)


def test_each_step_lasts_its_time_and_until_there_were_enough_requests() -> None:
    plan = Plan([10, 100], over_s=60, min_requests=20)
    plan.begin_step(0, 1000.0, 0)
    assert plan.waiting(1010.0, 5) == Waiting(20.0, 15)
    assert plan.waiting(1029.0, 500) == Waiting(1.0, 0)
    assert plan.waiting(1031.0, 19) == Waiting(0.0, 1)
    assert plan.waiting(1031.0, 20) is None
    plan.begin_step(1, 1031.0, 20)
    assert (plan.percent, plan.is_last, plan.waiting(1062.0, 39)) == (100, True, Waiting(0.0, 1))
    assert plan.waiting(1062.0, 40) is None


def test_no_requests_are_waited_for_if_none_are_asked_for() -> None:
    plan = Plan([100], over_s=0, min_requests=0)
    plan.begin_step(0, 5.0, 0)
    assert plan.waiting(5.0, 0) is None
