"""Whether another arrival is likely, learned in virtual time."""

from __future__ import annotations

import itertools
import random

import pytest

from smartbatch.worker.batching.arrivals import EXPLORE_EVERY, MAX_EXPLORE_EVERY, ArrivalPredictor

WINDOW_S = 0.010


class Device:
    """One device that runs what has arrived once no other arrival is likely."""

    def __init__(self, run_s: float = 0.004) -> None:
        self.arrivals = ArrivalPredictor()
        self.run_s = run_s

    def serve(self, admitted_at: list[float]) -> float:
        """Fill a batch with arrivals at these times, each observed at once. Returns when it closes."""
        for at in admitted_at:
            self.arrivals.observe([at], learn=True)
        window_end = admitted_at[0] + WINDOW_S
        closed_at = min(window_end, self.arrivals.idle_at(admitted_at[-1], window_end))
        self.run(len(admitted_at), closed_at)
        return closed_at

    def run(self, claimed_entries: int, closed_at: float) -> None:
        self.arrivals.batch_closed(closed_at, sole_worker=True)
        self.arrivals.batch_answered(claimed_entries, closed_at + self.run_s, last=True)


def test_before_any_arrival_most_of_the_window_is_waited() -> None:
    assert Device().serve([100.0]) > 100.005


def test_a_lone_closed_loop_client_is_soon_not_waited_for() -> None:
    device, now, waits = Device(), 100.0, []
    for _ in range(30):
        closed_at = device.serve([now])
        waits.append(closed_at - now)
        now = closed_at + device.run_s + 0.001  # it has its reply and sends the next request
    assert max(waits[15:]) == 0


def test_a_request_right_after_its_reply_does_not_seem_to_precede_it() -> None:
    """Admission times are whole milliseconds."""
    rng, device, now, waits = random.Random(1), Device(), 100.0, []
    for _ in range(60):
        closed_at = device.serve([now])
        waits.append(closed_at - now)
        now = closed_at + device.run_s + 0.0002 - rng.uniform(0, 0.001)
    assert max(waits[20:]) == 0


def test_closed_loop_clients_are_waited_for_until_the_last_is_back() -> None:
    rng, device, now = random.Random(1), Device(), 100.0
    for number in range(60):
        burst = sorted(now + rng.uniform(0, 0.003) for _ in range(4))
        closed_at = device.serve(burst)
        assert number < 20 or closed_at == burst[-1]
        now = closed_at + device.run_s + 0.001


def test_a_client_that_leaves_is_waited_for_once() -> None:
    device, now, waits = Device(), 100.0, []
    for number in range(80):
        burst = [now, now + 0.0003, now + 0.0006, now + 0.0008][: 4 if number < 60 else 3]
        closed_at = device.serve(burst)
        waits.append(closed_at - burst[-1])
        now = closed_at + device.run_s + 0.001
    assert waits[60] > 0
    assert max(waits[20:60]) == max(waits[61:]) == 0


def test_an_arrival_before_a_reply_does_not_count_as_returning() -> None:
    """Two batches alternate: while one runs, the clients of the other arrive."""
    arrivals = ArrivalPredictor()
    arrivals.observe([100.000, 100.001], learn=True)
    arrivals.batch_closed(100.001, sole_worker=True)
    arrivals.observe([100.002, 100.003], learn=True)
    for number in range(200):
        now = 101 + number / 20
        arrivals.batch_answered(2, now, last=False)
        arrivals.observe([now - 0.003], learn=True)  # claimed only now
        arrivals.observe([now + 0.001], learn=True)
        assert number < 20 or arrivals.idle_at(now + 0.001, now + 0.010) > now + 0.001  # one client is still returning
        arrivals.observe([now + 0.002], learn=True)
        assert number < 20 or arrivals.idle_at(now + 0.002, now + 0.010) == now + 0.002
        arrivals.batch_closed(now, sole_worker=True)


def test_the_first_of_a_burst_waits_for_the_others() -> None:
    device, now = Device(), 100.0
    for _ in range(60):
        closed_at = device.serve([now, now + 0.0003, now + 0.0006, now + 0.0008])
        now = closed_at + device.run_s + 0.001
    device.arrivals.observe([now], learn=True)
    assert device.arrivals.idle_at(now, now + WINDOW_S) > now + 0.0003


