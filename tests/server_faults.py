"""What may happen to the primaries of a cluster, or to one that Sentinels watch. Each fault returns the time when all
keys had a primary again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.clusters import Node, Servers

Fault = Callable[[Servers], Awaitable[float]]


async def killed(servers: Servers) -> float:
    """The old primary comes back later, without its data."""
    old = servers.primary()
    old.kill()
    return await _after_takeover(servers, old, old.start)


async def paused(servers: Servers) -> float:
    """When the old primary goes on, it still believes that it is one."""
    old = servers.primary()
    old.pause()
    return await _after_takeover(servers, old, old.resume)


async def _after_takeover(servers: Servers, old: Node, again: Callable[[], None]) -> float:
    await asyncio.to_thread(servers.until_taken_over, old)
    back_at = time.monotonic()
    await asyncio.sleep(1)
    again()
    return back_at


async def demoted(servers: Servers) -> float:
    old = servers.primary()
    servers.fail_over(old)
    await asyncio.to_thread(servers.until_taken_over, old)
    return time.monotonic()


async def restarted_empty(servers: Servers) -> float:
    """The primary is back before anybody noticed, as primary and without data, and its replicas copy that."""
    old = servers.primary()
    old.kill()
    old.start()
    await asyncio.to_thread(servers.until_written)
    return time.monotonic()


async def without_replicas(servers: Servers) -> float:
    replicas = [node for primary in servers.primaries() for node in servers.replicas(primary)]
    for node in replicas:
        node.kill()
    await asyncio.sleep(3)
    for node in replicas:
        node.start()
    return time.monotonic()


async def restarted_one_by_one(servers: Servers) -> float:
    for old in servers.primaries() if servers.kind == "cluster" else servers.nodes:
        if old in servers.primaries():
            await asyncio.to_thread(servers.fail_over, old)
            await asyncio.to_thread(servers.until_taken_over, old)
        old.kill()
        await asyncio.sleep(0.5)
        old.start()
        await asyncio.to_thread(servers.until_healed)
    return time.monotonic()
