"""A worker: the product's batcher, policy, estimators and placement on models of everything else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from simulation.broker import Broker, ClaimResult, Command, Entry, settle
from simulation.clock import VirtualLoop
from simulation.cores import Cores
from simulation.costs import Costs, Curve
from simulation.outcomes import Outcomes
from smartbatch.shared.broker.queue.claims import MAX_WAIT_MS, Mode
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import Keys, partition_tag
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings
from smartbatch.worker.batching.batcher import Batcher
from smartbatch.worker.batching.policy import Limits
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Batch
from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.queue.heartbeat import INTERVAL_S as HEARTBEAT_S
from smartbatch.worker.queue.partitions import INTERVAL_S, READ_EVERY_S
from smartbatch.worker.queue.partitions import Partitions as ProductPartitions
from smartbatch.worker.queue.placement import AWAY, Load
from smartbatch.worker.queue.reply_publisher import MAX_CALL_ENTRIES


class Worker:
    """Claims entries, runs batches on its device and publishes replies.

    With several brokers, each has one partition; the first home is given, so that all are even from the start.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        brokers: Sequence[Broker],
        name: str,
        *,
        home: int,
        limits: Limits,
        curve: Curve,
        costs: Costs,
        timeout_s: float,
        outcomes: Outcomes,
    ) -> None:
        cost_model = CostModel()
        for rows in sizes(limits.max_rows):
            cost_model.record(rows, curve(rows), warm_up=True)
        throughput = ThroughputEstimator(cost_model, limits.max_rows)
        device = Device(loop, curve, cost_model, costs, brokers[home].cores, outcomes)
        batcher = Batcher(cast(Any, device), limits, cost_model, throughput, name)

        def make(tag: str) -> Partition:
            return Partition(brokers[Keys(tag).partition], tag, name, throughput, timeout_s)

        self.partitions = Partitions(brokers, name, home, limits.max_rows, make, loop.spawn)
        self.partitions.is_idle = lambda: batcher.idle
        self.partitions.on_move = lambda partition: batcher.move_to(cast(Any, partition))
        device.batcher = batcher
        batcher.enter(cast(Any, self.partitions.current))
        loop.spawn(batcher.run())
        if len(brokers) > 1:
            loop.spawn(self.partitions.run())