@pytest.mark.parametrize(("rate", "waits"), [(2000, True), (20, False)])
def test_a_stream_is_waited_for_if_more_arrives_within_the_window(rate: float, waits: bool) -> None:
    rng, device, now, free_at = random.Random(1), Device(), 100.0, 100.0
    waited = []
    for _ in range(300):
        batch, began_at = [now], max(now, free_at)
        while True:
            after = batch[-1] + rng.expovariate(rate)
            device.arrivals.observe([batch[-1]], learn=True)
            idle_at = device.arrivals.idle_at(max(batch[-1], began_at), began_at + WINDOW_S)
            closed_at = min(began_at + WINDOW_S, idle_at)
            if after > closed_at:
                break
            batch.append(after)
        device.run(len(batch), closed_at)
        waited.append(closed_at - began_at)
        now, free_at = after, closed_at + device.run_s
    settled = sum(waited[100:]) / len(waited[100:])
    assert settled > 0.008 if waits else settled < 0.0025, settled


@pytest.mark.parametrize("sole_worker", [True, False])
def test_a_stream_that_ended_is_soon_forgotten(sole_worker: bool) -> None:
    arrivals, now = ArrivalPredictor(), 100.0
    for _ in range(500):
        arrivals.observe([now], learn=True)
        now += 0.002
    waits = []
    for _ in range(100):  # one closed-loop client
        now += 0.001
        arrivals.observe([now], learn=True)
        closed_at = arrivals.idle_at(now, now + WINDOW_S)
        waits.append(closed_at - now)
        arrivals.batch_closed(closed_at, sole_worker=sole_worker)
        now = closed_at + 0.004
        arrivals.batch_answered(1, now, last=True)
    assert waits[0] > 0.005 and max(waits[90:]) < 0.001, waits


@pytest.mark.parametrize(("sole_worker", "waits"), [(True, False), (False, True)])
def test_next_to_other_workers_only_time_before_the_close_counts(sole_worker: bool, waits: bool) -> None:
    """Each batch fills for 2 ms with two arrivals, then runs for 40 ms, in which none is observed."""
    arrivals = ArrivalPredictor()
    for number in range(200):
        now = 100 + number / 10
        arrivals.observe([now, now + 0.001], learn=True)
        arrivals.batch_closed(now + 0.0015, sole_worker=sole_worker)
        arrivals.batch_answered(2, now + 0.042, last=True)
    arrivals.observe([200.0], learn=True)
    arrivals.batch_closed(200.0, sole_worker=sole_worker)
    assert arrivals.expects(WINDOW_S) is waits


def test_exploration_gets_rarer_while_nothing_arrives() -> None:
    arrivals, explored = ArrivalPredictor(), []
    for number in range(10 * MAX_EXPLORE_EVERY):
        if arrivals.should_explore():
            explored.append(number)
        arrivals.batch_closed(100.0, sole_worker=True)
    between = [after - before for before, after in itertools.pairwise([-1, *explored])]
    assert between[:6] == [EXPLORE_EVERY * factor for factor in (1, 2, 4, 8, 16, 16)]
    while not arrivals.should_explore():
        arrivals.batch_closed(100.0, sole_worker=True)
    arrivals.observe([100.0], learn=True)
    arrivals.batch_closed(100.0, sole_worker=True)
    assert [arrivals.should_explore() for _ in range(EXPLORE_EVERY)].count(True) == 1


def test_a_second_client_is_discovered() -> None:
    """They alternate, each sending when the other's batch has run, until a batch waits for both."""
    device, now = Device(run_s=0.004), 100.0
    for _ in range(50):
        now = device.serve([now]) + device.run_s + 0.001
    arrivals = device.arrivals
    for number in range(100):
        arrivals.observe([now], learn=True)
        batch, closed_at = [now], arrivals.idle_at(now, now + WINDOW_S)
        other_at = now + 0.001
        if closed_at >= other_at:
            arrivals.observe([other_at], learn=True)
            batch.append(other_at)
            closed_at = arrivals.idle_at(other_at, now + WINDOW_S)
        device.run(len(batch), closed_at)
        if len(batch) == 1:  # the other client waits while this batch runs
            arrivals.observe([other_at], learn=True)
            device.run(1, closed_at + device.run_s)
        now = closed_at + 2 * device.run_s
        assert number < 80 or len(batch) == 2, number
