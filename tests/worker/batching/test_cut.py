"""Cuts of waiting rows into batches, compared with all possible cuts."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartbatch.worker.batching.cut import SLACK, Costs, cut_batches, equal_rows


def curve(fixed: float, linear: float, square: float = 0.0) -> Costs:
    return lambda rows, sizes: fixed + rows * sizes * (linear + square * sizes)


def seconds_of(sizes: list[int], cut: list[int], costs: Costs) -> list[float]:
    """The seconds of each batch of a cut."""
    ends = list(itertools.accumulate(cut))
    return [float(costs(np.array([rows]), np.array([sizes[end - 1]]))[0]) for rows, end in zip(cut, ends, strict=True)]


def mean_completion(sizes: list[int], cut: list[int], costs: Costs) -> float:
    done = itertools.accumulate(seconds_of(sizes, cut, costs))
    return sum(rows * at for rows, at in zip(cut, done, strict=True)) / len(sizes)


def all_cuts(count: int, max_rows: int) -> Iterator[list[int]]:
    if count == 0:
        yield []
    for rows in range(1, min(count, max_rows) + 1):
        for rest in all_cuts(count - rows, max_rows):
            yield [rows, *rest]


def allowed_cuts(sizes: list[int], max_rows: int, max_tokens: float) -> list[list[int]]:
    def fits(cut: list[int]) -> bool:
        ends = itertools.accumulate(cut)
        return all(rows == 1 or rows * sizes[end - 1] <= max_tokens for rows, end in zip(cut, ends, strict=True))

    return [cut for cut in all_cuts(len(sizes), max_rows) if fits(cut)]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=9).map(sorted),
    max_rows=st.integers(1, 9),
    max_tokens=st.one_of(st.just(math.inf), st.integers(1, 800)),
    fixed=st.floats(0, 100),
    linear=st.floats(0, 1),
    square=st.floats(0, 0.01),
)
def test_no_allowed_cut_is_three_per_cent_cheaper(
    sizes: list[int], max_rows: int, max_tokens: float, fixed: float, linear: float, square: float
) -> None:
    costs = curve(fixed, linear, square)
    cut = cut_batches(np.array(sizes), costs, max_rows, max_tokens)
    allowed = allowed_cuts(sizes, max_rows, max_tokens)
    assert cut in allowed
    least = min(sum(seconds_of(sizes, each, costs)) for each in allowed)
    assert sum(seconds_of(sizes, cut, costs)) <= SLACK * least * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=9).map(sorted),
    fixed=st.floats(0, 100),
    linear=st.floats(0.01, 1),
)
def test_rows_are_answered_no_later_than_with_the_cheapest_cut(sizes: list[int], fixed: float, linear: float) -> None:
    costs = curve(fixed, linear)
    cut = cut_batches(np.array(sizes), costs, 9, math.inf)
    cheapest = min(all_cuts(len(sizes), 9), key=lambda each: sum(seconds_of(sizes, each, costs)))
    # The slack may be used up by a later batch; each row is then later by no more than that.
    assert mean_completion(sizes, cut, costs) <= SLACK * mean_completion(sizes, cheapest, costs) * (1 + 1e-9)


def test_rows_of_unequal_size_are_kept_apart_where_padding_costs_more_than_a_launch() -> None:
    sizes = np.array([10, 10, 10, 10, 500, 500])
    assert cut_batches(sizes, curve(fixed=50, linear=1), 32, math.inf) == [4, 2]


def test_rows_of_unequal_size_share_a_batch_where_a_launch_costs_more_than_padding() -> None:
    sizes = np.array([10, 10, 10, 10, 500, 500])
    assert cut_batches(sizes, curve(fixed=1e6, linear=1), 32, math.inf) == [6]


def test_where_the_cost_is_linear_in_rows_nobody_waits_for_another_row() -> None:
    assert cut_batches(np.full(32, 7), curve(fixed=0, linear=1), 32, math.inf) == [1] * 32
    assert equal_rows(32, curve(fixed=0, linear=1), 32) == 1


def test_where_launches_dominate_batches_are_full() -> None:
    assert cut_batches(np.full(64, 7), curve(fixed=1e6, linear=1), 32, math.inf) == [32, 32]
    assert equal_rows(64, curve(fixed=1e6, linear=1), 32) == 32


def test_a_little_cost_of_a_launch_is_accepted_for_earlier_answers() -> None:
    rows = equal_rows(32, curve(fixed=1, linear=10), 32)
    assert rows in (4, 8)  # 32 rows: 321 in one batch, 324 in four, 328 in eight, 352 one by one
    assert max(cut_batches(np.full(32, 1), curve(fixed=1, linear=10), 32, math.inf)) <= 8


@pytest.mark.parametrize(("count", "max_rows"), [(1, 32), (5, 3), (33, 32), (100, 64), (500, 256)])
def test_no_batch_exceeds_the_rows(count: int, max_rows: int) -> None:
    cut = cut_batches(np.arange(1, count + 1), curve(fixed=1e9, linear=1), max_rows, math.inf)
    assert sum(cut) == count
    assert max(cut) <= max_rows
    assert len(cut) == math.ceil(count / max_rows)
    assert equal_rows(count, curve(fixed=1e9, linear=1), max_rows) <= max_rows


def test_no_batch_exceeds_the_tokens_unless_it_is_one_row() -> None:
    assert cut_batches(np.array([10, 10, 10, 10, 300]), curve(fixed=1e9, linear=1), 32, 20) == [2, 2, 1]


def test_the_largest_sizes_overflow_nothing() -> None:
    cut = cut_batches(np.full(64, 2**31), curve(fixed=1e-3, linear=1e-6, square=1e-9), 64, math.inf)
    assert sum(cut) == 64


def test_before_anything_was_measured_a_cut_is_found() -> None:
    nothing = curve(0, 0)
    assert sum(cut_batches(np.arange(1, 41), nothing, 32, math.inf)) == 40
    assert 1 <= equal_rows(40, nothing, 32) <= 32


def test_a_pool_of_64_rows_is_cut_in_well_under_a_batch() -> None:
    sizes = np.sort(np.random.default_rng(0).integers(5, 500, 64))
    costs = curve(fixed=0.005, linear=1e-4, square=1e-7)
    took = []
    for _ in range(20):
        started = time.perf_counter()
        cut_batches(sizes, costs, 32, math.inf)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.003  # 0.6 ms on one core of a server


def test_a_large_pool_is_cut_too() -> None:
    sizes = np.sort(np.random.default_rng(0).integers(5, 500, 2000))
    started = time.perf_counter()
    cut = cut_batches(sizes, curve(fixed=0.005, linear=1e-4), 512, math.inf)
    assert sum(cut) == 2000
    assert time.perf_counter() - started < 2
