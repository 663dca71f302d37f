"""A model queue with a real broker: flushes, retries, reconciliation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import Counter

from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.broker.queue.claims import Outcome, WorkerQueue
from smartbatch.shared.errors import BrokerUnavailable, ClientGone, DeadlineExceeded
from smartbatch.shared.keys import Keys
from smartbatch.shared.settings import from_environment
from tests.brokers import Broker, Client
from tests.gateway.queue.requests import Queued

KEYS = Keys("m")


@pytest.fixture
async def queue(broker: Broker) -> AsyncIterator[ModelQueue]:
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m"})
    queue = ModelQueue("m", (0,), settings, "gw", GatewayMetrics().of("m"), {})
    queue.start(asyncio.create_task)
    yield queue
    await queue.close()


@pytest.fixture
async def worker(broker: Broker) -> AsyncIterator[WorkerQueue]:
    client = Client(broker.url)
    yield WorkerQueue(client, client, KEYS, "w1", lease_ms=2000, reply_ttl_s=60)
    await client.aclose()


def count(counter: Counter) -> float:
    [family] = counter.collect()
    return family.samples[0].value


def submit(queue: ModelQueue, number: int, timeout_ms: int = 5000) -> Queued:
    request = Queued(NewEntry(f"r{number}", timeout_ms, 1, "raw", b"x"))
    queue.submit(request)
    return request


async def admitted(*requests: Queued) -> None:
    async with asyncio.timeout(5):
        while not all(request.admitted_at for request in requests):
            await asyncio.sleep(0.001)


async def claim(worker: WorkerQueue):
    return (await worker.claim("idle", room_rows=100, room_bytes=1 << 20)).entries


async def test_requests_that_arrive_together_are_sent_in_one_call(queue: ModelQueue, broker: Broker) -> None:
    requests = [submit(queue, number) for number in range(50)]
    await admitted(*requests)
    assert count(queue.metrics.flushes) == 1
    assert broker.sync.xlen(KEYS.requests) == 50


async def test_a_reply_completes_its_request_and_leaves_no_key(
    queue: ModelQueue, worker: WorkerQueue, broker: Broker
) -> None:
    request = submit(queue, 1)
    await admitted(request)
    [entry] = await claim(worker)
    await worker.finish([Outcome(entry, b"reply")])
    assert await request.future == b"reply"
    async with asyncio.timeout(5):
        while broker.sync.exists(KEYS.reply("r1")):
            await asyncio.sleep(0.001)


async def test_a_lost_notice_is_found_by_the_reconciler(queue: ModelQueue, worker: WorkerQueue, broker: Broker) -> None:
    request = submit(queue, 1)
    await admitted(request)
    [entry] = await claim(worker)
    stray = Outcome(entry, b"reply")
    stray.entry.gateway = "somebody-else"  # the notice is lost, but the reply exists
    await worker.finish([stray])
    async with asyncio.timeout(4):
        assert await request.future == b"reply"
        while broker.sync.exists(KEYS.reply("r1")):
            await asyncio.sleep(0.001)


async def test_a_request_lost_by_redis_is_admitted_again_under_the_same_id(
    queue: ModelQueue, worker: WorkerQueue, broker: Broker
) -> None:
    request = submit(queue, 1)
    await admitted(request)
    broker.sync.flushall()
    async with asyncio.timeout(4):
        while not (entries := await claim(worker)):
            await asyncio.sleep(0.01)
    assert [entry.id for entry in entries] == ["r1"]
    await worker.finish([Outcome(entries[0], b"reply")])
    assert await request.future == b"reply"
    assert count(queue.metrics.readmissions) == 1


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), ClientGone("gone")])
async def test_cancelling_frees_the_place(queue: ModelQueue, broker: Broker, error: Exception) -> None:
    request = submit(queue, 1)
    await admitted(request)
    request.end(error)
    with pytest.raises(type(error)):
        await request.future
    queue.release(request, answered=False)
    async with asyncio.timeout(5):
        while broker.sync.exists(KEYS.inflight):
            await asyncio.sleep(0.001)
    assert broker.sync.xlen(KEYS.requests) == 0


async def test_cancelling_before_the_flush_sends_nothing(queue: ModelQueue, broker: Broker) -> None:
    request = submit(queue, 1)
    request.end(ClientGone("gone"))
    queue.release(request, answered=False)
    after = submit(queue, 2)
    await admitted(after)
    assert [fields[b"id"] for _, fields in broker.sync.xrange(KEYS.requests)] == [b"r2"]
    with pytest.raises(ClientGone):
        await request.future


async def test_without_a_broker_requests_are_rejected_and_soon_at_once() -> None:
    settings = from_environment({"REDIS_URL": "redis://127.0.0.1:1/0", "MODEL_NAME": "m"})
    queue = ModelQueue("m", (0,), settings, "gw", GatewayMetrics().of("m"), {})
    queue.start(asyncio.create_task)
    first = submit(queue, 1)
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(4):
            await first.future
    with pytest.raises(BrokerUnavailable):
        queue.check(5000)
    await queue.close()
