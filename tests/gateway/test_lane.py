"""The lane against a real broker: gathering, resending, finding what got lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.lane import Lane
from gateway.meters import Meters
from gateway.pending import Awaited, Pending
from shared.broker.admission import UNKNOWN, Request
from shared.broker.claims import Claims, Outcome
from shared.broker.connection import connect
from shared.errors import BrokerUnavailable, ClientGone, DeadlineExceeded
from shared.keys import Keys
from shared.settings import from_environment
from tests.brokers import Broker

KEYS = Keys("m")


@pytest.fixture
async def lane(broker: Broker) -> AsyncIterator[Lane]:
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m"})
    lane = Lane("m", settings, "gw", Meters().of("m"), lambda: UNKNOWN)
    lane.start(asyncio.create_task)
    yield lane
    await lane.close()


@pytest.fixture
async def worker(broker: Broker) -> AsyncIterator[Claims]:
    client = connect(broker.url)
    yield Claims(client, client, KEYS, "w1", lease_ms=2000, reply_ttl_s=60)
    await client.aclose()


def submit(lane: Lane, number: int, timeout_ms: int = 5000) -> Awaited:
    return lane.submit(Request(f"r{number}", timeout_ms, 1, "raw", b"x"), time.monotonic())


async def admitted(*pendings: Pending) -> None:
    async with asyncio.timeout(5):
        while not all(pending.admitted for pending in pendings):
            await asyncio.sleep(0.001)


async def claim(worker: Claims):
    return (await worker.claim("idle", room_rows=100, room_bytes=1 << 20)).entries


async def test_what_arrives_together_leaves_in_one_call(lane: Lane, broker: Broker) -> None:
    pendings = [submit(lane, number) for number in range(50)]
    await admitted(*pendings)
    assert lane.meters.flushes._value.get() == 1
    assert broker.sync.xlen(KEYS.requests) == 50


async def test_a_reply_resolves_its_request_and_leaves_no_key(lane: Lane, worker: Claims, broker: Broker) -> None:
    pending = submit(lane, 1)
    await admitted(pending)
    [entry] = await claim(worker)
    await worker.finish([Outcome(entry, b"reply")])
    assert await pending.future == b"reply"
    async with asyncio.timeout(5):
        while broker.sync.exists(KEYS.reply("r1")):
            await asyncio.sleep(0.001)


async def test_a_lost_wake_up_is_found_by_the_sweep(lane: Lane, worker: Claims, broker: Broker) -> None:
    pending = submit(lane, 1)
    await admitted(pending)
    [entry] = await claim(worker)
    stray = Outcome(entry, b"reply")
    stray.entry.gateway = "somebody-else"  # the wake-up goes astray, the reply stands
    await worker.finish([stray])
    async with asyncio.timeout(4):
        assert await pending.future == b"reply"
        while broker.sync.exists(KEYS.reply("r1")):
            await asyncio.sleep(0.001)


async def test_what_redis_lost_is_admitted_again_under_the_same_id(lane: Lane, worker: Claims, broker: Broker) -> None:
    pending = submit(lane, 1)
    await admitted(pending)
    broker.sync.flushall()
    async with asyncio.timeout(4):
        while not (entries := await claim(worker)):
            await asyncio.sleep(0.01)
    assert [entry.id for entry in entries] == ["r1"]
    await worker.finish([Outcome(entries[0], b"reply")])
    assert await pending.future == b"reply"
    assert lane.meters.readmissions._value.get() == 1


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), ClientGone("gone")])
async def test_giving_up_frees_the_place(lane: Lane, broker: Broker, error: Exception) -> None:
    pending = submit(lane, 1)
    await admitted(pending)
    pending.end(error)
    with pytest.raises(type(error)):
        await pending.future
    lane.finished(pending, answered=False)
    async with asyncio.timeout(5):
        while broker.sync.exists(KEYS.open):
            await asyncio.sleep(0.001)
    assert broker.sync.xlen(KEYS.requests) == 0


async def test_giving_up_before_the_admission_was_sent_sends_nothing(lane: Lane, broker: Broker) -> None:
    pending = submit(lane, 1)
    pending.end(ClientGone("gone"))
    lane.finished(pending, answered=False)
    after = submit(lane, 2)
    await admitted(after)
    assert [fields[b"id"] for _, fields in broker.sync.xrange(KEYS.requests)] == [b"r2"]
    with pytest.raises(ClientGone):
        await pending.future


async def test_without_a_broker_requests_are_refused_and_soon_at_once() -> None:
    settings = from_environment({"REDIS_URL": "redis://127.0.0.1:1/0", "MODEL_NAME": "m"})
    lane = Lane("m", settings, "gw", Meters().of("m"), lambda: UNKNOWN)
    lane.start(asyncio.create_task)
    first = submit(lane, 1)
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(4):
            await first.future
    with pytest.raises(BrokerUnavailable):
        lane.check(5000)
    await lane.close()
