"""Simulate a whole system in virtual time: run a scenario and return its result."""

from __future__ import annotations

import gc
import random
import time
from typing import Literal

import msgspec

from simulation.arrivals import Arrivals, Closed, Open, bursty, changed, poisson
from simulation.broker import Broker
from simulation.clock import VirtualLoop, virtual_time
from simulation.cores import Cores
from simulation.costs import Costs, Curve
from simulation.gateway import Gateway
from simulation.outcomes import Outcomes
from simulation.worker import Worker
from smartbatch.worker.batching.policy import Limits

Pattern = Literal["poisson", "bursty", "closed"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a run. `partitions` are brokers, each with its own share of workers, gateways and load.

    With `shared` every gateway sends to all partitions, and workers move between them, as the product does. Without,
    partitions are ideal: separate systems that share an even load.
    """

    curve: Curve
    workers: int = 1
    partitions: int = 1
    shared: bool = False
    gateways: int = 1  # per partition
    skew: tuple[int, ...] = (1,)  # loads of the gateways of a partition, in these ratios
    slow: float = 1.0  # how many times longer the forwards of partition 0's workers are
    dies_at: float = 0.0  # when the broker of partition 0 dies, unless 0. Ideal partitions share its load from then on
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
    failed: int  # without the broker
    max_ms: float
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
            try:
                loop.run_while(lambda: loop.now < end or outcomes.unfinished > 0)
            finally:
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
        failed=outcomes.total["failed"],
        max_ms=outcomes.latency_ms(100),
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
    cores, partitions = Cores(scenario.costs.cores), range(scenario.partitions)
    brokers = [Broker(loop, scenario.costs.broker, scenario.max_queue, cores) for _ in partitions]
    systems = [brokers] * len(brokers) if scenario.shared else [[broker] for broker in brokers]
    for number in range(scenario.workers):
        home = number % scenario.partitions
        curve = scenario.curve
        Worker(
            loop,
            systems[home],
            f"w{number}",
            home=home if scenario.shared else 0,
            limits=scenario.limits,
            curve=_slower(curve, scenario.slow) if home == 0 else curve,
            costs=scenario.costs,
            timeout_s=scenario.timeout_s,
            outcomes=outcomes,
        )
    gateways = scenario.partitions * scenario.gateways
    for number in range(gateways):
        Gateway(
            loop,
            systems[number // scenario.gateways],
            _arrivals(scenario, number),
            scenario.costs,
            outcomes,
            timeout_s=scenario.timeout_s,
            max_queue=scenario.max_queue,
            rank=number,
            gateways=gateways,
        )
    if scenario.dies_at:
        loop.at(scenario.dies_at, brokers[0].die)
    return brokers


def _slower(curve: Curve, factor: float) -> Curve:
    return lambda rows: factor * curve(rows)


def _arrivals(scenario: Scenario, gateway: int) -> Arrivals:
    """Return a gateway's share of the load, drawn independently of the other gateways."""
    gateways = scenario.partitions * scenario.gateways
    draw = random.Random(f"{scenario.seed}:{gateway}")
    until = scenario.warm_up_s + scenario.measured_s
    if scenario.pattern == "closed":
        clients = len(range(gateway, scenario.clients, gateways))
        return Closed(clients, draw, until=until, think_s=scenario.think_s)
    weights = [scenario.skew[n % len(scenario.skew)] for n in range(scenario.gateways)]
    rate = scenario.rate / scenario.partitions * weights[gateway % scenario.gateways] / sum(weights)
    times = {"poisson": poisson, "bursty": bursty}[scenario.pattern](rate, draw)
    if scenario.dies_at and not scenario.shared:
        share = scenario.partitions / (scenario.partitions - 1) if gateway >= scenario.gateways else 0
        times = changed(times, scenario.dies_at, poisson(rate * share, draw) if share else iter(()))
    return Open(times, until)
