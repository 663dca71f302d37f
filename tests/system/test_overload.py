"""Overload: admitted requests meet their deadline, the rest are rejected with Retry-After."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp
import psutil
import pytest

from tests.load import Load, percentile
from tests.system.stack import Process, Stack

# 16 rows in 160 ms: 100 rows a second.
SLOW = {"MODEL_PATH": "simulated:base_ms=80,row_ms=5", "MAX_BATCH_SIZE": 16}
CAPACITY = 100.0


def start(stack: Callable[..., Stack], **settings: object) -> tuple[Stack, Process]:
    system = stack(**SLOW, **settings)
    return system.up(), system.processes[0]


async def health(url: str, until: asyncio.Event) -> list[float]:
    """Seconds that /healthz took, requested ten times a second over a new connection each time."""
    took = []
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as client:
        while not until.is_set():
            started = time.monotonic()
            async with client.get(f"{url}/healthz") as response:
                assert response.status == 200
            took.append(time.monotonic() - started)
            await asyncio.sleep(0.1)
    return took


@pytest.mark.parametrize("times", [2, 10])
async def test_overload_admits_only_what_meets_its_deadline_and_keeps_the_device_busy(
    stack: Callable[..., Stack], times: int
) -> None:
    system, gateway = start(stack, REQUEST_TIMEOUT=2)
    process = psutil.Process(gateway.pid)
    seconds = 6.0
    done = asyncio.Event()
    async with Load(lambda: [system.url]) as load:
        await load.closed_loop(16, 64)  # warm
        load.sent.clear()
        before = process.memory_info().rss
        healthy = asyncio.create_task(health(system.url, done))
        await load.open_loop(times * CAPACITY, seconds)
        done.set()
        took = await healthy
        requests = load.sent
    answered = [request for request in requests if request.status == 200]
    rejected = [request for request in requests if request.status == 503]
    assert all(request.correct for request in answered)
    assert len(answered) + len(rejected) >= 0.995 * len(requests), load.statuses()  # almost no 504
    assert percentile((request.seconds for request in answered), 99) < 2.2
    assert len(answered) > 0.85 * CAPACITY * seconds
    assert {request.code for request in rejected} <= {"deadline_unattainable", "queue_full"}
    assert all(request.retry_after and request.retry_after >= 1 for request in rejected)
    assert percentile((request.seconds for request in rejected), 95) < 0.1
    assert percentile(took, 95) < 0.1, took
    assert process.memory_info().rss - before < 20e6


async def test_full_queue_never_exceeds_its_limit(stack: Callable[..., Stack]) -> None:
    system, _ = start(stack, MAX_QUEUE=20)
    async with Load(lambda: [system.url]) as load:
        begun = [load.begin() for _ in range(100)]
        waiting = []
        while not all(task.done() for task in begun):
            waiting.append(await asyncio.to_thread(lambda: system.stats()["queue"]["waiting"]))
        assert max(waiting) <= 20
        # 20 that wait and up to two batches that the worker has claimed
        assert 20 <= load.statuses()[200] <= 20 + 3 * 16
        assert load.statuses()[200] + load.statuses()[503] == 100


async def test_queued_bytes_have_their_own_limit(stack: Callable[..., Stack]) -> None:
    system, _ = start(stack, MAX_QUEUE_BYTES=1_000_000)
    async with Load(lambda: [system.url]) as load:
        await asyncio.gather(*(load.send(body=b"%d" % n + bytes(300_000)) for n in range(20)))
        assert load.statuses()[200] >= 3
        assert {request.code for request in load.sent if request.status != 200} == {"queue_full"}
        small = await load.send()
        assert small.status == 200


async def test_unattainable_timeout_is_rejected_and_a_longer_one_admitted(stack: Callable[..., Stack]) -> None:
    system, _ = start(stack)
    async with Load(lambda: [system.url]) as load:
        backlog = [load.begin() for _ in range(200)]  # two seconds of work
        await asyncio.sleep(0.2)
        hurried = await load.send(headers={"x-request-timeout": "1"})
        patient = await load.send(headers={"x-request-timeout": "10"})
        await asyncio.gather(*backlog)
    assert (hurried.status, hurried.code) == (503, "deadline_unattainable")
    assert (patient.status, patient.correct) == (200, True)
