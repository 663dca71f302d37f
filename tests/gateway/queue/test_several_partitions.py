"""A model queue with three partitions on one broker: each request is in one of them, whatever fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.gateway.queue.choice import FAVOURITES
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.queue.partition import Partition, assign
from smartbatch.shared.broker.queue.admission import Capacity, NewEntry
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable, ClientGone
from smartbatch.shared.keys import partition_tag
from smartbatch.shared.settings import from_environment
from tests.brokers import Broker
from tests.gateway.queue.requests import Queued

CAPACITY = Capacity.of([100.0], [0.1], 1, [(0.0, 0.0)], 1.0)


@pytest.fixture
async def queue(broker: Broker) -> AsyncIterator[ModelQueue]:
    random.seed(1)
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m"})
    capacities: dict[str, Capacity] = dict.fromkeys(("m", "m:1", "m:2"), CAPACITY)
    queue = ModelQueue("m", (0, 1, 2), settings, "gw", GatewayMetrics().of("m"), capacities)
    queue.start(asyncio.create_task)
    yield queue
    await queue.close()


def submit(queue: ModelQueue, *names: str) -> list[Queued]:
    requests = [Queued(NewEntry(name, 60_000, 1, "raw", b"x")) for name in names]
    for request in requests:
        queue.submit(request)
    return requests


async def admitted(queue: ModelQueue, *names: str) -> tuple[list[Queued], Partition]:
    """Submit requests in one flush. Returns them and their partition."""
    requests = submit(queue, *names)
    async with asyncio.timeout(5):
        while not all(request.admitted_at for request in requests):
            await asyncio.sleep(0.001)
    [partition] = {request.partition for request in requests}
    return requests, partition


def hang_up(queue: ModelQueue, requests: Sequence[Queued]) -> None:
    for request in requests:
        request.end(ClientGone())
        queue.release(request, answered=False)
        request.future.exception()


def entries(broker: Broker, partition: Partition) -> int:
    return broker.sync.xlen(partition.keys.requests)


async def until_empty(broker: Broker, partition: Partition) -> None:
    async with asyncio.timeout(3):
        while entries(broker, partition):
            await asyncio.sleep(0.01)


async def test_a_broker_without_memory_rejects_nothing_while_others_have_some(
    queue: ModelQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*args, **how):
        raise BrokerFull("no memory")

    monkeypatch.setattr(queue.partitions[0]._admission, "admit", full)
    requests = []
    for number in range(30):
        requests += submit(queue, f"r{number}")
        await asyncio.sleep(0.005)
        queue.set_partitions((0, 1, 2))
    assert all(request.admitted_at for request in requests)
    for partition in queue.partitions[1:]:
        monkeypatch.setattr(partition._admission, "admit", full)
    (last,) = submit(queue, "last")
    with pytest.raises(BrokerFull):
        await asyncio.wait_for(last.future, 1)


async def test_a_cancel_that_fails_is_sent_again(
    queue: ModelQueue, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, partition = await admitted(queue, "a", "b")
    cancel, calls = partition._admission.cancel, []

    async def fail_once(ids: Sequence[str]) -> int:
        calls.append(ids)
        if len(calls) == 1:
            raise BrokerUnavailable("lost")
        return await cancel(ids)

    monkeypatch.setattr(partition._admission, "cancel", fail_once)
    hang_up(queue, requests)
    await until_empty(broker, partition)
    assert len(calls) == 2


async def test_a_partition_that_is_none_any_more_is_closed_after_its_cancels(
    queue: ModelQueue, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, partition = await admitted(queue, "a", "b")
    cancel, away = partition._admission.cancel, True

    async def fail_while_away(ids: Sequence[str]) -> int:
        if away:
            raise BrokerUnavailable("away")
        return await cancel(ids)

    monkeypatch.setattr(partition._admission, "cancel", fail_while_away)
    queue.set_partitions([n for n in (0, 1, 2) if n != partition.keys.partition])
    hang_up(queue, requests)
    await asyncio.sleep(0.3)
    away = False
    await until_empty(broker, partition)
    async with asyncio.timeout(1):
        while partition in queue.partitions:
            await asyncio.sleep(0.01)


async def test_what_moves_while_it_is_reconciled_is_not_admitted_where_it_was(
    queue: ModelQueue, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, old = await admitted(queue, "a", "b")
    new = next(partition for partition in queue.partitions if partition is not old)
    are_inflight = old._reconciler._admission.are_inflight

    async def move_meanwhile(ids: Sequence[str]) -> list[bool]:
        for request in requests:
            assign(request, new)
        old.cancel(request.entry.id for request in requests)
        await new.take_over(requests)
        await until_empty(broker, old)
        return await are_inflight(ids)

    monkeypatch.setattr(old._reconciler._admission, "are_inflight", move_meanwhile)
    await old._reconciler.reconcile(time.monotonic() + 1)
    assert (entries(broker, old), entries(broker, new)) == (0, 2)


async def test_what_waits_to_be_sent_again_is_sent_once(queue: ModelQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that could not be admitted waits for the next flush. It isn't moved meanwhile as well."""
    (request,) = submit(queue, "a")
    assign(request, queue.partitions[0])  # the call failed
    queue._submitter._unsent.clear()
    queue._submitter.put(request)
    monkeypatch.setattr(queue.partitions[0], "stuck_s", lambda now, others_have_workers: 5.0)
    await queue._move_from(queue.partitions[0])
    assert queue._submitter._unsent == [request]


