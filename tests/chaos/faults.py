"""Faults of processes and connections. Each returns once its cause has been removed.

Faults of one kind never overlap (a broker cannot be killed twice at once); faults of different kinds may.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from tests.brokers import Broker
from tests.chaos.system import System
from tests.proxy import Proxy

Fault = Callable[[System, random.Random], Awaitable[None]]


def _broker(system: System) -> Broker:
    assert isinstance(system.broker, Broker)
    return system.broker


def _proxy(system: System) -> Proxy:
    assert system.proxy is not None
    return system.proxy


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
    _broker(system).pause()
    await asyncio.sleep(rng.uniform(0.2, 4))
    _broker(system).resume()


async def restart_broker(system: System, rng: random.Random) -> None:
    _broker(system).kill()
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(_broker(system).start)


async def restart_broker_empty(system: System, rng: random.Random) -> None:
    _broker(system).kill()
    _broker(system).lose_data()
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(_broker(system).start)


async def flush_broker(system: System, rng: random.Random) -> None:
    await asyncio.to_thread(_broker(system).sync.flushall)


async def fill_broker(system: System, rng: random.Random) -> None:
    await asyncio.to_thread(_broker(system).sync.config_set, "maxmemory", 1)
    await asyncio.sleep(rng.uniform(0.2, 2))
    await asyncio.to_thread(_broker(system).sync.config_set, "maxmemory", 0)


async def cut_connections(system: System, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        _proxy(system).cut()
        await asyncio.sleep(0.2)


async def stall_connections(system: System, rng: random.Random) -> None:
    _proxy(system).stall()
    await asyncio.sleep(rng.uniform(0.2, 4))
    _proxy(system).flow()


async def slow_connections(system: System, rng: random.Random) -> None:
    _proxy(system).delay(rng.uniform(0.01, 0.1))
    await asyncio.sleep(rng.uniform(1, 3))
    _proxy(system).delay(0)


async def kill_primary(system: System, rng: random.Random) -> None:
    """It comes back later, without its data, as a replica."""
    servers = system.servers
    old = rng.choice(servers.primaries())
    old.kill()
    await asyncio.to_thread(servers.until_taken_over, old)
    await asyncio.sleep(rng.uniform(0, 3))
    old.start()
    await asyncio.to_thread(servers.until_healed)


async def pause_primary(system: System, rng: random.Random) -> None:
    """Briefly, or for so long that a replica takes over while it still believes that it is the primary."""
    servers = system.servers
    old = rng.choice(servers.primaries())
    old.pause()
    await asyncio.sleep(rng.uniform(0.2, 6))
    old.resume()
    await asyncio.to_thread(servers.until_healed)


async def fail_over(system: System, rng: random.Random) -> None:
    servers = system.servers
    old = rng.choice(servers.primaries())
    await asyncio.to_thread(servers.fail_over, old)
    await asyncio.to_thread(servers.until_taken_over, old)
    await asyncio.to_thread(servers.until_healed)


async def restart_primary_empty(system: System, rng: random.Random) -> None:
    """It is back before anybody noticed, and its replicas copy that it has no data."""
    old = rng.choice(system.servers.primaries())
    old.kill()
    old.start()
    await asyncio.to_thread(system.servers.until_healed)


async def kill_replicas(system: System, rng: random.Random) -> None:
    servers = system.servers
    replicas = [node for primary in servers.primaries() for node in servers.replicas(primary)]
    for node in replicas:
        node.kill()
    await asyncio.sleep(rng.uniform(0.5, 3))
    for node in replicas:
        node.start()
    await asyncio.to_thread(servers.until_healed)


WORKERS: tuple[Fault, ...] = (kill_worker, kill_worker, kill_all_workers, pause_worker, pause_all_workers, drain_worker)
GATEWAYS: tuple[Fault, ...] = (kill_gateway, pause_gateway, restart_gateway)
BROKER: tuple[Fault, ...] = (pause_broker, restart_broker, restart_broker_empty, flush_broker, fill_broker)
NETWORK: tuple[Fault, ...] = (cut_connections, stall_connections, slow_connections)
SERVERS: tuple[Fault, ...] = (kill_primary, pause_primary, fail_over, restart_primary_empty, kill_replicas)


def kinds(system: System) -> tuple[tuple[Fault, ...], ...]:
    """Return the kinds of faults. In front of several servers there is no proxy."""
    return (WORKERS, GATEWAYS, BROKER, NETWORK) if system.proxy else (WORKERS, GATEWAYS, SERVERS)
