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
        self.decoder = self.queue = self.tracker = self.metrics = self.starved = self
        self.first_claim: tuple[float, list[Entry]] = (30.0, [])  # the wait for the wakeup, and what it brings
        self.failure_detector = FailureDetector()
        self.workers = 1

    async def claim(self, mode: str, **how: object) -> Claim:
        self.claimed_at.append(time.monotonic())
        self.modes.append(mode)
        if how.get("after_wakeup_s"):
            seconds, entries = self.first_claim
            self.first_claim = (30.0, [])
            await asyncio.sleep(seconds)
            return Claim("batch" if entries else "empty", 1_000_000, 0, "1-0", False, entries)
        await asyncio.sleep(0)
        return NOTHING

    def receive(self, entries: list[Entry], now_ms: int, now: float, *, isolated: bool) -> list[ClaimedEntry]:
        return claimed(entries)

    def wake(self) -> None: ...
    def inc(self, amount: float) -> None: ...
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
    return batcher


def entries(count: int) -> list[Entry]:
    return [Entry(f"1-{n}", f"r{n}", "g", 1_000_000, 10_000, 1, 1, "raw", "", b"x") for n in range(count)]


def claimed(entries: list[Entry]) -> list[ClaimedEntry]:
    return [ClaimedEntry(entry, 1_000_000, time.monotonic()) for entry in entries]


def submit(batcher: Batcher, rows: int, closed: CloseReason) -> None:
    batcher._pool.add(claimed(entries(rows)))
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
    around.workers = workers
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


@pytest.mark.parametrize(
    ("idle_s", "workers", "ahead"),
    [
        (0.15, 10, False),
        (0.0, 10, True),  # it was needed at once, so probably the others are busy as well
        (0.15, 2, True),  # the other one is busy now and then, and what comes then is decoded meanwhile
        (0.15, 1, True),
    ],
)
async def test_nothing_is_claimed_ahead_while_several_workers_are_idle(
    idle_s: float, workers: int, ahead: bool
) -> None:
    around = Around()
    batcher = made(around, 0.1)
    around.workers = workers
    submit(batcher, 32, "full")
    batcher.device_freed(around.batches[0], time.monotonic())
    around.first_claim = (idle_s, entries(32))
    running = asyncio.create_task(batcher.run())
    async with asyncio.timeout(5):
        while len(around.batches) < 2:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.09)
    assert ("ahead" in around.modes) is ahead
    running.cancel()


def test_arrivals_are_learned_from_an_exploring_batch_too() -> None:
    batcher, now = made(Around(), 0.010), time.monotonic()
    learned: list[bool] = []
    batcher._arrivals.observe = lambda admitted_at, *, learn: learned.append(learn)
    batcher._pool.explores = True
    assert batcher._idle_at(batcher._pool.state(), now) == float("inf")
    assert learned == [True]