# --- what each partition owes


def unanswered(queue: ModelQueue) -> list[int]:
    return [partition.unanswered_rows for partition in queue.partitions]


async def test_each_request_counts_once_in_its_partition_until_it_is_released(queue: ModelQueue) -> None:
    requests, partition = await admitted(queue, "a", "b")
    assert (partition.unanswered_rows, sum(unanswered(queue))) == (2, 2)
    requests[0].end(b"reply")
    queue.release(requests[0], answered=True)
    queue.release(requests[0], answered=True)
    assert (partition.unanswered_rows, sum(unanswered(queue))) == (1, 1)
    hang_up(queue, requests[1:])
    assert unanswered(queue) == [0, 0, 0]


async def test_flushes_go_where_nothing_is_left_unanswered(queue: ModelQueue) -> None:
    found = [(await admitted(queue, name))[1] for name in ("a", "b", "c")]
    assert {partition.keys.tag for partition in found} == {"m", "m:1", "m:2"}
    assert unanswered(queue) == [1, 1, 1]


async def test_a_request_that_moves_counts_where_it_is(queue: ModelQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, old = await admitted(queue, "a", "b")
    monkeypatch.setattr(old, "stuck_s", lambda now, others_have_workers: 5.0)
    await queue._move_from(old)
    assert (old.unanswered_rows, sum(unanswered(queue))) == (0, 2)
    hang_up(queue, requests)
    assert unanswered(queue) == [0, 0, 0]


async def test_a_request_that_ends_before_it_is_sent_counts_nowhere(queue: ModelQueue) -> None:
    requests = submit(queue, "a", "b")
    hang_up(queue, requests[:1])
    await asyncio.sleep(0)  # the submitter has taken the flush, and its call has not begun
    hang_up(queue, requests[1:])
    requests, _ = await admitted(queue, "c")
    assert sum(unanswered(queue)) == 1


async def test_what_no_broker_takes_counts_nowhere(queue: ModelQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*args, **how):
        raise BrokerFull("no memory")

    for partition in queue.partitions:
        monkeypatch.setattr(partition._admission, "admit", full)
    (request,) = submit(queue, "a")
    with pytest.raises(BrokerFull):
        await asyncio.wait_for(request.future, 5)
    queue.release(request, answered=False)
    assert unanswered(queue) == [0, 0, 0]


async def test_one_of_many_gateways_sends_to_its_favourites_that_answer(
    queue: ModelQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Capacity.of([10_000.0], [0.1], 1, [(0.0, 0.0)], 1.0)
    cast(dict[str, Capacity], queue._capacities).update({partition_tag("m", number): fast for number in range(10)})
    queue.set_rank(0, 20)
    queue.set_partitions(range(10))
    first = [each for each in queue.partitions if each.favourite]
    assert len(first) == FAVOURITES
    used = {(await admitted(queue, f"r{number}"))[1] for number in range(2 * FAVOURITES)}
    assert used == set(first)
    monkeypatch.setattr(first[0], "takes_requests", lambda now: False)
    queue.set_partitions(range(10))
    usable = [each for each in queue._usable if each.favourite]
    assert len(usable) == FAVOURITES and first[0] not in usable


async def test_more_than_one_partition_may_hold_are_admitted_to_several(queue: ModelQueue) -> None:
    for partition in queue.partitions:
        partition._limits = (30, 2**30)
    queue.set_partitions((0, 1, 2))
    requests = submit(queue, *(f"r{number}" for number in range(25)))
    async with asyncio.timeout(5):
        while not all(request.admitted_at for request in requests):
            await asyncio.sleep(0.001)
    assert {each.unanswered_rows for each in queue.partitions} == {10, 5}
