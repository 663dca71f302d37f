"""The batcher, the tracker, the decoder and the engine of a sized model together; only the broker is a stand-in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from smartbatch.shared.broker.queue.claims import Claim, DeadWorker, Entry, Outcome
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.wire import Payload, pack_payload
from smartbatch.worker.batching.batcher import Batcher
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Batch, Limits
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.execution.encoding import EncodingStage, ReplyEncoder
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog
from smartbatch.worker.queue.entry_tracker import EntryTracker
from smartbatch.worker.queue.failure_detection import FailureDetector
from smartbatch.worker.queue.reply_publisher import ReplyPublisher
from tests.worker.execution.test_engine import Doubler


class Lengths(Doubler):
    """Rows are the lengths of texts, and so are their sizes. A forward takes `token_s` for each padded token, and a
    text that begins with "slow" `slow_s` to decode; "bad" can't be decoded."""

    sized = True
    token_s = 0.0
    fixed_s = 0.0
    slow_s = 0.0

    def decode(self, payload: Payload) -> list[int]:
        texts: Any = payload.content
        if texts[0].startswith("slow"):
            time.sleep(self.slow_s)
        if "bad" in texts:
            raise InvalidInput("bad text")
        return [len(text) for text in texts]

    def size(self, row: int) -> int:
        return row

    def forward(self, batch: list[int]) -> list[int]:
        time.sleep(self.fixed_s + self.token_s * len(batch) * max(batch))
        return super().forward(batch)


