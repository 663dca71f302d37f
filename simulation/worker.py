"""A worker: the product's batcher, policy and estimators on models of everything else."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from simulation.broker import Broker, ClaimResult, Command, Entry
from simulation.clock import VirtualLoop
from simulation.cores import Cores
from simulation.costs import Costs, Curve
from simulation.outcomes import Outcomes
from smartbatch.shared.broker.queue.claims import MAX_WAIT_MS, Mode
from smartbatch.worker.batching.batcher import Batcher
from smartbatch.worker.batching.policy import Limits
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Batch
from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.queue.reply_publisher import MAX_CALL_ENTRIES


class Worker:
    """Claims entries, runs batches on its device and publishes replies."""

    def __init__(
        self,
        loop: VirtualLoop,
        broker: Broker,
        name: str,
        *,
        limits: Limits,
        curve: Curve,
        costs: Costs,
        timeout_s: float,
        workers: int,
        outcomes: Outcomes,
    ) -> None:
        cost_model = CostModel()
        for rows in sizes(limits.max_rows):
            cost_model.record(rows, curve(rows), warm_up=True)
        self.throughput = ThroughputEstimator(cost_model, limits.max_rows)
        device = Device(loop, curve, cost_model, costs, broker.cores, outcomes)
        batcher = Batcher(cast(Any, device), limits, cost_model, self.throughput, name)
        batcher.enter(cast(Any, Partition(broker, name, timeout_s)))
        batcher.workers = workers
        device.batcher = batcher
        device.publisher = ReplyPublisher(broker)
        loop.spawn(batcher.run())


class Partition:
    """Stands in for smartbatch.worker.queue.partition.Partition."""

    def __init__(self, broker: Broker, me: str, timeout_s: float) -> None:
        self.queue = WorkerQueue(broker, me)
        self.tracker = EntryTracker(timeout_s)
        self.failure_detector = FailureDetector()
        self.publisher = ReplyPublisher(broker)


class WorkerQueue:
    """Stands in for smartbatch.shared.broker.queue.claims.WorkerQueue."""

    def __init__(self, broker: Broker, me: str) -> None:
        self._broker = broker
        self._loop = broker.loop
        self._me = me
        self._wait: Command | None = None  # a claim in flight that waits for an entry

    async def claim(
        self,
        mode: Mode,
        *,
        room_rows: int,
        room_bytes: int,
        held_rows: int = 0,
        hold_ms: int = 0,
        soon: bool = False,
        dead_worker: None = None,
        after_wakeup_s: float = 0.0,
        after_entry: tuple[str, int] | None = None,
    ) -> ClaimResult:
        broker, result = self._broker, self._loop.create_future()
        waited = not after_wakeup_s and not after_entry

        def run() -> float:
            nonlocal waited
            if not waited:
                waited = True
                if after_wakeup_s:
                    broker.after_wakeup(command, after_wakeup_s)
                elif after_entry:
                    broker.after_entry(command, after_entry[0])
                if command.blocked:
                    return broker.costs.wait.of(1)
            results.append(
                broker.claim(self._me, mode, held_rows=held_rows, room_rows=room_rows, hold_ms=hold_ms, soon=soon)
            )
            return broker.costs.claim.of(len(results[0].entries))

        results: list[ClaimResult] = []
        command = broker.call("claim", run, lambda: result.set_result(results[0]))
        timer = None
        if after_entry:
            self._wait = command
            wait_s = min(after_entry[1], MAX_WAIT_MS) / 1000
            timer = self._loop.at(self._loop.now + wait_s, self._unblock, command)
        try:
            return await result
        finally:
            self._wait = None
            if timer:
                timer.cancel()

    def _unblock(self, command: Command) -> None:
        def unblock() -> float:
            self._broker.unblock(command)
            return self._broker.costs.wait.of(1)

        self._broker.call("unblock", unblock, _nothing)

    def wake(self) -> None:
        if self._wait is not None:
            self._unblock(self._wait)

    async def release(self) -> None:
        released = self._loop.create_future()

        def release() -> float:
            self._broker.release(self._me)
            return self._broker.costs.release.of(1)

        self._broker.call("release", release, lambda: released.set_result(None))
        await released


class Device:
    """Runs batches one after the other. Stands in for the batcher's engine."""

    batcher: Batcher
    publisher: ReplyPublisher

    def __init__(
        self, loop: VirtualLoop, curve: Curve, cost_model: CostModel, costs: Costs, cores: Cores, outcomes: Outcomes
    ) -> None:
        self._loop = loop
        self._cores = cores
        self._curve = curve
        self._cost_model = cost_model
        self._costs = costs
        self._outcomes = outcomes
        self._queue: deque[Batch] = deque()
        self._running = False

    def submit(self, batch: Batch) -> None:
        if self._costs.worker_row_s:
            decoded_at = self._cores.run(self._loop.now, len(batch.claimed_entries) * self._costs.worker_row_s)
            self._loop.at(decoded_at, self._launch, batch)
        else:
            self._launch(batch)

    def _launch(self, batch: Batch) -> None:
        self._queue.append(batch)
        if not self._running:
            self._start()

    def _start(self) -> None:
        batch, now = self._queue.popleft(), self._loop.now
        entries = cast(list[Entry], batch.claimed_entries)
        for entry in entries:
            entry.late = entry.deadline_at <= now
        batch.rows_run = sum(not entry.late for entry in entries)
        batch.started_at = now
        batch.forward_s = self._curve(batch.rows_run) if batch.rows_run else 0.0
        self._running = True
        self._loop.at(now + batch.forward_s, self._ended, batch)

    def _ended(self, batch: Batch) -> None:
        """Start the next launched batch at once. The worker notices the end of this one `device_gap_s` later."""
        self._running = False
        if batch.rows_run:
            self._cost_model.record(batch.rows_run, batch.forward_s)
            self._outcomes.batch(batch.rows_run, batch.closed, batch.started_at, batch.forward_s)
        if self._queue:
            self._start()
        noticed_at = self._loop.now + self._costs.device_gap_s
        self._loop.at(noticed_at, self.batcher.device_freed, batch, noticed_at)
        made_at = self._cores.run(
            noticed_at, self._costs.worker_s + len(batch.claimed_entries) * self._costs.worker_row_s
        )
        self._loop.at(made_at, self.publisher.put, batch.claimed_entries)


