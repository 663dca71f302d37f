"""Publishing: nothing is given up while anybody may wait, and one reply that can't be published holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from shared.broker.claims import Entry, Outcome
from shared.errors import BrokerUnavailable
from shared.wire import unpack_reply
from worker import finisher as module
from worker.finisher import Finisher
from worker.meters import Meters


class Broker:
    """Takes replies up to so many bytes, while it is up."""

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
async def finisher(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Finisher]:
    monkeypatch.setattr(module, "RETRY_S", (0.001,))
    claims: Any = broker
    finisher = Finisher(claims, Meters("m"), give_up_after_s=60)
    task = asyncio.create_task(finisher.run())
    yield finisher
    task.cancel()


async def test_a_broker_that_comes_back_gets_all(finisher: Finisher, broker: Broker) -> None:
    broker.up = False
    finisher.put([outcome(f"r{n}") for n in range(20)])
    await asyncio.sleep(0.02)
    broker.up = True
    async with asyncio.timeout(5):
        await finisher.drain()
    assert set(broker.published.values()) == {bytes(10)}
    assert len(broker.published) == 20


async def test_a_reply_that_is_not_taken_holds_up_no_other_and_becomes_an_error(
    finisher: Finisher, broker: Broker
) -> None:
    finisher.put([outcome("r0"), outcome("large", 2000), outcome("r1")])
    async with asyncio.timeout(5):
        while not {"r0", "r1"} <= broker.published.keys():
            await asyncio.sleep(0.001)
        for number in range(2, 50):
            finisher.put([outcome(f"r{number}")])
            await asyncio.sleep(0.002)
        await finisher.drain()
    assert len(broker.published) == 51
    error = unpack_reply(broker.published["large"]).error
    assert str(error) == "the answer of 2000 bytes is more than the broker takes"


async def test_an_outage_makes_no_answer_an_error(finisher: Finisher, broker: Broker) -> None:
    broker.up = False
    finisher.put([outcome("large", 900)])
    await asyncio.sleep(0.05)  # dozens of tries
    broker.up = True
    async with asyncio.timeout(5):
        await finisher.drain()
    assert broker.published == {"large": bytes(900)}
