"""A gateway process: the product's model queue, submitter, choice of partitions, admission control and reply router, on
a model of the thread that serves HTTP.

An arrival is not an event of the loop. The gateway processes all arrivals up to now whenever it does something, so a
million per second are cheap to simulate.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from simulation.arrivals import NEVER, Arrivals
from simulation.broker import Broker, Entry, settle
from simulation.broker import Inbox as BrokerInbox
from simulation.clock import Timer, VirtualLoop
from simulation.costs import Costs
from simulation.outcomes import Kind, Outcomes
from smartbatch.gateway.monitoring.system_monitor import INTERVAL_S, MOST_BETWEEN, REPORT_EVERY, SPREAD_S, read_every
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.queue.partition import Partition as ProductPartition
from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.gateway.queue.reconciler import Reconciler
from smartbatch.gateway.queue.reply_router import ReplyRouter
from smartbatch.gateway.queue.submitter import SLOW_S
from smartbatch.shared.broker.queue.admission import UNKNOWN, AdmitResult, AdmitStatus, Capacity
from smartbatch.shared.broker.queue.replies import POP_COUNT, Notice
from smartbatch.shared.errors import BrokerUnavailable, DeadlineExceeded, DeadlineUnattainable, QueueFull, Unavailable
from smartbatch.shared.keys import partition_tag
from smartbatch.shared.settings import Settings

MODEL = "m"
OK, LATE = b"ok", b"late"  # replies

_ids = itertools.count()


class Request:
    """One request, from its arrival to its outcome. Stands in for InferenceRequest, and for its own NewEntry."""

    __slots__ = ("admitted_at", "arrived_at", "deadline_at", "gateway", "id", "partition", "waiting")

    rows = 1
    bytes = 1
    payload = b""

    def __init__(self, gateway: Gateway, arrived_at: float) -> None:
        self.gateway = gateway
        self.arrived_at = arrived_at
        self.deadline_at = arrived_at + gateway.timeout_s
        self.admitted_at = 0.0
        self.id = next(_ids)
        self.partition: Any = None
        self.waiting = True

    @property
    def entry(self) -> Request:
        return self

    @property
    def started_at(self) -> float:
        return self.arrived_at

    @property
    def timeout_ms(self) -> int:
        return int(self.gateway.timeout_s * 1000)

    def end(self, outcome: Outcome) -> None:
        if self.waiting:
            self.waiting = False
            self.gateway.ended(self, outcome)


class Gateway:
    """One gateway that uses `brokers`, one partition on each. All requests have the same timeout."""

    def __init__(
        self,
        loop: VirtualLoop,
        brokers: Sequence[Broker],
        arrivals: Arrivals,
        costs: Costs,
        outcomes: Outcomes,
        *,
        timeout_s: float,
        max_queue: int,
        rank: int,
        gateways: int,
    ) -> None:
        """`rank` is its number among so many gateways of the same brokers."""
        self.timeout_s = timeout_s
        self.costs = costs
        self._loop = loop
        self._cores = brokers[0].cores
        self._brokers = {partition_tag(MODEL, number): broker for number, broker in enumerate(brokers)}
        self._arrivals = arrivals
        self._outcomes = outcomes
        self._capacities = {tag: broker.capacity() for tag, broker in self._brokers.items()}
        self._received: deque[tuple[float, Request]] = deque()  # (time at which it can be submitted, request)
        self._busy_until = 0.0
        self._called_at = -NEVER  # the last call to admit, while it is unanswered
        self._timer: Timer | None = None
        self._timer_at = NEVER
        settings = Settings(max_queue=max_queue * len(brokers))  # shared by the partitions
        self.queue = ModelQueue(
            MODEL, range(len(brokers)), settings, "", cast(Any, Metrics()), self._capacities, self._make_partition
        )
        self.queue.set_rank(rank, gateways)  # as if it had been running for a while
        self.queue.set_partitions(range(len(brokers)))
        self.queue.start(loop.spawn)
        loop.spawn(self._monitor())
        self._wait()

    def _make_partition(self, tag: str, *of_queue: Any) -> Partition:
        return Partition(self, self._brokers[tag], tag, *of_queue)

    # --- the thread that serves HTTP

    def receive(self) -> None:
        """Process all arrivals up to now, and set a timer for the next request that becomes ready unless the answer to
        a call comes first."""
        now, arrivals, cores, cost = self._loop.now, self._arrivals, self._cores, self.costs.gateway_in_s
        busy, timeout_ms, received = self._busy_until, int(self.timeout_s * 1000), self._received
        while arrivals.next_at <= now:
            at = arrivals.pop()
            busy = busy if busy > at else at
            self._outcomes.arrived()
            try:
                self.queue.check(timeout_ms)
            except Unavailable as error:
                busy = cores.run(busy, self.costs.gateway_reject_s)
                self._outcomes.add(_kind(error), at, busy)
                arrivals.responded(cores.run(busy, self.costs.client_s))
            else:
                busy = cores.run(busy, cost)
                received.append((busy, Request(self, at)))
        self._busy_until = busy
        while received and received[0][0] <= now:
            self.queue.submit(cast(Any, received.popleft()[1]))
            self.called()  # by the submitter, right after this
        self._wait()

    def _wait(self) -> None:
        """Set a timer for the next request that becomes ready, unless the answer to a call is to come first."""
        now = self._loop.now
        if now < self._called_at + SLOW_S:
            when = self._called_at + SLOW_S
        else:
            when = self._received[0][0] if self._received else self._arrivals.next_at
        if when < self._timer_at or self._timer_at <= now:
            if self._timer:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._loop.at(when, self.receive) if when < NEVER else None

    def called(self) -> None:
        self._called_at = self._loop.now

    def answered(self) -> None:
        self._called_at = -NEVER
        self.receive()

    def ended(self, request: Request, outcome: Outcome) -> None:
        busy = self._cores.run(max(self._busy_until, self._loop.now), self.costs.gateway_out_s)
        self._busy_until = busy
        kind = "late" if outcome is OK and busy > request.deadline_at else _kind(outcome)
        self._outcomes.add(kind, request.arrived_at, busy)
        self._arrivals.responded(self._cores.run(busy, self.costs.client_s))
        self.queue.release(cast(Any, request), answered=isinstance(outcome, bytes))
        self._wait()

    # --- stands in for the system monitor

    async def _monitor(self) -> None:
        first = next(iter(self._brokers.values()))
        first.gateways += 1
        await asyncio.sleep(random.random() * INTERVAL_S)
        for reads in itertools.count(random.randrange(MOST_BETWEEN)):  # they did not start all at once
            if reads % read_every(first.gateways) == 0:
                read = await asyncio.gather(*(self._read(tag, n * SPREAD_S) for n, tag in enumerate(self._brokers)))
                self._capacities.clear()
                self._capacities.update(filter(None, read))
                self.queue.set_partitions(range(len(self._brokers)))
            if reads % REPORT_EVERY == 0:
                await self._report(first)
            await asyncio.sleep(INTERVAL_S)

    async def _report(self, broker: Broker) -> None:
        with contextlib.suppress(BrokerUnavailable):
            await broker.execute("report", lambda: broker.costs.report.of(1))

    async def _read(self, tag: str, after_s: float) -> tuple[str, Capacity] | None:
        """Return a partition's tag and capacity."""
        await asyncio.sleep(after_s)
        broker = self._brokers[tag]
        costs = broker.costs

        def run() -> float:
            return costs.snapshot.of(len(broker.leases)) + broker.gateways * costs.snapshot_gateway_s

        try:
            await broker.execute("snapshot", run)
        except BrokerUnavailable:
            return None
        self.receive()
        cost = self.costs.gateway_snapshot.of(len(broker.leases))
        cost += broker.gateways * self.costs.gateway_snapshot_gateway_s
        self._busy_until = self._cores.run(max(self._busy_until, self._loop.now), cost)
        return tag, broker.capacity()


