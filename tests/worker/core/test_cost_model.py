"""The predicted seconds of a forward."""

from __future__ import annotations

import random

import numpy as np
import pytest

from smartbatch.worker.core.cost_model import FIRST_FORWARDS, CostModel

SIZES = (16, 32, 64, 128, 256)
FIXED, LINEAR, SQUARE = 5e-3, 1e-4, 2e-7  # about those of a small transformer on one core


def true_s(rows: int, size: int, slower: float = 1.0) -> float:
    return slower * (FIXED + LINEAR * rows * size + SQUARE * rows * size * size)


def error_of(costs: CostModel, slower: float = 1.0) -> float:
    """The largest relative error over rows and sizes that occur."""
    cases = [(rows, size) for rows in (1, 3, 8, 20, 32) for size in (16, 50, 100, 256)]
    return max(abs(costs.estimate(*case) / true_s(*case, slower) - 1) for case in cases)


def fitted(noise: float = 0.0, seed: int = 0) -> CostModel:
    """Warmed up on a small grid, the first forward far too slow, as it often is."""
    costs, draw = CostModel(), random.Random(seed)
    for rows in (1, 2, 4, 8, 16, 32):
        costs.record(rows, true_s(rows, 64) * draw.uniform(1 - noise, 1 + noise), size=64, warm_up=True)
    for size in (16, 256):
        for rows in (1, 4, 16):
            costs.record(rows, true_s(rows, size) * draw.uniform(1 - noise, 1 + noise), size=size, warm_up=True)
    return costs


def serve(costs: CostModel, batches: int, noise: float = 0.0, slower: float = 1.0, seed: int = 1) -> None:
    draw = random.Random(seed)
    for _ in range(batches):
        rows, size = draw.randint(1, 32), draw.choice(SIZES)
        costs.record(rows, true_s(rows, size, slower) * draw.uniform(1 - noise, 1 + noise), size=size)


def test_a_small_grid_determines_the_cost_of_every_batch() -> None:
    assert error_of(fitted()) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_averaged(seed: int) -> None:
    costs = fitted(noise=0.1, seed=seed)
    serve(costs, 200, noise=0.1, seed=seed)
    assert error_of(costs) < 0.09


def test_many_estimates_equal_single_ones() -> None:
    costs = fitted()
    rows, sizes = np.array([[1, 5, 32]]), np.array([[10], [70]])
    found = costs.estimates(rows, sizes)
    assert found.shape == (2, 3)
    assert found[1, 2] == pytest.approx(costs.estimate(32, 70))


@pytest.mark.parametrize("slower", [3.0, 10.0, 1 / 3])
def test_a_model_that_becomes_slower_or_faster_is_learned_again(slower: float) -> None:
    costs = fitted()
    serve(costs, 300)
    serve(costs, 300, slower=slower)
    assert error_of(costs, slower) < 0.1


def test_a_pause_of_the_process_hardly_changes_the_estimates() -> None:
    costs = fitted()
    serve(costs, 100)
    costs.record(8, 100 * true_s(8, 64), size=64)
    assert error_of(costs) < 0.25
    serve(costs, 100)
    assert error_of(costs) < 0.02


def test_a_pause_in_the_first_real_forwards_is_forgotten() -> None:
    costs = CostModel()
    costs.record(1, 5.0, size=64, warm_up=True)
    for rows in (1, 2, 4, 8, 16, 32):
        costs.record(rows, true_s(rows, 64), size=64, warm_up=True)
    serve(costs, 200)
    assert error_of(costs) < 0.05


@pytest.mark.parametrize("seed", range(20))
def test_no_estimate_is_negative_or_falls_with_rows_or_size(seed: int) -> None:
    costs, draw = CostModel(), random.Random(seed)
    for _ in range(60):
        costs.record(draw.randint(1, 32), draw.lognormvariate(-5, 2), size=draw.randint(1, 512))
        found = costs.estimates(np.array([[1], [8], [32]]), np.array([1, 64, 512]))
        assert (found >= 0).all() and np.isfinite(found).all()
        assert (np.diff(found, axis=0) >= 0).all() and (np.diff(found, axis=1) >= 0).all()


