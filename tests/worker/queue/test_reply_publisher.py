"""The publisher gives up no reply while a client may wait, and an unpublishable reply delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from smartbatch.shared.broker.queue.claims import Entry, Outcome
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.wire import unpack_reply
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.queue import reply_publisher as module
from smartbatch.worker.queue.reply_publisher import ReplyPublisher


class Broker:
    """Accepts replies up to `takes_bytes`, while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.takes_bytes = 1000
        self.published: dict[str, bytes] = {}

    async def finish(self, outcomes: Sequence[Outcome]) -> int:
        await asyncio.sleep(0)
        if not self.up or any(len(outcome.reply) > self.takes_bytes for outcome in outcomes):
            raise BrokerUnavailable("no")
        self.published |= {outcome.entry.id: outcome.reply for outcome in outcomes}
        return len(outcomes)


def outcome(name: str, size: int = 10) -> Outcome:
    return Outcome(Entry(f"{name}-0", name, "gw", 0, 1000, 1, 1, "raw", "", b""), bytes(size))


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def publisher(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReplyPublisher]:
    monkeypatch.setattr(module, "RETRY_S", (0.001,))
    claims: Any = broker
    publisher = ReplyPublisher(claims, WorkerMetrics("m", "w"), give_up_after_s=60)
    task = asyncio.create_task(publisher.run())
    yield publisher
    task.cancel()


async def test_a_broker_that_recovers_gets_all_replies(publisher: ReplyPublisher, broker: Broker) -> None:
    broker.up = False
    publisher.put([outcome(f"r{n}") for n in range(20)])
    await asyncio.sleep(0.02)
    broker.up = True
    async with asyncio.timeout(5):
        await publisher.drain()
    assert set(broker.published.values()) == {bytes(10)}
    assert len(broker.published) == 20


async def test_a_reply_that_the_broker_rejects_delays_no_other_and_becomes_an_error(
    publisher: ReplyPublisher, broker: Broker
) -> None:
    publisher.put([outcome("r0"), outcome("large", 2000), outcome("r1")])
    async with asyncio.timeout(5):
        while not {"r0", "r1"} <= broker.published.keys():
            await asyncio.sleep(0.001)
        for number in range(2, 50):
            publisher.put([outcome(f"r{number}")])
            await asyncio.sleep(0.002)
        await publisher.drain()
    assert len(broker.published) == 51
    error = unpack_reply(broker.published["large"]).error
    assert str(error) == "the reply of 2000 bytes exceeds the broker's limits"


async def test_an_outage_turns_no_reply_into_an_error(publisher: ReplyPublisher, broker: Broker) -> None:
    broker.up = False
    publisher.put([outcome("large", 900)])
    await asyncio.sleep(0.05)  # dozens of tries
    broker.up = True
    async with asyncio.timeout(5):
        await publisher.drain()
    assert broker.published == {"large": bytes(900)}
