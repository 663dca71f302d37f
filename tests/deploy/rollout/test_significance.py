from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.deploy.rollout.significance import Bursts, Share, binomial_tail, is_worse, same_share_tail


def exact_binomial_tail(bad: int, total: int, rate: Fraction) -> Fraction:
    terms = (comb(total, n) * rate**n * (1 - rate) ** (total - n) for n in range(bad, total + 1))
    return sum(terms, Fraction(0))


def exact_same_share_tail(new: Share, old: Share) -> Fraction:
    bad = new.bad + old.bad
    ways = sum(comb(new.all, n) * comb(old.all, bad - n) for n in range(new.bad, min(bad, new.all) + 1))
    return Fraction(ways, comb(new.all + old.all, bad))


@st.composite
def shares(draw: st.DrawFn) -> Share:
    total = draw(st.integers(0, 80))
    return Share(draw(st.integers(0, total)), total)


@given(shares(), st.integers(1, 99))
def test_the_binomial_tail_is_exact(share: Share, percent: int) -> None:
    expected = exact_binomial_tail(share.bad, share.all, Fraction(percent, 100))
    if share.bad * 100 <= share.all * percent:
        expected = 1
    assert binomial_tail(share.bad, share.all, percent / 100) == pytest.approx(float(expected), rel=1e-9)


@given(shares(), shares())
def test_the_tail_of_equal_shares_is_exact(new: Share, old: Share) -> None:
    expected = exact_same_share_tail(new, old)
    if new.bad * old.all <= old.bad * new.all:
        expected = 1
    assert same_share_tail(new, old) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("bad", "total", "tail"), [(0, 0, 1.0), (0, 10, 1.0), (1, 10, 0.0)])
def test_no_bad_request_is_acceptable_at_a_limit_of_zero(bad: int, total: int, tail: float) -> None:
    assert binomial_tail(bad, total, 0.0) == tail


def test_large_counts_are_no_problem() -> None:
    assert 0 < binomial_tail(100_500, 10_000_000, 0.01) < 0.1
    assert binomial_tail(200_000, 10_000_000, 0.01) == 0.0
    assert same_share_tail(Share(10_000, 1_000_000), Share(1000, 9_000_000)) == 0.0


@pytest.mark.parametrize(
    ("new", "old", "limit", "worse"),
    [
        (Share(10, 200), Share(0, 4000), 0.01, True),
        (Share(9, 200), Share(0, 4000), 0.01, False),  # may be chance, once in 4,000 times
        (Share(10, 200), Share(200, 4000), 0.01, False),  # the other version fails as often
        (Share(200, 200), Share(0, 0), 0.01, True),  # nothing to compare with
        (Share(0, 0), Share(0, 0), 0.01, False),
        (Share(3, 3), Share(0, 100), 0.01, True),
        (Share(2, 2), Share(0, 100), 0.01, False),
    ],
)
def test_a_version_is_worse_if_neither_limit_nor_other_version_explain_it(
    new: Share, old: Share, limit: float, worse: bool
) -> None:
    assert is_worse(new, old, limit) is worse


def burst_size(bad: list[int]) -> float:
    bursts = Bursts()
    for each in bad:
        bursts.add(Share(each, 20))
    return bursts.size


def test_bad_requests_that_come_together_are_one_burst() -> None:
    assert burst_size([0, 0, 0, 0, 8, 0, 0, 0, 0, 0]) == 8.0
    assert burst_size([1, 0, 1, 1, 0, 0, 1, 1, 2, 1]) == 1.0
    assert burst_size([20] * 10) == burst_size([0] * 10) == burst_size([5]) == burst_size([]) == 1.0


def test_looks_without_requests_say_nothing_about_bursts() -> None:
    bursts = Bursts()
    for _ in range(10):
        bursts.add(Share(0, 0))
    assert (bursts.looks, bursts.size) == (0, 1.0)


def test_a_burst_counts_once() -> None:
    assert is_worse(Share(8, 200), Share(0, 4000), 0.005)
    assert not is_worse(Share(8, 200), Share(0, 4000), 0.005, burst_size=8.0)
