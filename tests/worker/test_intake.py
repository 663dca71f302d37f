"""Intake: bodies that lie beside the stream come before their riders are decoded, also from a broker that stumbles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shared.broker.claims import Entry
from shared.errors import BrokerUnavailable
from shared.wire import Payload, Raw, pack_payload
from worker import intake as module
from worker import models
from worker.decoding import Decoder
from worker.finisher import Finisher
from worker.intake import Intake
from worker.meters import Meters


class Broker:
    """Has bodies; the first `failures` times it can't be asked."""

    def __init__(self) -> None:
        self.bodies_held: dict[str, bytes] = {}
        self.failures = 0
        self.asked = 0

    async def bodies(self, request_ids: Sequence[str]) -> list[bytes | None]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.asked <= self.failures:
            raise BrokerUnavailable("no")
        return [self.bodies_held.get(request_id) for request_id in request_ids]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def intake(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Intake]:
    monkeypatch.setattr(module, "RETRY_S", (0.001,) * 3)
    claims: Any = broker
    meters = Meters("m")
    decoder = Decoder(models.resolve("simulated:base_ms=0,row_ms=0"), 32)
    yield Intake(claims, decoder, Finisher(claims, meters, give_up_after_s=60), meters, max_deliveries=3)
    decoder.close()


def entry(name: str, payload: bytes = b"") -> Entry:
    return Entry(f"{name}-0", name, "gw", 0, 60_000, 1, 20_000, "raw", "", payload, beside=not payload)


def packed(text: bytes) -> bytes:
    return pack_payload(Payload("raw", Raw(text, "")))


async def decoded(intake: Intake, entries: list[Entry]) -> list[Any]:
    riders = intake.receive(entries, 0, 0.0)
    for rider in riders:
        await asyncio.to_thread(rider.decoded.result, 5)
    return riders


@pytest.mark.parametrize("failures", [0, 2])
async def test_riders_are_decoded_once_their_bodies_are_there(intake: Intake, broker: Broker, failures: int) -> None:
    broker.failures = failures
    broker.bodies_held = {"a": packed(b"first"), "b": packed(b"second")}
    riders = await decoded(intake, [entry("a"), entry("c", packed(b"third")), entry("b")])
    assert [rider.entry.payload for rider in riders] == [packed(text) for text in (b"first", b"third", b"second")]
    assert all(rider.alive and len(rider.rows) == 1 for rider in riders)
    assert broker.asked == failures + 1
    assert intake.meters.registry.get_sample_value("smartbatch_worker_broker_errors_total", {"model": "m"}) == failures


async def test_only_who_lost_its_body_is_given_up(intake: Intake, broker: Broker) -> None:
    broker.bodies_held = {"b": packed(b"second")}
    lost, there = await decoded(intake, [entry("a"), entry("b")])
    assert (lost.lost, there.lost, len(there.rows)) == (True, False, 1)


async def test_a_broker_that_stays_away_ends_the_wait(intake: Intake, broker: Broker) -> None:
    broker.failures = 1000
    assert [rider.lost for rider in await decoded(intake, [entry("a"), entry("b")])] == [True, True]
    assert broker.asked == 3


async def test_what_fetching_takes_is_known_and_forgotten(intake: Intake, broker: Broker) -> None:
    broker.bodies_held = {"a": packed(b"first")}
    await decoded(intake, [entry("a")])
    took_s = intake.fetch_s
    assert took_s > 0
    await decoded(intake, [entry("c", packed(b"third"))])
    assert 0 < intake.fetch_s < took_s
