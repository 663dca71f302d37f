"""Live limits: what a heartbeat returns, whatever is stored in Redis."""

from __future__ import annotations

import pytest

from smartbatch.shared.broker.queue.leases import Leases
from smartbatch.shared.broker.queue.live_limits import LiveLimits, from_redis, reset_limits, set_limits
from smartbatch.shared.keys import Keys
from tests.brokers import Client

KEYS = Keys("m")


async def heartbeat_limits(client: Client) -> LiveLimits:
    return (await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})).limits


async def test_a_heartbeat_returns_live_limits_until_they_are_reset(client: Client) -> None:
    assert await heartbeat_limits(client) == LiveLimits(None, None)
    await set_limits(client, KEYS, LiveLimits(max_batch_size=4))
    await set_limits(client, KEYS, LiveLimits(max_wait_time=0.0))
    assert await heartbeat_limits(client) == LiveLimits(4, 0.0)
    await reset_limits(client, KEYS)
    assert await heartbeat_limits(client) == LiveLimits(None, None)


async def test_a_limits_key_of_another_type_does_not_break_heartbeats(client: Client) -> None:
    await client.set(KEYS.limits, b"what is this")
    assert await heartbeat_limits(client) == LiveLimits(None, None)


@pytest.mark.parametrize("size", [b"0", b"-3", b"4.5", b"many", b"9" * 40, b""])
def test_an_invalid_batch_size_is_ignored(size: bytes) -> None:
    assert from_redis(size, b"0.5") == LiveLimits(None, 0.5)


@pytest.mark.parametrize("wait", [b"-1", b"nan", b"inf", b"61", b"soon", b""])
def test_an_invalid_window_is_ignored(wait: bytes) -> None:
    assert from_redis(b"8", wait) == LiveLimits(8, None)
