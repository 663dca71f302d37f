"""Batching as clients see it, with real processes: close reasons, rows, backlog, consolidation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import aiohttp
import pytest

from smartbatch.worker.models.simulated import expected
from tests.system.stack import Stack


async def send_all(
    url: str, bodies: list[bytes], connections: int, headers: dict[str, str] | None = None
) -> list[dict]:
    """Send all bodies over this many connections and check that every response belongs to its own body."""
    queue = list(enumerate(bodies))
    responses: list[dict] = [{}] * len(bodies)
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60), headers=headers) as client:

        async def connection() -> None:
            while queue:
                number, body = queue.pop()
                async with client.post(f"{url}/predict", data=body) as response:
                    assert response.status == 200, await response.text()
                    responses[number] = await response.json()

        await asyncio.gather(*(connection() for _ in range(connections)))
    for body, result in zip(bodies, responses, strict=True):
        assert result["outputs"]["output"]["data"] == [pytest.approx(expected(body), abs=1e-7)]
    return responses


def bodies(count: int) -> list[bytes]:
    return [b"input number %d" % number for number in range(count)]


def closed(responses: list[dict]) -> Counter[str]:
    """Batches by close reason."""
    return Counter({a["batch"]["id"]: a["batch"]["closed"] for a in responses}.values())


async def test_single_request_waits_for_the_window_and_no_longer(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0", MAX_WAIT_TIME=0.05, WINDOW="fixed")
    system.up()
    responses = await send_all(system.url, bodies(10), 1)
    assert {(response["batch"]["rows"], response["batch"]["closed"]) for response in responses} == {(1, "window")}
    took_ms = [response["timing_ms"]["total"] for response in responses]
    assert 45 < min(took_ms) < 90, took_ms


@pytest.mark.parametrize("workers", [1, 2])
async def test_single_client_soon_stops_waiting_for_others(stack: Callable[..., Stack], workers: int) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0", MAX_WAIT_TIME=0.05)
    system.up(workers)
    await send_all(system.url, bodies(20), 1)
    responses = await send_all(system.url, bodies(20), 1)
    assert {response["batch"]["closed"] for response in responses} == {"idle"}
    assert sorted(response["timing_ms"]["batch_wait"] for response in responses)[5] < 5


async def test_batcher_waits_for_clients_that_arrive_together(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=40,row_ms=0", MAX_WAIT_TIME=0.1)
    system.up()
    await send_all(system.url, bodies(100), 8)
    responses = await send_all(system.url, bodies(200), 8)
    sizes = [response["batch"]["rows"] for response in responses]
    assert sum(sizes) / len(sizes) > 6
    # The median request doesn't wait for the whole window.
    assert sorted(response["timing_ms"]["batch_wait"] for response in responses)[100] < 50


async def test_simultaneous_requests_share_a_batch_and_a_backlog_fills_batches(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=20,row_ms=0.1", MAX_BATCH_SIZE=16)
    system.up()
    responses = await send_all(system.url, bodies(640), 64)
    sizes = [a["batch"]["rows"] for a in responses]
    assert max(sizes) == 16
    assert sum(size == 16 for size in sizes) > 0.8 * len(sizes)
    assert closed(responses)["full"] >= 30


async def test_replies_reach_their_request_whichever_worker_ran_it(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=3,row_ms=0.1")
    system.up(3)
    responses = await send_all(system.url, bodies(3000), 150)
    assert len({a["batch"]["worker"] for a in responses}) == 3
    assert len({a["request_id"] for a in responses}) == 3000


async def test_idle_workers_do_not_split_a_batch(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=5,row_ms=0", MAX_WAIT_TIME=0.1, MAX_BATCH_SIZE=64, WINDOW="fixed")
    system.up(4)
    await send_all(system.url, bodies(24), 24)  # connections opened, caches warm
    responses = await send_all(system.url, bodies(24), 24)
    assert sum(closed(responses).values()) <= 2, closed(responses)


async def test_a_deadline_closes_a_batch_before_its_window_would(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=5,row_ms=0", MAX_WAIT_TIME=20, WINDOW="fixed")
    system.up()
    # What is left then is for an idle machine: on a busy one the first answer may be late.
    tries = (system.predict(b"soon", headers={"x-request-timeout": "1"}) for _ in range(10))
    response = next(response for response in tries if response.status_code == 200)
    assert response.headers["x-batch-closed"] == "deadline"


async def test_idle_means_empty(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0.01")
    system.up()
    await send_all(system.url, [b"x" * 100_000 + body for body in bodies(300)], 50)
    redis = system.broker.sync
    await asyncio.sleep(0.1)
    assert redis.xlen("smartbatch:{simulated}:requests") == 0
    assert redis.xpending("smartbatch:{simulated}:requests", "workers")["pending"] == 0
    assert not redis.exists("smartbatch:{simulated}:inflight")
    assert [key for key in redis.keys("*") if b":reply:" in key or b":body:" in key or b":inbox:" in key] == []


async def test_at_most_one_batch_is_claimed_ahead_of_the_device(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=200,row_ms=0", MAX_BATCH_SIZE=8)
    system.up()
    sending = asyncio.create_task(send_all(system.url, bodies(160), 80))
    held: list[int] = []
    while not sending.done():
        held.append(await asyncio.to_thread(system.running))
        await asyncio.sleep(0.002)
    await sending
    # The running batch, the one ahead, and one whose replies are just being published.
    assert 16 <= max(held) <= 24, Counter(held)


async def test_a_window_longer_than_any_socket_timeout_is_kept(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0", MAX_WAIT_TIME=2.5, WINDOW="fixed")
    system.up()
    [response] = await send_all(system.url, bodies(1), 1)
    assert 2450 < response["timing_ms"]["batch_wait"] < 6000
    [line] = [
        line for line in system.metrics().splitlines() if line.startswith("smartbatch_worker_broker_errors_total{")
    ]
    assert line.endswith(" 0.0")
