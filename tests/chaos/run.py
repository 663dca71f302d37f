"""One run: traffic and faults for a given time; afterwards probes check that the service works."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.brokers import Broker
from tests.chaos import faults, traffic
from tests.chaos.system import WORKERS, System
from tests.clusters import Servers
from tests.load import Load, SentRequest

WARM_S = 2.0
BETWEEN_FAULTS_S = (0.5, 4.0)
KILLER_EVERY_S = 15.0
AFTER_S = 3.0  # load continues this long after the last fault
PROBE_REQUESTS = 200
GIVE_UP_S = 50.0  # longer than REQUEST_TIMEOUT (30 s); a response after it counts as lost


class FaultRecord(msgspec.Struct):
    """A fault with its start and end in monotonic seconds."""

    name: str
    began_at: float
    ended_at: float = 0.0


class Run(msgspec.Struct):
    """The record of a run, which `evaluate` reads."""

    seed: int
    seconds: float
    rate: float
    broker: str
    requests: list[SentRequest] = []
    faults: list[FaultRecord] = []
    killed_gateways: list[tuple[str, float]] = []
    restarts: int = 0
    dead_workers: float = 0.0
    leftovers: list[str] = []
    probes: list[SentRequest] = []


async def run(
    broker: Broker | Servers, name: str, folder: Path, seed: int, seconds: float, rate: float, say: Callable
) -> Run:
    """Run the system for this long. `say(text)` is called regularly with the progress."""
    rng = random.Random(seed)
    result = Run(seed, seconds, rate, name)
    system = System(broker, folder)
    try:
        await system.start()
        async with Load(system.urls, give_up_s=GIVE_UP_S) as load:
            result.requests = load.sent
            until = time.monotonic() + WARM_S + seconds
            breaking = [
                asyncio.create_task(_break(kind, system, random.Random(rng.random()), until, result.faults))
                for kind in faults.kinds(system)
            ]
            sending = asyncio.create_task(_send(load, rng, rate, until, lambda: say(_so_far(result, until))))
            await asyncio.gather(*breaking)
            await asyncio.sleep(AFTER_S)
            sending.cancel()
            say("recovering")
            await load.finish()
            await system.until_ready()
            result.requests = list(load.sent)
            result.probes = [await load.send() for _ in range(PROBE_REQUESTS)]
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(system.stack.until_clean, WORKERS)
        result.leftovers = await asyncio.to_thread(system.stack.leftovers, WORKERS)
        result.dead_workers = system.stack.counter("smartbatch_dead_workers_found_total")
        result.killed_gateways, result.restarts = system.killed_gateways, system.restarts
    finally:
        await system.close()
    return result


async def _send(load: Load, rng: random.Random, rate: float, until: float, report: Callable[[], None]) -> None:
    """Send requests in an open loop until cancelled, those that kill workers only until `until`."""
    started = reported_at = time.monotonic()
    killer_at = started + WARM_S
    sent = 0
    while True:
        now = time.monotonic()
        traffic.begin(load, rng, traffic.kind(rng))
        sent += 1
        if killer_at < now < until:
            traffic.begin(load, rng, rng.choice(traffic.KILLERS))
            killer_at = now + KILLER_EVERY_S
        if now > reported_at + 1:
            reported_at = now
            report()
        await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))


async def _break(
    kind: tuple[faults.Fault, ...], system: System, rng: random.Random, until: float, happened: list[FaultRecord]
) -> None:
    """Inject faults of this kind one after the other. All kinds at once would leave no time to recover."""
    await asyncio.sleep(WARM_S)
    while True:
        await asyncio.sleep(len(faults.kinds(system)) * rng.uniform(*BETWEEN_FAULTS_S))
        if time.monotonic() > until:
            return
        fault = rng.choice(kind)
        happened.append(this := FaultRecord(fault.__name__, time.monotonic()))
        await fault(system, rng)
        this.ended_at = time.monotonic()


def _so_far(result: Run, until: float) -> str:
    answered = sum(request.status == 200 for request in result.requests)
    last = result.faults[-1].name.replace("_", " ") if result.faults else "nothing yet"
    left_s = max(0.0, until - time.monotonic())
    return (
        f"{left_s:.0f} s left · {len(result.requests)} sent, {answered} answered · {len(result.faults)} faults · {last}"
    )