class Queue:
    """The stream, in this process. `dead` are the entries of dead workers."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.dead: list[Entry] = []
        self.finished: list[Entry] = []
        self.claimed: list[tuple[str, int]] = []  # mode and rows of each claim that found any
        self._added = asyncio.Event()
        self._woken = asyncio.Event()

    def add(self, *texts: str, timeout_s: float = 30.0) -> Entry:
        entry = self.entry(*texts, timeout_s=timeout_s)
        self.entries.append(entry)
        self._added.set()
        return entry

    def entry(self, *texts: str, timeout_s: float = 30.0, deliveries: int = 1) -> Entry:
        self._number = getattr(self, "_number", 0) + 1
        payload, name = pack_payload(Payload("text", list(texts))), str(self._number)
        now_ms, timeout_ms = int(time.monotonic() * 1000), int(timeout_s * 1000)
        rows, size = len(texts), sum(map(len, texts))
        return Entry(f"{name}-0", name, "gw", now_ms, timeout_ms, rows, size, "text", "", payload, deliveries)

    async def claim(
        self,
        mode: str,
        *,
        room_rows: int,
        dead_worker: DeadWorker | None = None,
        after_wakeup_s: float = 0.0,
        after_entry: tuple[str, int] | None = None,
        **how: object,
    ) -> Claim:
        await asyncio.sleep(0.0005)
        now_ms = int(time.monotonic() * 1000)
        if dead_worker and self.dead:
            return Claim("isolated", now_ms, len(self.entries), "1-0", False, [self.dead.pop()])
        if not self.entries and (after_wakeup_s or after_entry):
            self._added.clear()
            self._woken.clear()
            wait_s = after_wakeup_s or (after_entry or ("", 0))[1] / 1000
            waits = [asyncio.ensure_future(event.wait()) for event in (self._added, self._woken)]
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        claimed: list[Entry] = []
        while self.entries and sum(entry.rows for entry in claimed) + self.entries[0].rows <= max(
            room_rows, 0 if claimed else self.entries[0].rows
        ):
            claimed.append(self.entries.pop(0))
        if claimed:
            self.claimed.append((mode, sum(entry.rows for entry in claimed)))
        now_ms = int(time.monotonic() * 1000)
        return Claim("batch" if claimed else "empty", now_ms, len(self.entries), "1-0", False, claimed)

    def wake(self) -> None:
        self._woken.set()

    async def release(self) -> None: ...

    async def finish(self, outcomes: Sequence[Outcome]) -> int:
        self.finished += [outcome.entry for outcome in outcomes]
        return len(outcomes)

    async def read(self, entry_id: str) -> Entry | None:
        return next((entry for entry in self.dead if entry.entry_id == entry_id), None)


class Running:
    """A worker without its process."""

    def __init__(self, limits: Limits, threads: int = 2) -> None:
        self.model, self.queue, self.costs = Lengths(), Queue(), CostModel()
        queue: Any = self.queue
        metrics, log = WorkerMetrics("m", "w"), ModelErrorLog()
        self.engine = Engine(self.model, limits.max_rows, self.costs, metrics)
        self.decoder = Decoder(self.model, limits.max_rows, threads)
        self.publisher = ReplyPublisher(queue, metrics, 30)
        self.tracker = EntryTracker(queue, self.decoder, self.publisher, metrics, 3)
        self.failures = FailureDetector()
        throughput = ThroughputEstimator(self.costs, limits.max_rows)
        self.failure_detector = self.failures
        self.batcher = Batcher(self.engine, limits, self.costs, throughput, "w")
        self.batcher.enter(self)  # pyright: ignore[reportArgumentType]  # a queue of the tests
        self.batcher.sized, self.workers = True, 1
        encoding = EncodingStage(self.engine, self.decoder, ReplyEncoder(self.model, "w", log), metrics, None)
        self.batches: list[Batch] = []

        def encoded(batch: Batch, outcomes: list[Outcome]) -> None:
            self.batches.append(batch)
            self.tracker.finish(batch, outcomes)

        encoding.on_encoded = encoded
        encoding.on_freed = self.batcher.device_freed
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.engine.start()
        self.tasks = [asyncio.create_task(task) for task in (self.batcher.run(), self.publisher.run())]

    async def until_finished(self, entries: int, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while len(self.queue.finished) < entries:
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.002)
        assert len({entry.entry_id for entry in self.queue.finished}) == len(self.queue.finished) == entries

    def ran(self) -> list[list[int]]:
        return self.model.ran


@pytest.fixture
async def worker() -> AsyncIterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(**limits: Any) -> Running:
        made.append(Running(Limits(**{"max_rows": 32, "max_bytes": 1 << 30, "window_s": 0.01, **limits})))
        return made[-1]

    yield make
    for running in made:
        for task in running.tasks:
            task.cancel()
        running.engine.close()
        running.decoder.close()


async def test_entries_of_very_different_sizes_all_end_once(worker: Callable[..., Running]) -> None:
    running = worker()
    running.model.fixed_s, running.model.token_s = 0.002, 1e-5
    running.start()
    for number in range(300):
        running.queue.add(*["x" * (3 + 97 * (number % 7 == 0))] * (1 + number % 3))
        if number % 40 == 0:
            await asyncio.sleep(0.01)
    await running.until_finished(300)
    assert "cost" in {batch.closed for batch in running.batches}
    padded = sum(batch.padded_size for batch in running.batches)
    real = sum(batch.real_size for batch in running.batches)
    assert 1 <= padded / real < 2.5  # in the order of arrival about 5
    assert sorted(row for rows in running.ran() for row in rows) == sorted(
        3 + 97 * (n % 7 == 0) for n in range(300) for _ in range(1 + n % 3)
    )


async def test_entries_that_can_not_be_decoded_are_answered_while_no_other_comes(
    worker: Callable[..., Running],
) -> None:
    """They may have been claimed ahead, behind a batch that then ends."""
    running = worker()
    running.model.fixed_s = 0.05
    running.start()
    for _ in range(3):
        for _ in range(40):
            running.queue.add("fine")
        await asyncio.sleep(0.08)
        for _ in range(5):
            running.queue.add("bad")
        await asyncio.sleep(0.2)
    await running.until_finished(3 * 45)


async def test_an_adopted_entry_that_is_slow_to_decode_is_run(worker: Callable[..., Running]) -> None:
    running = worker()
    running.model.slow_s = 0.3
    running.start()
    running.queue.dead.append(running.queue.entry("slow text"))
    await running.tracker.adopt(["1-0"], int(time.monotonic() * 1000))
    await running.until_finished(1, 5)


async def test_the_event_loop_goes_on_while_the_pool_waits_for_a_decode(worker: Callable[..., Running]) -> None:
    running = worker(max_rows=4)
    running.model.fixed_s, running.model.slow_s = 0.03, 0.4
    running.start()
    for number in range(24):
        running.queue.add("slow" if number % 6 == 5 else "quick")
    late_s, finished = 0.0, False
    waiting = asyncio.create_task(running.until_finished(24))
    while not finished:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        late_s = max(late_s, time.monotonic() - before - 0.005)
        finished = waiting.done()
    await waiting
    assert late_s < 0.15


async def test_others_run_while_one_entry_is_slow_to_decode(worker: Callable[..., Running]) -> None:
    running = worker()
    running.model.slow_s = 1.0
    running.decoder.mean_s = 0.001  # so that each entry is decoded apart
    running.start()
    slow = running.queue.add("slow")
    for _ in range(10):
        running.queue.add("quick")
    await running.until_finished(10, 0.9)
    assert slow not in running.queue.finished
    await running.until_finished(11)


async def test_rows_that_are_decoded_one_by_one_share_a_batch(worker: Callable[..., Running]) -> None:
    running = worker(max_rows=16, window_s=0.5, adaptive=False)
    running.model.slow_s = 0.002
    running.decoder.mean_s = 0.002
    for rows in (1, 16):
        running.costs.record(rows, 0.05 + 1e-6 * rows, size=4)
    for _ in range(32):
        running.queue.add("slow")
    running.start()
    await running.until_finished(32)
    assert [batch.rows for batch in running.batches] == [16, 16]


async def test_an_entry_decoded_past_its_deadline_holds_up_no_other(worker: Callable[..., Running]) -> None:
    running = worker()
    running.model.slow_s = 1.5
    running.start()
    running.queue.add("slow", timeout_s=0.2)
    await asyncio.sleep(0.1)
    for _ in range(10):
        running.queue.add("quick")
    await running.until_finished(11, 1.2)


async def test_draining_answers_all_that_was_claimed(worker: Callable[..., Running]) -> None:
    running = worker()
    running.model.fixed_s, running.model.slow_s = 0.02, 0.1
    running.start()
    for number in range(200):
        running.queue.add("slow" if number % 50 == 0 else "x" * (1 + number % 30))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await running.batcher.drain()
    await running.until_finished(200 - len(running.queue.entries))


async def test_a_dead_workers_entries_run_isolated_although_the_pool_is_never_empty_by_itself(
    worker: Callable[..., Running],
) -> None:
    running = worker()
    running.model.fixed_s, running.model.token_s = 0.001, 1e-4
    running.start()

    async def traffic() -> None:
        while True:
            for number in range(10):
                running.queue.add("x" * (2 + 40 * (number % 3 == 0)))
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(traffic())
    await asyncio.sleep(0.3)
    dead = [running.queue.entry("dead text", deliveries=2) for _ in range(5)]
    running.queue.dead += dead
    running.failures.dead_workers = [DeadWorker("other", b"1")]
    async with asyncio.timeout(5):
        while running.failures.dead_workers or not all(entry in running.queue.finished for entry in dead):
            await asyncio.sleep(0.005)
    sending.cancel()
    isolated = [batch for batch in running.batches if batch.closed == "isolated"]
    assert [batch.rows for batch in isolated] == [1] * 5


async def test_with_the_device_free_no_more_is_claimed_than_one_batch_of_what_others_could_run(
    worker: Callable[..., Running],
) -> None:
    running = worker()
    for rows in (1, 2, 4, 8, 16, 32):
        for size in (10, 20):
            running.costs.record(rows, rows * size * 0.01, size=size)  # nothing is gained by a batch
    running.workers = 2
    for _ in range(32):
        running.queue.add("x" * 10)
    running.start()
    async with asyncio.timeout(5):
        while not running.queue.claimed:
            await asyncio.sleep(0.001)
    assert running.queue.claimed[0] == ("idle", 1)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_pool_holds_about_four_seconds_of_work(worker: Callable[..., Running], workers: int) -> None:
    """So that a worker that joins finds the others on the stream."""
    running = worker()
    for rows in (1, 2, 4, 8, 16, 32):
        for size in (10, 20):
            running.costs.record(rows, rows * size * 0.01, size=size)
    running.model.token_s = 0.01  # 0.1 s a row
    running.workers = workers
    for _ in range(100):
        running.queue.add("x" * 10)
    running.start()
    most, ends_at = 0, time.monotonic() + 1.5
    while time.monotonic() < ends_at:
        most = max(most, running.batcher._pool.rows)
        await asyncio.sleep(0.01)
    assert 20 <= most <= 41, (running.queue.claimed, vars(running.batcher._times))


async def test_of_more_than_one_batch_a_worker_leaves_the_others_their_share(worker: Callable[..., Running]) -> None:
    running = worker()
    for rows in (1, 2, 4, 8, 16, 32):
        for size in (10, 20):
            running.costs.record(rows, rows * size * 0.001, size=size)
    running.model.token_s = 0.001
    running.workers = 4
    running.start()
    for _ in range(40):
        running.queue.add("x" * 10)
    most, left = 0, 40
    while left > 20:
        left = len(running.queue.entries)
        most = max(most, running.batcher._pool.rows)
        await asyncio.sleep(0.001)
    assert most <= 10
