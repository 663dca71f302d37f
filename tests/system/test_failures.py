"""Failures as clients see them: real processes, real signals."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.brokers import eventually
from tests.system.stack import Stack
from tests.system.test_batching import bodies, send_all


async def test_worker_killed_in_mid_batch_loses_no_request(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=200,row_ms=0")
    _, victim = system.up().processes
    sending = asyncio.create_task(send_all(system.url, bodies(12), 12))
    await asyncio.to_thread(eventually, lambda: system.running() == 12)
    victim.kill()  # first, or it finishes a batch while another process starts
    killed_at = time.monotonic()
    system.worker()
    responses = await sending
    # The dead worker is detected, then twelve forwards run one by one: 6 s on an idle machine.
    assert time.monotonic() - killed_at < 20
    assert {response["batch"]["closed"] for response in responses} == {"isolated"}


async def test_sigterm_drains_a_worker_without_a_failed_request(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=50,row_ms=0")
    _, first, _ = system.up(2).processes
    sending = asyncio.create_task(send_all(system.url, bodies(400), 40))
    await asyncio.to_thread(eventually, system.running)
    assert await asyncio.to_thread(first.stop) == 0
    await sending
    consumers = system.broker.sync.xinfo_consumers("smartbatch:{simulated}:requests", "workers")
    assert len(consumers) == 1


async def test_sigterm_drains_a_gateway_without_a_failed_request(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=400,row_ms=0")
    gateway, _ = system.up().processes
    sending = asyncio.create_task(send_all(system.url, bodies(8), 8))
    await asyncio.to_thread(eventually, lambda: system.running() == 8)
    assert await asyncio.to_thread(gateway.stop) == 0
    await sending


async def test_requests_survive_a_flushed_broker(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=300,row_ms=0", MAX_BATCH_SIZE=4)
    system.up()
    sending = asyncio.create_task(send_all(system.url, bodies(20), 20))
    await asyncio.to_thread(eventually, system.running)
    system.broker.sync.flushall()
    await sending


async def test_broker_flushed_under_load_changes_no_response(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=5,row_ms=0")
    system.up()
    # They look like JSON, so a gateway without the model's input spec would parse them differently.
    sending = asyncio.create_task(send_all(system.url, [b'{"data": [%d]}' % n for n in range(4000)], 60))
    for _ in range(3):
        await asyncio.to_thread(eventually, system.running)
        system.broker.sync.flushall()
        await asyncio.sleep(0.3)
    await sending


def test_model_input_spec_survives_a_flushed_broker(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="examples.tabular:Iris", MODEL_NAME="iris")
    system.up()
    system.broker.sync.flushall()
    flat = system.client.post(f"{system.url}/predict", json={"data": [5.1, 3.5, 1.4, 0.2] * 2})
    assert (flat.status_code, flat.json()["batch"]["rows"]) == (200, 2)  # cut by the shape that the model announced
    eventually(lambda: system.broker.sync.hexists("smartbatch:models", "iris"))


def test_expired_request_gets_504_and_frees_its_place_in_the_queue(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2000,row_ms=0", MAX_BATCH_SIZE=1)
    system.up()
    response = system.predict(b"x", headers={"x-request-timeout": "0.3"})
    assert response.status_code == 504
    assert response.json()["code"] == "deadline_exceeded"
    eventually(lambda: system.stats()["queue"]["open"] == 0)


def test_disconnected_client_frees_its_place_in_the_queue(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    system.gateway()
    with pytest.raises(Exception, match="timed out"):  # there is no worker: it waits
        system.predict(b"x", timeout=0.3)
    eventually(lambda: system.stats()["queue"]["open"] == 0)
    assert system.counter("smartbatch_requests_total", 'outcome="cancelled"') == 1


def test_full_queue_is_rejected_with_retry_after(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated", MAX_QUEUE=1, REQUEST_TIMEOUT=1)
    system.gateway()
    redis = system.broker.sync
    redis.xadd("smartbatch:{simulated}:requests", {"id": "other"})
    response = system.predict(b"x")
    assert response.status_code == 503
    assert response.json()["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1


def test_hanging_model_ends_its_worker(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=5000,row_ms=0", STALL_TIMEOUT=1, MAX_BATCH_SIZE=1)
    _, worker = system.up().processes
    response = system.predict(b"x", headers={"x-request-timeout": "2"})
    assert response.status_code == 504
    assert worker.popen.wait(10) == 70
    assert "made no progress" in worker.log.read_text()


def test_no_worker_is_found_dead_when_every_process_was_paused(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0")
    _, *workers = system.up(2).processes
    for worker in workers:
        worker.popen.send_signal(signal.SIGSTOP)
    time.sleep(4)
    for worker in workers:
        worker.popen.send_signal(signal.SIGCONT)
    system.ready(2)
    assert system.predict(b"x").status_code == 200
    lines = [line for line in system.metrics().splitlines() if line.startswith("smartbatch_dead_workers_found_total")]
    assert len(lines) == 2
    assert all(line.endswith(" 0.0") for line in lines)


def test_gateway_killed_while_its_processes_start_leaves_no_orphans(stack: Callable[..., Stack]) -> None:
    """Processes that start after its death get no signal."""
    system = stack(MODEL_PATH="simulated", GATEWAY_PROCESSES=3)
    gateway = system.start("gateway", {})
    parent = psutil.Process(gateway.pid)
    children = eventually(lambda: (found := parent.children()) and len(found) >= 3 and found)
    gateway.kill()
    eventually(lambda: not any(child.is_running() for child in children), 20)
