"""Payloads outside the stream are fetched before their entries are decoded, even if the broker fails for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.wire import Payload, Raw, pack_payload
from smartbatch.worker import models
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.queue import entry_tracker as module
from smartbatch.worker.queue.entry_tracker import EntryTracker
from smartbatch.worker.queue.reply_publisher import ReplyPublisher


class Broker:
    """Holds payloads; the first `failures` calls fail."""

    def __init__(self) -> None:
        self.bodies_held: dict[str, bytes] = {}
        self.failures = 0
        self.requests = 0

    async def bodies(self, request_ids: Sequence[str]) -> list[bytes | None]:
        self.requests += 1
        await asyncio.sleep(0)
        if self.requests <= self.failures:
            raise BrokerUnavailable("no")
        return [self.bodies_held.get(request_id) for request_id in request_ids]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def tracker(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[EntryTracker]:
    monkeypatch.setattr(module, "RETRY_S", (0.001,) * 3)
    claims: Any = broker
    metrics = WorkerMetrics("m", "w")
    decoder = Decoder(models.resolve("simulated:base_ms=0,row_ms=0"), 32)
    yield EntryTracker(claims, decoder, ReplyPublisher(claims, metrics, give_up_after_s=60), metrics, max_deliveries=3)
    decoder.close()


def entry(name: str, payload: bytes = b"") -> Entry:
    return Entry(f"{name}-0", name, "gw", 0, 60_000, 1, 20_000, "raw", "", payload, external=not payload)


def packed(text: bytes) -> bytes:
    return pack_payload(Payload("raw", Raw(text, "")))


async def decoded(tracker: EntryTracker, entries: list[Entry]) -> list[Any]:
    claimed_entries = tracker.receive(entries, 0, 0.0)
    for claimed in claimed_entries:
        await asyncio.to_thread(claimed.decoded.result, 5)
    return claimed_entries


@pytest.mark.parametrize("failures", [0, 2])
async def test_entries_are_decoded_once_their_payloads_are_fetched(
    tracker: EntryTracker, broker: Broker, failures: int
) -> None:
    broker.failures = failures
    broker.bodies_held = {"a": packed(b"first"), "b": packed(b"second")}
    claimed_entries = await decoded(tracker, [entry("a"), entry("c", packed(b"third")), entry("b")])
    assert [claimed.entry.payload for claimed in claimed_entries] == [
        packed(text) for text in (b"first", b"third", b"second")
    ]
    assert all(claimed.alive and len(claimed.rows) == 1 for claimed in claimed_entries)
    assert broker.requests == failures + 1
    assert (
        tracker.metrics.registry.get_sample_value(
            "smartbatch_worker_broker_errors_total", {"model": "m", "version": "1", "worker": "w"}
        )
        == failures
    )


async def test_only_an_entry_without_a_payload_is_lost(tracker: EntryTracker, broker: Broker) -> None:
    broker.bodies_held = {"b": packed(b"second")}
    lost, there = await decoded(tracker, [entry("a"), entry("b")])
    assert (lost.lost, there.lost, len(there.rows)) == (True, False, 1)


async def test_an_unavailable_broker_ends_the_wait(tracker: EntryTracker, broker: Broker) -> None:
    broker.failures = 1000
    assert [claimed.lost for claimed in await decoded(tracker, [entry("a"), entry("b")])] == [True, True]
    assert broker.requests == 3


async def test_fetch_time_is_a_running_mean(tracker: EntryTracker, broker: Broker) -> None:
    broker.bodies_held = {"a": packed(b"first")}
    await decoded(tracker, [entry("a")])
    took_s = tracker.fetch_s
    assert took_s > 0
    await decoded(tracker, [entry("c", packed(b"third"))])
    assert 0 < tracker.fetch_s < took_s
