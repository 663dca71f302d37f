"""Workers and gateways are killed, paused and restarted one by one under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.brokers import eventually
from tests.load import Load
from tests.system.stack import Stack

QUICK = {"MODEL_PATH": "simulated:base_ms=20,row_ms=1", "REPLY_TTL": 3}
RATE = 150.0


async def test_kill_9_of_a_worker_under_load_is_over_within_five_seconds(stack: Callable[..., Stack]) -> None:
    system = stack(**QUICK)
    _, victim, _ = (await asyncio.to_thread(system.up, 2)).processes
    killed_at = []
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, RATE))
        for _ in range(2):  # the second is a restarted one
            await asyncio.sleep(1)
            await asyncio.to_thread(eventually, partial(system.held_by, victim))
            name = await asyncio.to_thread(system.name_of, victim)
            victim.kill()
            killed_at.append(time.monotonic())
            victim = await asyncio.to_thread(system.worker)
            await asyncio.to_thread(eventually, lambda n=name: n not in system.pending(), 30, 0.1)
            await asyncio.to_thread(system.ready, 2)
        done.set()
        await sending
    assert load.statuses() == {200: len(load.sent)}
    assert all(request.correct for request in load.sent)
    assert len({request.request_id for request in load.sent}) == len(load.sent)
    recovered = [request for request in load.sent if request.closed == "isolated"]
    assert recovered
    for request in recovered:
        killed = max(at for at in killed_at if at < request.done_at)
        assert request.done_at - killed < 5
    await asyncio.to_thread(system.until_clean, 2)


async def test_paused_worker_changes_no_response_when_it_resumes(stack: Callable[..., Stack]) -> None:
    system = stack(**QUICK)
    _, paused, _ = (await asyncio.to_thread(system.up, 2)).processes
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, RATE))
        await asyncio.to_thread(eventually, partial(system.held_by, paused))
        name = await asyncio.to_thread(system.name_of, paused)
        paused.popen.send_signal(signal.SIGSTOP)
        # It is found dead, and its entries have been run.
        await asyncio.to_thread(eventually, lambda: name not in system.pending(), 30, 0.1)
        paused.popen.send_signal(signal.SIGCONT)
        await asyncio.sleep(2)
        done.set()
        await sending
    assert load.statuses() == {200: len(load.sent)}
    assert all(request.correct for request in load.sent)
    assert system.counter("smartbatch_dead_workers_found_total") == 1
    await asyncio.to_thread(system.until_clean, 2)
    assert paused.popen.poll() is None


async def test_killed_gateway_breaks_only_its_own_connections(stack: Callable[..., Stack]) -> None:
    system = stack(**QUICK)
    gateways = [system.gateway(), system.gateway()]
    system.worker()
    await asyncio.to_thread(system.ready)
    urls = [gateway.url for gateway in gateways]
    async with Load(lambda: urls) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, RATE))
        await asyncio.sleep(1)
        killed = urls.pop(0)
        gateways[0].kill()
        await asyncio.sleep(1)
        done.set()
        await sending
    others = [request for request in load.sent if request.status != 200]
    assert {(request.status, request.url) for request in others} <= {(0, killed)}
    assert len(others) < RATE / 2
    assert all(request.correct for request in load.sent if request.status == 200)
    system.url = urls[0]
    await asyncio.to_thread(system.until_clean, 1)  # the dead gateway's entries have run, its replies expired


async def test_a_rolling_restart_fails_no_request(stack: Callable[..., Stack]) -> None:
    system = stack(**QUICK)
    gateways = [system.gateway(), system.gateway()]
    workers = [system.worker(), system.worker()]
    await asyncio.to_thread(system.ready, 2)
    urls = [gateway.url for gateway in gateways]
    async with Load(lambda: urls) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, RATE))
        for worker in workers:
            assert await asyncio.to_thread(worker.stop) == 0
            await asyncio.to_thread(system.worker)
            await asyncio.to_thread(system.ready, 2)
        for gateway in gateways:
            urls.remove(gateway.url)  # as a load balancer does that sees it not ready
            assert await asyncio.to_thread(gateway.stop) == 0
            urls.append((await asyncio.to_thread(system.gateway)).url)
        await asyncio.sleep(0.5)
        done.set()
        await sending
    assert load.statuses() == {200: len(load.sent)}
    assert all(request.correct for request in load.sent)
    slow = [request for request in load.sent if request.seconds > 2]
    assert not slow
    assert "isolated" not in {request.closed for request in load.sent}  # no worker was found dead
    await asyncio.to_thread(system.until_clean, 2)


async def test_expired_requests_never_reach_the_device(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0", REPLY_TTL=3)
    gateway = system.gateway()
    async with Load(lambda: [system.url]) as load:
        requests = [load.begin(headers={"x-request-timeout": "1"}) for _ in range(5)]
        await asyncio.to_thread(eventually, lambda: system.waiting() == 5)
        gateway.kill()  # so that no gateway cancels them at the deadline
        await asyncio.gather(*requests)
    await asyncio.sleep(1)
    await asyncio.to_thread(system.gateway)
    system.worker()
    await asyncio.to_thread(system.ready)
    expired = ("smartbatch_entries_total", 'outcome="expired"')
    await asyncio.to_thread(eventually, lambda: system.counter(*expired) == 5)
    assert system.counter("smartbatch_rows_total") == 0
    await asyncio.to_thread(system.until_clean, 1)


async def test_abandoned_or_timed_out_requests_never_reach_the_device(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0")
    system.gateway()
    async with Load(lambda: [system.url]) as load:
        abandoned = [load.begin() for _ in range(3)]
        late = [load.begin(headers={"x-request-timeout": "0.6"}) for _ in range(3)]
        await asyncio.to_thread(eventually, lambda: system.waiting() == 6)
        for task in abandoned:
            task.cancel()
        await asyncio.gather(*late)
        assert {(task.result().status, task.result().code) for task in late} == {(504, "deadline_exceeded")}
        await asyncio.to_thread(eventually, lambda: system.waiting() == 0)
        system.worker()
        await asyncio.to_thread(system.ready)
        assert (await load.send()).correct
    await asyncio.to_thread(eventually, lambda: system.counter("smartbatch_rows_total") == 1)
    await asyncio.to_thread(system.until_clean, 1)