class ReplyPublisher:
    """Publishes all ready replies in one call."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: list[Entry] = []
        self._in_flight = False

    def put(self, entries: list[Entry]) -> None:
        self._waiting += entries
        if not self._in_flight:
            self._send()

    def _send(self) -> None:
        entries, self._waiting = self._waiting[:MAX_CALL_ENTRIES], self._waiting[MAX_CALL_ENTRIES:]

        def finish() -> float:
            self._broker.finish(entries)
            return self._broker.costs.finish.of(len(entries))

        def finished() -> None:
            self._in_flight = False
            if self._waiting:
                self._send()

        self._in_flight = True
        self._broker.call("finish", finish, finished)


class EntryTracker:
    """Stands in for the worker's EntryTracker. No worker dies, so no entry is adopted or suspect."""

    has_suspects = False

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.metrics = self.starved = self.broker_errors = self.decoder = self
        self.mean_s = 0.0  # of a decode
        self.fetch_s = 0.0

    def inc(self, amount: float = 1) -> None:
        """Ignore metrics."""

    def receive(self, entries: list[Entry], now_ms: int, now: float, *, isolated: bool) -> list[Entry]:
        for entry in entries:
            entry.admitted_at = now - max(0, now_ms - entry.t_ms) / 1000
            entry.deadline_at = entry.admitted_at + self._timeout_s
        return entries

    def take_suspect(self) -> list[Entry]:
        return []

    def take_adopted(self) -> list[Entry]:
        return []

    async def until_finished(self, claimed_entries: object) -> None:
        await asyncio.Event().wait()


class FailureDetector:
    """Stands in for the worker's FailureDetector. No worker dies."""

    dead_workers: tuple[()] = ()


def _nothing() -> None:
    pass
