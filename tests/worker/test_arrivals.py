"""Whether anybody else is coming, learned in virtual time."""

from __future__ import annotations

import random

import pytest

from worker.arrivals import EXPLORE_EVERY, Arrivals

WINDOW_S = 0.010


class Device:
    """One device that runs whatever has come once nobody else is expected: `ask` gives the waits that it decided on."""

    def __init__(self, run_s: float = 0.004) -> None:
        self.arrivals = Arrivals()
        self.run_s = run_s

    def serve(self, admitted_at: list[float]) -> float:
        """Take a batch that came at these times, as if all were seen as they came. Returns when it is closed."""
        for at in admitted_at:
            self.arrivals.came([at], learn=True)
        window_end = admitted_at[0] + WINDOW_S
        closed_at = min(window_end, self.arrivals.quiet_at(admitted_at[-1], window_end))
        self.arrivals.left(closed_at + self.run_s)
        return closed_at


def test_before_anything_is_known_the_window_is_nearly_waited_out() -> None:
    assert Device().serve([100.0]) > 100.005


def test_a_client_alone_is_soon_not_waited_for_though_it_asks_again_within_every_window() -> None:
    device, now, waits = Device(), 100.0, []
    for _ in range(30):
        closed_at = device.serve([now])
        waits.append(closed_at - now)
        now = closed_at + device.run_s + 0.001  # it has its answer, and asks again
    assert max(waits[15:]) == 0


def test_clients_that_ask_again_together_are_waited_for_until_they_have_come_and_no_longer() -> None:
    device, now = Device(), 100.0
    for _ in range(60):
        burst = [now, now + 0.0003, now + 0.0006, now + 0.0008]
        closed_at = device.serve(burst)
        now = closed_at + device.run_s + 0.001
    assert burst[-1] < closed_at < burst[-1] + 0.0015


def test_the_first_of_a_burst_is_not_sent_away_alone() -> None:
    device, now = Device(), 100.0
    for _ in range(60):
        closed_at = device.serve([now, now + 0.0003, now + 0.0006, now + 0.0008])
        now = closed_at + device.run_s + 0.001
    device.arrivals.came([now], learn=True)
    assert device.arrivals.quiet_at(now, now + WINDOW_S) > now + 0.0003


@pytest.mark.parametrize(("rate", "waits"), [(2000, True), (20, False)])
def test_a_stream_is_waited_for_if_the_window_holds_more_of_it(rate: float, waits: bool) -> None:
    rng, device, now = random.Random(1), Device(), 100.0
    waited = []
    for _ in range(300):
        batch, closed_at = [now], now
        while True:
            after = batch[-1] + rng.expovariate(rate)
            device.arrivals.came([batch[-1]], learn=True)
            closed_at = min(batch[0] + WINDOW_S, device.arrivals.quiet_at(batch[-1], batch[0] + WINDOW_S))
            if after > closed_at:
                break
            batch.append(after)
        device.arrivals.left(closed_at + device.run_s)
        waited.append(closed_at - batch[0])
        now = max(after, closed_at + device.run_s)
    settled = sum(waited[100:]) / len(waited[100:])
    assert settled > 0.008 if waits else settled < 0.0025, settled


def test_a_change_for_the_better_is_found_by_waiting_now_and_then() -> None:
    arrivals = Arrivals()
    assert [arrivals.explores() for _ in range(2 * EXPLORE_EVERY)].count(True) == 2