def test_traffic_of_one_size_does_not_unlearn_the_others() -> None:
    costs = fitted()
    for rows in range(1, 2001):
        costs.record(rows % 32 + 1, true_s(rows % 32 + 1, 64), size=64)
    assert error_of(costs) < 0.15


def test_a_forward_far_above_its_estimate_spoils_no_other() -> None:
    """Where almost nothing was predicted, the measurement must not outweigh everything known."""
    costs = CostModel()
    for _ in range(50):
        costs.record(4, SQUARE * 4 * 256 * 256, size=256)
        costs.record(4, SQUARE * 4 * 128 * 128, size=128)
    costs.record(1, 1e-3, size=1)
    assert costs.estimate(4, 256) == pytest.approx(SQUARE * 4 * 256 * 256, rel=0.1)


def test_huge_sizes_are_recorded() -> None:
    costs = fitted()
    for rows in (1, 2, 32, 64):
        costs.record(rows, 1.0, size=2**31)
    assert np.isfinite(costs.estimates(np.arange(1, 65), np.array(2**31))).all()
    assert np.isfinite(costs.estimate(8, 64))


def test_nothing_is_predicted_before_anything_was_measured() -> None:
    costs = CostModel()
    assert costs.estimate(4) == costs.estimate(4, 64) == 0.0
    assert costs.estimates(np.arange(1, 5), np.ones(4)).tolist() == [0.0] * 4
    assert costs.table() == {}


# --- rows of one size


@pytest.mark.parametrize("size", [1, 3])
def test_between_measured_rows_of_one_size_it_interpolates(size: int) -> None:
    """Whatever the size, such as the three channels of an image."""
    costs = CostModel()
    for rows, seconds in ((1, 0.010), (8, 0.012), (16, 0.030)):  # a step, which no straight line fits
        costs.record(rows, seconds, size=size, warm_up=True)
    assert costs.estimate(1, size) == pytest.approx(0.010)
    assert costs.estimate(8, size) == pytest.approx(0.012)
    assert costs.estimate(12, size) == pytest.approx(0.021)
    assert costs.estimate(32, size) == pytest.approx(0.060)
    assert costs.estimates(np.array([1, 8, 12, 32]), np.full(4, size)) == pytest.approx([0.010, 0.012, 0.021, 0.060])


def test_the_first_real_forward_replaces_that_of_warm_up() -> None:
    costs = CostModel()
    costs.record(8, 3.0, warm_up=True)
    costs.record(8, 0.1)
    assert costs.estimate(8) == pytest.approx(0.1)


def test_a_forward_counts_for_the_rows_that_it_had() -> None:
    costs = CostModel()
    for _ in range(10):
        costs.record(5, 0.05)
        costs.record(8, 0.08)
    assert costs.estimate(8) == pytest.approx(0.08, rel=0.3)
    assert costs.table() == {8: pytest.approx(0.065, rel=0.1)}


def test_an_outlier_counts_as_three_times_the_mean_at_most() -> None:
    costs = CostModel()
    for _ in range(20):
        costs.record(8, 0.1)
    costs.record(8, 100.0)
    assert costs.estimate(8) == pytest.approx(0.14)


def test_a_table_of_one_size_gives_way_to_the_fit_once_sizes_differ() -> None:
    costs = CostModel()
    for rows in (1, 4, 16):
        costs.record(rows, true_s(rows, 64), size=64, warm_up=True)
    assert costs.estimate(4, 64) == pytest.approx(true_s(4, 64))
    for rows in (1, 4, 16):
        costs.record(rows, true_s(rows, 256), size=256, warm_up=True)
    assert FIRST_FORWARDS > 6
    assert error_of(costs) < 0.1
