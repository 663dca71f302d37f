"""Faults of processes and connections. Each returns once its cause has been removed.

Faults of one kind never overlap (a broker cannot be killed twice at once); faults of different kinds may.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from tests.chaos.system import System

Fault = Callable[[System, random.Random], Awaitable[None]]


async def kill_worker(system: System, rng: random.Random) -> None:
    rng.choice(system.workers).popen.kill()


async def kill_all_workers(system: System, rng: random.Random) -> None:
    for worker in system.workers:
        worker.popen.kill()


async def pause_worker(system: System, rng: random.Random) -> None:
    worker = rng.choice(system.workers)
    worker.popen.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(0.2, 6))
    worker.popen.send_signal(signal.SIGCONT)


async def pause_all_workers(system: System, rng: random.Random) -> None:
    workers = list(system.workers)
    for worker in workers:
        worker.popen.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(0.2, 5))
    for worker in workers:
        worker.popen.send_signal(signal.SIGCONT)


async def drain_worker(system: System, rng: random.Random) -> None:
    rng.choice(system.workers).popen.send_signal(signal.SIGTERM)


async def kill_gateway(system: System, rng: random.Random) -> None:
    await system.kill_gateway(rng)


async def pause_gateway(system: System, rng: random.Random) -> None:
    gateway = rng.choice(system.gateways)
    gateway.popen.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(0.2, 3))
    gateway.popen.send_signal(signal.SIGCONT)


async def restart_gateway(system: System, rng: random.Random) -> None:
    await system.restart_gateway(rng)


async def pause_broker(system: System, rng: random.Random) -> None:
    system.broker.pause()
    await asyncio.sleep(rng.uniform(0.2, 4))
    system.broker.resume()


async def restart_broker(system: System, rng: random.Random) -> None:
    system.broker.kill()
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(system.broker.start)


async def restart_broker_empty(system: System, rng: random.Random) -> None:
    system.broker.kill()
    system.broker.lose_data()
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(system.broker.start)


async def flush_broker(system: System, rng: random.Random) -> None:
    await asyncio.to_thread(system.broker.sync.flushall)


async def fill_broker(system: System, rng: random.Random) -> None:
    await asyncio.to_thread(system.broker.sync.config_set, "maxmemory", 1)
    await asyncio.sleep(rng.uniform(0.2, 2))
    await asyncio.to_thread(system.broker.sync.config_set, "maxmemory", 0)


async def cut_connections(system: System, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        system.proxy.cut()
        await asyncio.sleep(0.2)


async def stall_connections(system: System, rng: random.Random) -> None:
    system.proxy.stall()
    await asyncio.sleep(rng.uniform(0.2, 4))
    system.proxy.flow()


async def slow_connections(system: System, rng: random.Random) -> None:
    system.proxy.delay(rng.uniform(0.01, 0.1))
    await asyncio.sleep(rng.uniform(1, 3))
    system.proxy.delay(0)


WORKERS: tuple[Fault, ...] = (kill_worker, kill_worker, kill_all_workers, pause_worker, pause_all_workers, drain_worker)
GATEWAYS: tuple[Fault, ...] = (kill_gateway, pause_gateway, restart_gateway)
BROKER: tuple[Fault, ...] = (pause_broker, restart_broker, restart_broker_empty, flush_broker, fill_broker)
NETWORK: tuple[Fault, ...] = (cut_connections, stall_connections, slow_connections)
KINDS = (WORKERS, GATEWAYS, BROKER, NETWORK)
