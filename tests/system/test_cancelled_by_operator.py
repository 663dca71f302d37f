"""`smartbatch queue cancel` on a running system: its client gets the error at once, others are unaffected."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable

import aiohttp

from tests.brokers import eventually
from tests.deploy.test_cli import Ended
from tests.system.stack import Stack


async def test_running_and_waiting_requests_are_cancelled(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=300,row_ms=0", MAX_BATCH_SIZE=2)
    _, worker = system.up().processes

    async with aiohttp.ClientSession() as client:

        async def send(number: int) -> tuple[int, str, str]:
            async with client.post(f"{system.url}/predict", data=b"%d" % number) as response:
                content = await response.json()
                return response.status, content.get("code", "ok"), content["request_id"]

        sending = [asyncio.create_task(send(number)) for number in range(6)]
        await asyncio.to_thread(eventually, lambda: system.waiting() == 6 and 0 < system.running() < 6, every_s=0.001)
        worker.popen.send_signal(signal.SIGSTOP)  # in the middle of its first batch

        def queue(*arguments: str) -> list[dict]:
            ended = Ended("queue", *arguments, "--json", REDIS_URL=system.broker.url)
            assert ended.code == 0, ended.err
            return json.loads("\n".join(ended.out))

        entries = (await asyncio.to_thread(queue))[0]["entries"]
        cancelled = [entries[0]["request"], entries[-1]["request"]]
        assert bool(entries[0]["worker"]) and not entries[-1]["worker"]
        await asyncio.to_thread(queue, "cancel", *cancelled)
        first = {request_id for _, _, request_id in (await next(iter(asyncio.as_completed(sending))),)}
        assert first < set(cancelled)  # while the worker stands still
        worker.popen.send_signal(signal.SIGCONT)
        responses = await asyncio.gather(*sending)
    assert sorted(outcome[:2] for outcome in responses) == [(200, "ok")] * 4 + [(500, "cancelled_by_operator")] * 2
    assert {request_id for status, _, request_id in responses if status == 500} == set(cancelled)
    assert system.counter("smartbatch_requests_total", 'outcome="cancelled"') == 2
    await asyncio.to_thread(system.until_clean, 1)
