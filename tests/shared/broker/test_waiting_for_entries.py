"""A claim that waits for more entries ends in time and unblocks no other client."""

from __future__ import annotations

import asyncio

import pytest

from smartbatch.shared.broker.connection.multiplexed import Argument
from smartbatch.shared.broker.queue import claims
from smartbatch.shared.broker.queue.claims import WorkerQueue
from tests.brokers import Broker, Client
from tests.shared.broker.test_protocol import KEYS


@pytest.fixture(autouse=True)
def slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Redis's own timeout so long that a test fails before it."""
    monkeypatch.setattr(claims, "UNBLOCK_SLACK_MS", 20_000)


async def test_the_end_of_a_window_unblocks_no_other_client_after_a_reconnect(any_broker: Broker) -> None:
    """A restarted broker assigns the same client ids to other connections."""
    blocking, command = Client(any_broker.url, block_s=60.0), Client(any_broker.url)
    try:
        mine = WorkerQueue(blocking, command, KEYS, "w1", lease_ms=2000, reply_ttl_s=60)
        await mine.claim("idle", room_rows=32, room_bytes=1 << 30, after_entry=("0-0", 20))
        mine._blocking_id = await command.execute("CLIENT", "ID")  # now another connection's
        await command.client_kill_filter(_id=str(await blocking.execute("CLIENT", "ID")))
        while blocking.generation:  # until the idle connection is seen to be lost
            await asyncio.sleep(0.001)
        async with asyncio.timeout(10):
            await mine.claim("idle", room_rows=32, room_bytes=1 << 30, after_entry=("0-0", 20))
        assert mine._blocking_id == await blocking.execute("CLIENT", "ID")
    finally:
        await blocking.aclose()
        await command.aclose()


async def test_a_window_ends_in_time_even_if_redis_handles_its_unblock_first(
    any_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking, command = Client(any_broker.url, block_s=60.0), Client(any_broker.url)
    execute, tries = command.execute, list[tuple[Argument, ...]]()

    async def too_soon(*unblock: Argument) -> int:
        assert unblock[:2] == ("CLIENT", "UNBLOCK")
        tries.append(unblock)
        return 0 if len(tries) < 3 else await execute(*unblock)

    monkeypatch.setattr(command, "execute", too_soon)
    try:
        mine = WorkerQueue(blocking, command, KEYS, "w1", lease_ms=2000, reply_ttl_s=60)
        async with asyncio.timeout(10):
            await mine.claim("idle", room_rows=32, room_bytes=1 << 30, after_entry=("0-0", 20))
        assert len(tries) >= 3
    finally:
        await blocking.aclose()
        await command.aclose()