class Partitions(ProductPartitions):
    """The product's partitions of a worker, on simulated brokers."""

    def __init__(
        self,
        brokers: Sequence[Broker],
        name: str,
        home: int,
        max_rows: int,
        make: Callable[[str], Partition],
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        super().__init__(Settings(max_batch_size=max_rows), name, cast(Any, None), cast(Any, make), spawn)
        self._brokers = brokers
        self.numbers = list(range(len(brokers)))
        self._placement.home = home
        partition: Any = make(partition_tag("m", home))
        self.current = self._joined[home] = partition
        partition.join(spawn)

    async def run(self) -> None:
        # Workers did not start all at once, and have read all partitions before.
        await asyncio.sleep(random.random() * INTERVAL_S)
        self._known = dict.fromkeys(self.numbers, Load(True, ("another",)))
        self._read_all_at = time.monotonic() + random.random() * READ_EVERY_S * len(self.numbers)
        await self._move(self._place(await self._loads()))
        await super().run()

    async def _find_numbers(self) -> None:
        pass

    async def _load(self, number: int) -> Load:
        broker, load = self._brokers[number], AWAY

        def read() -> float:
            nonlocal load
            load = Load(True, tuple(broker.leases), len(broker.stream))
            return broker.costs.load.of(1)

        with contextlib.suppress(BrokerUnavailable):
            await broker.execute("load", read)
        return load


class Partition:
    """Stands in for smartbatch.worker.queue.partition.Partition."""

    urgent = False  # a worker that died holds nothing here

    def __init__(
        self,
        broker: Broker,
        tag: str,
        me: str,
        throughput: ThroughputEstimator,
        timeout_s: float,
    ) -> None:
        self.keys = Keys(tag)
        self.queue = WorkerQueue(broker, me)
        self.tracker = EntryTracker(timeout_s)
        self.failure_detector = FailureDetector()
        self.publisher = ReplyPublisher(broker, self.tracker)
        self._broker = broker
        self._me = me
        self._throughput = throughput
        self._task: asyncio.Task[None]

    @property
    def workers(self) -> int:
        return len(self._broker.leases)

    @property
    def reachable(self) -> bool:
        return not self._broker.dead

    def join(self, spawn: Callable[..., asyncio.Task[None]]) -> None:
        self._broker.leases[self._me] = self._throughput
        self._task = spawn(self._send_heartbeats())

    async def until_leased(self) -> None:
        await self._heartbeat()

    async def leave(self) -> None:
        self._broker.leases.pop(self._me, None)
        await tasks.end([self._task])

    async def _send_heartbeats(self) -> None:
        await asyncio.sleep(random.random() * HEARTBEAT_S)
        while True:
            with contextlib.suppress(BrokerUnavailable):
                await self._heartbeat()
            await asyncio.sleep(HEARTBEAT_S)

    async def _heartbeat(self) -> None:
        await self._broker.execute("heartbeat", lambda: self._broker.costs.heartbeat.of(1))


class WorkerQueue:
    """Stands in for smartbatch.shared.broker.queue.claims.WorkerQueue."""

    def __init__(self, broker: Broker, me: str) -> None:
        self._broker = broker
        self._loop = broker.loop
        self._me = me
        self._wait: Command | None = None  # a claim in flight that waits for an entry or for the wakeup
        self._waits_for_entry = False

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
        command = broker.call("claim", run, *settle(result))
        timer = None
        if after_wakeup_s or after_entry:
            self._wait = command
        if after_entry:
            self._waits_for_entry = True
            wait_s = min(after_entry[1], MAX_WAIT_MS) / 1000
            timer = self._loop.at(self._loop.now + wait_s, self._unblock, command)
        try:
            await result
            return results[0]
        finally:
            self._wait, self._waits_for_entry = None, False
            if timer:
                timer.cancel()

    def _unblock(self, command: Command) -> None:
        def unblock() -> float:
            self._broker.unblock(command)
            return self._broker.costs.wait.of(1)

        self._broker.call("unblock", unblock, _nothing)

    def wake(self) -> None:
        if self._waits_for_entry:
            self.interrupt()

    def interrupt(self) -> None:
        if self._wait is not None:
            self._unblock(self._wait)

    def abandon(self) -> None:
        """A claim in flight has failed already."""

    async def release(self) -> None:
        def release() -> float:
            self._broker.release(self._me)
            return self._broker.costs.release.of(1)

        await self._broker.execute("release", release)


class Device:
    """Runs batches one after the other. Stands in for the batcher's engine."""

    batcher: Batcher

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
        self._loop.at(made_at, batch.source.publisher.put, batch.claimed_entries)


class ReplyPublisher:
    """Publishes all ready replies in one call."""

    def __init__(self, broker: Broker, tracker: EntryTracker) -> None:
        self._broker = broker
        self._tracker = tracker
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
            self._tracker.held -= len(entries)
            if self._waiting:
                self._send()

        self._in_flight = True
        self._broker.call("finish", finish, finished, finished)  # replies that a dead broker does not take are lost


class EntryTracker:
    """Stands in for the worker's EntryTracker. No worker dies, so no entry is adopted or suspect."""

    has_suspects = False

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.held = 0  # entries without a published reply
        self.metrics = self.starved = self.broker_errors = self.decoder = self
        self.mean_s = 0.0  # of a decode
        self.fetch_s = 0.0

    def inc(self, amount: float = 1) -> None:
        """Ignore metrics."""

    def receive(self, entries: list[Entry], now_ms: int, now: float, *, isolated: bool) -> list[Entry]:
        self.held += len(entries)
        for entry in entries:
            entry.admitted_at = now - max(0, now_ms - entry.t_ms) / 1000
            entry.deadline_at = entry.admitted_at + self._timeout_s
        return entries

    @property
    def holds_any(self) -> bool:
        return self.held > 0

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
