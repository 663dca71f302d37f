"""Claims while a batch runs: none behind a very short batch, the next one in time behind a lone batch."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from smartbatch.shared.broker.queue.claims import Claim, Entry
from smartbatch.worker.batching.batcher import Batcher
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Batch, ClaimedEntry, CloseReason, Limits
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.queue.failure_detection import FailureDetector

NOTHING = Claim("empty", 1_000_000, 0, "1-0", False, [])


class Around:
    """Stands for the broker, the tracker and the engine; records when claims were made."""

    def __init__(self) -> None:
        self.claimed_at: list[float] = []
        self.modes: list[str] = []
        self.batches: list[Batch] = []
        self.has_suspects = False
        self.mean_s = self.fetch_s = 0.0
        self.decoder = self.queue = self.tracker = self
        self.failure_detector = FailureDetector()

    async def claim(self, mode: str, **how: object) -> Claim:
        self.claimed_at.append(time.monotonic())
        self.modes.append(mode)
        await asyncio.sleep(30 if how.get("after_wakeup_s") else 0)
        return NOTHING

    def wake(self) -> None: ...
    def take_suspect(self) -> list[ClaimedEntry]:
        return []

    take_adopted = take_suspect

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)


def made(around: Around, forward_s: float) -> Batcher:
    times = CostModel()
    for rows in (1, 32):
        times.record(rows, forward_s)
    any_: Any = cast(Any, around)
    batcher = Batcher(any_, Limits(32, 1 << 30, 0.01), times, ThroughputEstimator(times, 32), "w")
    batcher.enter(any_)
    batcher.workers = 1
    return batcher


def submit(batcher: Batcher, rows: int, closed: CloseReason) -> None:
    now = time.monotonic()
    entries = [Entry(f"1-{n}", f"r{n}", "g", 1_000_000, 10_000, 1, 1, "raw", "", b"x") for n in range(rows)]
    batcher._pool.add([ClaimedEntry(entry, 1_000_000, now) for entry in entries])
    batcher._submit(closed)


@pytest.mark.parametrize(("forward_s", "run_inline"), [(0.0001, True), (0.010, False)])
def test_nothing_is_claimed_behind_a_very_short_batch(forward_s: float, run_inline: bool) -> None:
    around = Around()
    submit(made(around, forward_s), 32, "full")
    assert around.batches[0].run_inline is run_inline


@pytest.mark.parametrize(
    ("forward_s", "workers", "claims"),
    [
        (0.100, 1, 1),
        (0.100, 2, 0),  # another worker may be free by then, and take it at once
        (0.0005, 1, 0),
    ],
)
async def test_the_next_claim_leaves_just_before_a_lone_batch_ends(forward_s: float, workers: int, claims: int) -> None:
    around = Around()
    batcher = made(around, forward_s)
    batcher.workers = workers
    for number in range(50):  # always a lone client
        batcher._arrivals.observe([float(number)], learn=True)
        batcher._arrivals.batch_answered(1, number + 0.005, last=True)
    submit(batcher, 1, "idle")
    begun_at = time.monotonic()
    running = asyncio.create_task(batcher.run())
    async with asyncio.timeout(10):
        while claims and not around.claimed_at:
            await asyncio.sleep(0.001)
    await asyncio.sleep(forward_s + 0.05)  # past its end, while the claim waits for the wakeup
    assert len(around.claimed_at) == claims
    for claimed_at in around.claimed_at:
        assert claimed_at - begun_at > 0.9 * forward_s
    running.cancel()


async def test_a_stream_is_claimed_ahead_even_without_a_window() -> None:
    """Otherwise decoding would start only when the device is free."""
    around = Around()
    around.mean_s = 0.001  # per decode: a full batch takes 32 ms
    batcher = made(around, 0.100)
    batcher.set_limits(Limits(32, 1 << 30, 0.0))
    for number in range(100):
        batcher._arrivals.observe([100 + number / 1000], learn=True)
    submit(batcher, 10, "window")
    running = asyncio.create_task(batcher.run())
    await asyncio.sleep(0.09)
    assert "ahead" in around.modes
    running.cancel()


def test_arrivals_are_learned_from_an_exploring_batch_too() -> None:
    batcher, now = made(Around(), 0.010), time.monotonic()
    learned: list[bool] = []
    batcher._arrivals.observe = lambda admitted_at, *, learn: learned.append(learn)
    batcher._pool.explores = True
    assert batcher._idle_at(batcher._pool.state(), now) == float("inf")
    assert learned == [True]
