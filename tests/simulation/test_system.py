"""The simulated system: its invariants, and agreement with formulas of queueing theory."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from simulation.arrivals import Open, bursty, poisson
from simulation.costs import FREE, affine, measured
from simulation.outcomes import Outcomes
from simulation.reference import one_queue
from simulation.system import Scenario, simulate
from simulation.worker import Device
from smartbatch.worker.batching.policy import Limits
from smartbatch.worker.core.batch import Batch

S = affine(4, 0.2)
SLOW = affine(40, 2)
AT_ONCE = Limits(32, 1 << 40, 0.0)
FIXED = Limits(32, 1 << 40, 0.010, adaptive=False)
ONE_BY_ONE = Limits(1, 1 << 40, 0.0)


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    scenario = Scenario(curve=S, workers=3, rate=2000, measured_s=0.5)
    first, again = simulate(scenario), simulate(scenario)
    assert msgspec.structs.replace(first, cpu_s=0.0) == msgspec.structs.replace(again, cpu_s=0.0)
    assert simulate(msgspec.structs.replace(scenario, seed=2)).arrived != first.arrived


def test_a_device_that_is_slower_in_full_batches_still_meets_deadlines() -> None:
    """A busy CPU behaves so. If small batches determined its capacity, all admitted requests would be late."""
    curve = measured({1: 70, 8: 500, 32: 3200})  # 16 rows/s in batches of 8, 10 in full ones
    crowd = Scenario(curve=curve, pattern="closed", clients=1000, think_s=1.5, timeout_s=30)
    result = simulate(msgspec.structs.replace(crowd, warm_up_s=60, measured_s=60))
    assert result.goodput > 9
    assert result.late < 200  # admitted before the first full batch was measured


@pytest.mark.parametrize("pattern", ["poisson", "bursty"])
@pytest.mark.parametrize("rate", [300, 3000, 12_000])  # a tenth of its capacity, about all, four times
def test_every_arrival_has_exactly_one_outcome(pattern, rate: int) -> None:
    result = simulate(Scenario(curve=S, pattern=pattern, rate=rate, timeout_s=0.1, max_queue=300, measured_s=1.0))
    assert result.arrived > rate
    assert result.ok + result.late + result.rejected == result.arrived
    if rate != 3000:
        assert (result.rejected > 0) == (rate == 12_000)


def test_under_overload_goodput_stays_at_the_devices_capacity() -> None:
    result = simulate(Scenario(curve=S, rate=12_000, timeout_s=0.2, measured_s=2.0))
    assert result.goodput == pytest.approx(3077, rel=0.05)
    assert result.late < result.arrived * 0.01


def test_the_wait_with_batches_of_one_row_is_that_of_an_m_d_1_queue() -> None:
    # ρ = 0.7, D = 10 ms: the mean wait is ρD / 2(1 - ρ) = 11.67 ms, with the service 21.67 ms. An entry claimed ahead
    # starts as soon as the device is free, so the batcher adds no wait.
    scenario = Scenario(curve=affine(10, 0), rate=70, limits=ONE_BY_ONE, measured_s=100.0, costs=FREE)
    outcomes = Outcomes(0.5, 100.5)
    arrivals = Open(poisson(70, random.Random("1:0")), 100.5)
    one_queue(arrivals, 1, affine(10, 0), ONE_BY_ONE, outcomes)
    mean_ms = 1000 * sum(outcomes.latencies_s) / len(outcomes.latencies_s)
    assert mean_ms == pytest.approx(21.67, rel=0.05)
    ordered = sorted(outcomes.latencies_s)
    assert simulate(scenario).p50_ms == pytest.approx(1000 * ordered[len(ordered) // 2], abs=0.5)


def test_a_closed_loop_that_fills_every_batch_is_as_fast_as_the_device() -> None:
    result = simulate(Scenario(curve=S, pattern="closed", clients=64, costs=FREE))
    assert set(result.batches) == {32}
    assert result.goodput == pytest.approx(3077, rel=0.01)


def test_one_client_waits_for_window_and_forward_only() -> None:
    result = simulate(Scenario(curve=S, pattern="closed", clients=1, limits=FIXED, costs=FREE))
    assert result.closed.keys() == {"window"}
    assert 14.2 <= result.p50_ms <= 15.2  # admission times and waits are whole milliseconds


@pytest.mark.parametrize("workers", [1, 4])
def test_one_client_does_not_wait_for_the_window_when_no_other_arrival_is_likely(workers: int) -> None:
    result = simulate(Scenario(curve=S, workers=workers, pattern="closed", clients=1, costs=FREE))
    assert result.closed.keys() <= {"idle", "window"}
    assert result.p50_ms == pytest.approx(4.2, abs=0.01)


def test_a_window_of_zero_runs_at_once() -> None:
    result = simulate(Scenario(curve=S, pattern="closed", clients=1, limits=AT_ONCE, costs=FREE))
    assert result.p50_ms == pytest.approx(4.2, abs=0.01)


@pytest.mark.parametrize("load", [0.2, 0.5])
def test_idle_workers_do_not_split_batches(load: float) -> None:
    rate = load * 8 * 32 / SLOW(32)
    result = simulate(Scenario(curve=SLOW, workers=8, rate=rate, measured_s=10.0))
    reference = Outcomes(0.5, 10.5)
    limits = Limits(32, 1 << 40, window_s=0.010)
    one_queue(Open(poisson(rate, random.Random("1:0")), 10.5), 8, SLOW, limits, reference)
    assert result.mean_batch >= 0.9 * reference.mean_batch


@pytest.mark.parametrize(("load", "split"), [(0.2, 0.0), (0.5, 0.02)])  # by a worker that had claimed ahead
def test_a_batch_begins_only_when_the_previous_window_has_ended(monkeypatch, load: float, split: float) -> None:
    began: list[float] = []  # the oldest admission of each batch, in the order of closing

    def submit(device: Device, batch: Batch) -> None:
        assert batch.closed in ("window", "full")
        began.append(min(claimed.admitted_at for claimed in batch.claimed_entries))
        submitted(device, batch)

    submitted = Device.submit
    monkeypatch.setattr(Device, "submit", submit)
    simulate(Scenario(curve=SLOW, workers=8, rate=load * 8 * 32 / SLOW(32), limits=FIXED, measured_s=5.0))
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert len(gaps) > 200
    too_soon = [gap for gap in gaps if gap < 0.009]  # of a window of 10 ms; admission times are whole milliseconds
    assert len(too_soon) <= split * len(gaps)


def test_partitions_share_nothing_but_the_load() -> None:
    whole = simulate(Scenario(curve=S, workers=2, rate=3000, measured_s=1.0))
    halves = simulate(Scenario(curve=S, workers=4, partitions=2, rate=6000, measured_s=1.0))
    assert halves.goodput == pytest.approx(2 * whole.goodput, rel=0.05)
    assert halves.mean_batch == pytest.approx(whole.mean_batch, rel=0.1)


def test_bursts_keep_the_mean_rate_and_have_a_larger_variance() -> None:
    counts = [0] * 4000  # in each 100 ms
    for at in bursty(1000, random.Random(7)):
        if at >= 400:
            break
        counts[int(at * 10)] += 1
    mean = sum(counts) / len(counts)
    assert mean == pytest.approx(100, rel=0.05)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert variance > 10 * mean  # a Poisson process has the mean


def test_bursts_that_exceed_all_arrivals_are_rejected() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        next(bursty(1000, random.Random(1), factor=20, share=0.1))


def test_a_measured_curve_is_interpolated() -> None:
    curve = measured({1: 5.0, 8: 12.0, 32: 60.0})
    assert [curve(rows) for rows in (1, 8, 20, 32, 44)] == pytest.approx([0.005, 0.012, 0.036, 0.060, 0.084])


SHARED = Scenario(curve=S, workers=8, partitions=4, shared=True, gateways=2, rate=8000, measured_s=1.0)


def test_shared_partitions_serve_as_much_as_ideal_ones() -> None:
    ideal = simulate(msgspec.structs.replace(SHARED, shared=False))
    real = simulate(SHARED)
    assert real.ok == real.arrived == ideal.arrived
    assert real.mean_batch > 0.9 * ideal.mean_batch


def test_gateways_of_unequal_load_share_partitions() -> None:
    result = simulate(msgspec.structs.replace(SHARED, gateways=3, skew=(1, 2, 4), rate=16_000, timeout_s=1.0))
    assert result.ok == result.arrived
    assert result.arrived == pytest.approx(24_000, rel=0.05)


def test_requests_of_a_broker_that_dies_are_answered_elsewhere_a_second_later() -> None:
    result = simulate(msgspec.structs.replace(SHARED, dies_at=1.0, measured_s=2.0))
    assert result.ok == result.arrived
    assert 1000 < result.max_ms < 1500  # PARTITION_PATIENCE is a second


def test_without_moving_the_requests_of_a_dead_broker_are_late() -> None:
    ideal = simulate(msgspec.structs.replace(SHARED, shared=False, dies_at=1.0, measured_s=1.0))
    assert 0 < ideal.late + ideal.failed < ideal.arrived * 0.05