class Partition(ProductPartition):
    """The product's partition, on a simulated broker. It reconciles nothing: a broker loses entries only by dying."""

    def __init__(
        self,
        gateway: Gateway,
        broker: Broker,
        tag: str,
        settings: Settings,
        gateway_id: str,
        metrics: Any,
        outstanding: Mapping[str, Any],
        capacity: Callable[[], Capacity],
    ) -> None:
        super().__init__(tag, settings, gateway_id, metrics, outstanding, capacity)
        self.admission_control = AdmissionControl(settings.max_queue, capacity, broker.loop.time)
        inbox: Any = Inbox(gateway, broker)
        admission: Any = Admission(gateway, broker, inbox.of_broker)
        self._admission = admission
        self._reconciler = Reconciler(admission, inbox, self.requests, metrics)
        self._router = ReplyRouter(inbox, outstanding, metrics, self._on_broker_state)

    def start(self, watch: Callable[..., asyncio.Task[None]]) -> None:
        self._tasks = [watch(self._router.run()), watch(self._send_cancels())]


class Admission:
    """Stands in for smartbatch.shared.broker.queue.admission.Admission."""

    def __init__(self, gateway: Gateway, broker: Broker, inbox: BrokerInbox) -> None:
        self._gateway = gateway
        self._broker = broker
        self._inbox = inbox

    async def admit(
        self, requests: Sequence[Request], *, force: bool = False, capacity: Capacity = UNKNOWN
    ) -> AdmitResult:
        broker, timeout_ms = self._broker, self._gateway.timeout_s * 1000
        result = AdmitResult(0, 0, [])

        def admit() -> float:
            nonlocal result
            rates = (capacity.rows_per_s / 1000, capacity.batch_s * 1000)
            codes = broker.admit(self._inbox, requests, timeout_ms, *rates, force=force)
            result = AdmitResult(len(broker.stream), broker.inflight_rows, [_STATUSES[code] for code in codes])
            return broker.costs.admit.of(len(requests))

        if not force:
            self._gateway.called()
        try:
            await broker.execute("admit", admit)
        finally:
            if not force:
                self._gateway.answered()
        return result

    async def cancel(self, request_ids: Sequence[int]) -> None:
        def cancel() -> float:
            self._broker.cancel(set(request_ids))
            return self._broker.costs.cancel.of(len(request_ids))

        await self._broker.execute("cancel", cancel)


