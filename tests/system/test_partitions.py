"""A model with several partitions: requests and workers are spread over them, and whatever happens to one of them, or
to its broker, every request gets its response from another."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartbatch.shared.broker.queue.admission import Admission, NewEntry
from smartbatch.shared.broker.queue.claims import WorkerQueue
from smartbatch.shared.broker.queue.leases import Leases
from smartbatch.shared.keys import Keys, partition_tag
from smartbatch.shared.wire import Payload, Raw, pack_payload
from tests.brokers import Broker, Client, eventually
from tests.load import Load, assert_all_answered
from tests.system.stack import Stack

MODEL = "simulated:base_ms=4,row_ms=0.2"


def keys(partition: int) -> Keys:
    return Keys(partition_tag("simulated", partition))


def workers_of(client: Any, partition: int) -> int:
    return client.zcount(keys(partition).leases, time.time() * 1000, "+inf")


def entries_of(client: Any, partition: int) -> int:
    """How many entries a partition has had."""
    return client.xinfo_stream(keys(partition).requests)["entries-added"]


@pytest.fixture
def system(broker: Broker, tmp_path: Path) -> Iterator[Stack]:
    system = Stack(broker, tmp_path, MODEL_PATH=MODEL, PARTITIONS=3)
    yield system
    system.close()


# --- one broker


async def test_workers_and_requests_are_spread(system: Stack, broker: Broker) -> None:
    system.up(3)
    eventually(lambda: [workers_of(broker.sync, n) for n in range(3)] == [1, 1, 1], 30)
    async with Load(lambda: [system.url]) as load:
        await load.open_loop(200, 3)
        requests = load.sent
    assert_all_answered(requests)
    each = [entries_of(broker.sync, n) for n in range(3)]
    assert sum(each) == len(requests)
    assert min(each) > len(requests) / 50  # one that seems slow gets little


async def test_fewer_workers_than_partitions_get_all_requests(system: Stack) -> None:
    system.up(1)
    async with Load(lambda: [system.url]) as load:
        await load.open_loop(100, 2)
        requests = load.sent
    assert_all_answered(requests)
    assert max(request.seconds for request in requests) < 1.0


async def test_requests_leave_a_partition_whose_only_worker_was_killed(system: Stack) -> None:
    system.up(3)
    victim = system.processes[-1]
    async with Load(lambda: [system.url]) as load:
        asyncio.get_running_loop().call_later(1.0, victim.popen.kill)
        await load.open_loop(100, 6)
        requests = load.sent
    assert_all_answered(requests)
    await asyncio.to_thread(eventually, lambda: system.stats()["queue"]["open"] == 0)


async def test_an_idle_worker_helps_where_a_backlog_is(broker: Broker, tmp_path: Path) -> None:
    system = Stack(broker, tmp_path, MODEL_PATH="simulated:base_ms=100,row_ms=10", PARTITIONS=2, MAX_BATCH_SIZE=8)
    try:
        system.up(2)
        eventually(lambda: [workers_of(broker.sync, n) for n in range(2)] == [1, 1], 30)
        async with Load(lambda: [system.url]) as load:
            await load.closed_loop(64, 256)
            assert_all_answered(load.sent)
        eventually(lambda: [workers_of(broker.sync, n) for n in range(2)] == [1, 1], 10)
    finally:
        system.close()


async def test_a_helper_goes_home_for_the_entry_of_a_worker_that_died_there(broker: Broker, tmp_path: Path) -> None:
    """That entry doesn't wait: it is pending. And the backlog elsewhere would keep the helper busy for long."""
    system = Stack(broker, tmp_path, MODEL_PATH="simulated:base_ms=100,row_ms=10", PARTITIONS=2, MAX_BATCH_SIZE=8)
    client = Client(broker.url)
    payload = pack_payload(Payload("raw", Raw(b"x", "text/plain")))
    limits = {"max_entries": 10_000, "max_bytes": 1 << 30, "body_ttl_s": 60.0}
    try:
        system.up(2)
        eventually(lambda: [workers_of(broker.sync, n) for n in range(2)] == [1, 1], 30)
        await Leases(client, keys(0), "dead").heartbeat({"state": "ready"})
        queue = WorkerQueue(client, client, keys(0), "dead", lease_ms=2000, reply_ttl_s=60)
        backlog = [NewEntry(f"b{number}", 60_000, 1, "raw", payload) for number in range(2000)]
        for first in range(0, len(backlog), 100):
            await Admission(client, keys(1), "gw", **limits).admit(backlog[first : first + 100], force=True)
        await asyncio.to_thread(eventually, lambda: workers_of(broker.sync, 1) == 2)  # the helper is there
        await Admission(client, keys(0), "gw", **limits).admit([NewEntry("d", 60_000, 1, "raw", payload)], force=True)
        claim = await queue.claim("idle", room_rows=1, room_bytes=1 << 20)
        assert [entry.id for entry in claim.entries] == ["d"]
        await asyncio.to_thread(eventually, lambda: broker.sync.exists(keys(0).reply("d")))
        assert broker.sync.xlen(keys(1).requests) > 0
    finally:
        await client.aclose()
        system.close()


async def test_workers_with_other_partitions_take_over_without_a_failed_request(system: Stack, broker: Broker) -> None:
    """As after a resharding: what was admitted where no new request goes is answered too."""
    system.up(2)
    old = [process for process in system.processes if process.log.name.startswith("worker")]
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, 100))
        await asyncio.sleep(1)
        new = [system.worker(PARTITIONS=1), system.worker(PARTITIONS=1)]
        await asyncio.to_thread(eventually, lambda: workers_of(broker.sync, 0) >= 2, 30)
        for process in old:
            await asyncio.to_thread(process.stop, signal.SIGTERM)
        await asyncio.sleep(2)
        done.set()
        await sending
        requests = load.sent
    assert_all_answered(requests)
    assert all(process.popen.poll() is None for process in new)
    assert workers_of(broker.sync, 0) == 2
