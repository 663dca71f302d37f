"""Simulate a whole system in virtual time: run a scenario and return its result."""

from __future__ import annotations

import gc
import random
import time
from typing import Literal

import msgspec

from simulation.arrivals import Arrivals, Closed, Open, bursty, poisson
from simulation.broker import Broker
from simulation.clock import VirtualLoop, virtual_time
from simulation.cores import Cores
from simulation.costs import Costs, Curve
from simulation.gateway import Gateway
from simulation.outcomes import Outcomes
from simulation.worker import Worker
from smartbatch.shared.broker.queue.admission import Capacity
from smartbatch.worker.batching.policy import Limits

REPORT_S = 0.5  # how often workers report their capacity to the gateways

Pattern = Literal["poisson", "bursty", "closed"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a run. `partitions` are brokers, each with its own share of workers, gateways and load."""

    curve: Curve
    workers: int = 1
    partitions: int = 1
    gateways: int = 1  # per partition
    pattern: Pattern = "poisson"
    rate: float = 0.0  # total requests/s, except in closed loops
    clients: int = 0  # total clients of closed loops
    think_s: float = 0.0
    limits: Limits = Limits(max_rows=32, max_bytes=1 << 40, window_s=0.010)
    timeout_s: float = 5.0
    max_queue: int = 1024
    warm_up_s: float = 0.5
    measured_s: float = 2.0
    costs: Costs = Costs()
    seed: int = 1


class Result(msgspec.Struct, frozen=True):
    """The result of the measured part of a run."""

    goodput: float  # requests/s with a response in time
    mean_batch: float  # rows
    p50_ms: float
    p99_ms: float
    ok: int
    late: int
    rejected: int
    arrived: int
    batches: dict[int, int]  # rows → how many
    closed: dict[str, int]  # close reason → how many
    device_busy: float  # share of the devices' time
    broker_busy: float  # share of the busiest broker's time
    commands: dict[str, int]
    events: int
    cpu_s: float


def simulate(scenario: Scenario) -> Result:
    """Run a scenario until every request has its outcome."""
    loop, started = VirtualLoop(), time.process_time()
    end = scenario.warm_up_s + scenario.measured_s
    outcomes = Outcomes(scenario.warm_up_s, end)
    state, thresholds = random.getstate(), gc.get_threshold()
    gc.set_threshold(200_000, 50, 50)  # reference counts free most objects; the collector took a third of the time
    random.seed(scenario.seed)  # the product's code uses the global generator
    try:
        with virtual_time(loop):
            brokers = _build(loop, scenario, outcomes)
            busy = [0.0] * len(brokers)
            loop.at(scenario.warm_up_s, lambda: busy.__setitem__(slice(None), [b.busy_s for b in brokers]))
            shares: list[float] = []
            loop.at(end, lambda: shares.extend(b.busy_s - before for b, before in zip(brokers, busy, strict=True)))
            loop.run_while(lambda: loop.now < end or outcomes.unfinished > 0)
            loop.end()
    finally:
        random.setstate(state)
        gc.set_threshold(*thresholds)
    return Result(
        goodput=outcomes.goodput,
        mean_batch=outcomes.mean_batch,
        p50_ms=outcomes.latency_ms(50),
        p99_ms=outcomes.latency_ms(99),
        ok=outcomes.total["ok"],
        late=outcomes.total["late"],
        rejected=outcomes.total["rejected"],
        arrived=outcomes.total_arrived,
        batches=dict(sorted(outcomes.batches.items())),
        closed=dict(outcomes.closed),
        device_busy=outcomes.device_busy_s / scenario.measured_s / scenario.workers,
        broker_busy=min(1.0, max(shares) / scenario.measured_s),
        commands={
            name: sum(b.commands[name] for b in brokers) for name in sorted(set().union(*(b.commands for b in brokers)))
        },
        events=loop.events,
        cpu_s=time.process_time() - started,
    )


def _build(loop: VirtualLoop, scenario: Scenario, outcomes: Outcomes) -> list[Broker]:
    brokers, cores = [], Cores(scenario.costs.cores)
    for partition in range(scenario.partitions):
        broker = Broker(loop, scenario.costs.broker, scenario.max_queue, cores)
        workers = [
            Worker(
                loop,
                broker,
                f"w{number}",
                limits=scenario.limits,
                curve=scenario.curve,
                costs=scenario.costs,
                timeout_s=scenario.timeout_s,
                workers=max(1, scenario.workers // scenario.partitions),
                outcomes=outcomes,
            )
            for number in range(partition, scenario.workers, scenario.partitions)
        ]
        reported = ReportedCapacity(loop, workers)
        for number in range(scenario.gateways):
            arrivals = _arrivals(scenario, partition * scenario.gateways + number)
            Gateway(
                broker, arrivals, scenario.costs, outcomes, scenario.timeout_s, reported.current, scenario.max_queue
            )
        brokers.append(broker)
    return brokers


class ReportedCapacity:
    """Provides the capacity that a partition's workers report to its gateways."""

    def __init__(self, loop: VirtualLoop, workers: list[Worker]) -> None:
        self._loop = loop
        self._workers = workers
        self._known = Capacity()
        self._due_at = 0.0

    def current(self) -> Capacity:
        if self._loop.now >= self._due_at:
            self._due_at = self._loop.now + REPORT_S
            rates = [worker.throughput for worker in self._workers]
            self._known = Capacity.of((each.rows_per_s() for each in rates), (each.batch_full_s() for each in rates))
        return self._known


def _arrivals(scenario: Scenario, gateway: int) -> Arrivals:
    """Return a gateway's equal share of the load, drawn independently of the other gateways."""
    gateways = scenario.partitions * scenario.gateways
    draw = random.Random(f"{scenario.seed}:{gateway}")
    until = scenario.warm_up_s + scenario.measured_s
    if scenario.pattern == "closed":
        clients = len(range(gateway, scenario.clients, gateways))
        return Closed(clients, draw, until=until, think_s=scenario.think_s)
    times = {"poisson": poisson, "bursty": bursty}[scenario.pattern](scenario.rate / gateways, draw)
    return Open(times, until)
