"""The snapshot of a model's queue that gateways, `top` and alerts use, and the names of models, on real brokers."""

from __future__ import annotations

import asyncio

from smartbatch.shared.broker.admin.registry import Snapshot, reserve_name, snapshot
from smartbatch.shared.broker.queue.claims import parse_entry
from smartbatch.shared.model_info import InputSpec, ModelInfo
from tests.brokers import Client
from tests.entries import entry_fields
from tests.shared.broker.test_protocol import KEYS, admission, claim, request


async def test_an_unused_model_has_an_empty_snapshot(client: Client) -> None:
    seen = await snapshot(client, KEYS.model)
    assert seen == Snapshot(KEYS.model, seen.now_ms)


async def test_it_counts_waiting_and_running_entries(client: Client) -> None:
    await admission(client).admit([request(n, rows=n) for n in (1, 2, 3)])
    assert len((await claim(client, room_rows=3)).entries) == 2
    seen = await snapshot(client, KEYS.model)
    assert (seen.waiting, seen.running, seen.open_requests, seen.open_bytes, seen.open_rows) == (1, 2, 3, 300, 6)


async def test_the_oldest_wait_is_that_of_the_next_entry_to_claim(client: Client) -> None:
    for number in range(3):
        await admission(client).admit([request(number)])
        await asyncio.sleep(0.005)  # so that their waits differ
    entries = [parse_entry(found) for found in await client.execute("XRANGE", KEYS.requests, "-", "+")]
    assert entries[0].t_ms < entries[1].t_ms < entries[2].t_ms
    for entry in entries:
        seen = await snapshot(client, KEYS.model)
        assert seen.oldest_wait_s == (seen.now_ms - entry.t_ms) / 1000 > 0
        await claim(client, room_rows=1)
    assert (await snapshot(client, KEYS.model)).oldest_wait_s == 0


async def test_a_malformed_entry_has_no_known_wait(client: Client) -> None:
    await client.xadd(KEYS.requests, entry_fields(t="long ago"))
    seen = await snapshot(client, KEYS.model)
    assert (seen.waiting, seen.oldest_wait_s) == (1, 0.0)


def info(fingerprint: str) -> ModelInfo:
    return ModelInfo(KEYS.model, "net.py:Net", InputSpec(("raw",)), 8, fingerprint=fingerprint)


async def test_a_name_is_reserved_for_one_fingerprint_until_another_replaces_it(client: Client) -> None:
    a, b = info("a"), info("b")
    assert await reserve_name(client, a, ttl_ms=60_000) is None
    assert await reserve_name(client, b, ttl_ms=60_000) == a
    assert await reserve_name(client, a, ttl_ms=60_000) is None
    assert await reserve_name(client, b, ttl_ms=60_000, replace=True) is None
    assert await reserve_name(client, a, ttl_ms=60_000) == b


async def test_a_reservation_expires_unless_it_is_renewed(client: Client) -> None:
    await reserve_name(client, info("a"), ttl_ms=60_000)
    await reserve_name(client, info("a"), ttl_ms=30)
    assert 0 < await client.pttl(KEYS.served) <= 30
    await asyncio.sleep(0.05)
    assert await reserve_name(client, info("b"), ttl_ms=60_000) is None


async def test_a_reservation_that_is_not_ours_is_overwritten(client: Client) -> None:
    await client.set(KEYS.served, "something")
    assert await reserve_name(client, info("a"), ttl_ms=60_000) is None
    assert await reserve_name(client, info("b"), ttl_ms=60_000) == info("a")
