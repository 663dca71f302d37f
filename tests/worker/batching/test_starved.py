"""The time that the device starves while a backlog fills its next batch."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.worker.batching.batcher import Batcher
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import ClaimedEntry, CloseReason, Limits
from smartbatch.worker.core.cost_model import CostModel


class Around:
    """Stands for the broker, the tracker and the engine."""

    def __init__(self) -> None:
        self.metrics = self.starved = self.queue = self.tracker = self.failure_detector = self
        self.starved_s = 0.0
        self.workers = 2

    def inc(self, seconds: float) -> None:
        self.starved_s += seconds

    def submit(self, batch: object) -> None: ...


@pytest.mark.parametrize(
    ("closed", "free_s", "waited_s", "starved_s"),
    [
        ("full", 3600.0, 0.01, 0.01),  # an hour without requests is no backlog
        ("full", 0.02, 0.5, 0.02),
        ("window", 0.02, 0.5, 0.0),
    ],
)
def test_starvation_starts_when_the_device_is_free_and_the_batch_complete(
    closed: CloseReason, free_s: float, waited_s: float, starved_s: float
) -> None:
    times, around = CostModel(), Around()
    any_: Any = cast(Any, around)
    batcher = Batcher(any_, Limits(32, 1 << 30, 0.01), times, ThroughputEstimator(times, 32), "w")
    batcher.enter(any_)
    now = time.monotonic()
    claimed = ClaimedEntry(Entry("1-0", "r1", "g", 1_000_000, 10_000, 1, 1, "raw", "", b"x"), 1_000_000, now)
    claimed.admitted_at = now - waited_s
    batcher._pool.add([claimed])
    batcher._free_since = now - free_s
    batcher._submit(closed)
    assert around.starved_s == pytest.approx(starved_s, abs=0.005)