class Inbox:
    """Stands in for smartbatch.shared.broker.queue.replies.Inbox."""

    def __init__(self, gateway: Gateway, broker: Broker) -> None:
        self._gateway = gateway
        self._broker = broker
        self.of_broker = BrokerInbox()
        broker.inboxes.append(self.of_broker)

    async def check(self) -> None:
        await self._broker.execute("check", lambda: self._broker.costs.wait.of(1))

    async def pop(self, done: Sequence[int]) -> list[Notice]:
        broker, inbox = self._broker, self.of_broker
        popped: list[Entry] = []

        def pop() -> float:
            nonlocal popped
            if not inbox.replies:
                command.blocked = True
                return broker.costs.pop.of(len(done)) if done else 0.0
            popped, inbox.replies = inbox.replies[:POP_COUNT], inbox.replies[POP_COUNT:]
            return broker.costs.pop.of(len(popped))

        replied = broker.loop.create_future()
        inbox.popping = command = broker.call("pop", pop, *settle(replied))
        await replied
        self._gateway.receive()
        return [Notice(entry.request.id, 0, LATE if entry.late else OK) for entry in popped]


class Metrics:
    """Stands in for ModelMetrics."""

    def __init__(self) -> None:
        self.flushes = self.broker_errors = self.readmissions = self

    def inc(self, amount: float = 1) -> None:
        """Ignore metrics."""


_STATUSES = tuple(AdmitStatus)


def _kind(outcome: Outcome) -> Kind:
    if isinstance(outcome, bytes):
        return "ok" if outcome is OK else "late"
    if isinstance(outcome, DeadlineExceeded):
        return "late"
    return "rejected" if isinstance(outcome, QueueFull | DeadlineUnattainable) else "failed"
