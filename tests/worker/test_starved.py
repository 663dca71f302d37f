"""The time that counts as the device's waiting for a batch that a backlog fills."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from shared.broker.claims import Entry
from worker.batch import Rider
from worker.claimer import Claimer
from worker.forward_times import ForwardTimes
from worker.policy import CloseReason, Limits
from worker.service_rate import ServiceRate


class Around:
    """Stands for whatever the claimer has around it."""

    def __init__(self) -> None:
        self.meters = self.starved = self
        self.starved_s = 0.0

    def inc(self, seconds: float) -> None:
        self.starved_s += seconds

    def submit(self, batch: object) -> None: ...


@pytest.mark.parametrize(
    ("closed", "free_s", "waited_s", "starved_s"),
    [
        ("full", 3600.0, 0.01, 0.01),  # an hour without a request is nobody's backlog
        ("full", 0.02, 0.5, 0.02),
        ("window", 0.02, 0.5, 0.0),
    ],
)
def test_it_begins_when_the_device_is_free_and_all_of_the_batch_there(
    closed: CloseReason, free_s: float, waited_s: float, starved_s: float
) -> None:
    times, around = ForwardTimes(), Around()
    any_: Any = cast(Any, around)
    claimer = Claimer(any_, any_, any_, Limits(32, 1 << 30, 0.01), times, ServiceRate(times, 32), any_, "w")
    now = time.monotonic()
    rider = Rider(Entry("1-0", "r1", "g", 1_000_000, 10_000, 1, 1, "raw", "", b"x"), 1_000_000, now)
    rider.admitted_at = now - waited_s
    claimer._filling.add([rider])
    claimer._free_since = now - free_s
    claimer._submit(closed)
    assert around.starved_s == pytest.approx(starved_s, abs=0.005)
