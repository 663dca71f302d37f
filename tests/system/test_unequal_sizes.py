"""Requests of very different sizes: cut by cost, answered right, and none lost when workers drain or are killed."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from tests.brokers import eventually
from tests.load import Load, percentile
from tests.system.stack import Process, Stack

MODEL = "tests/system/texts_model.py:Texts"
TEXTS = {"MODEL_PATH": MODEL, "MODEL_NAME": "texts", "REPLY_TTL": 3}


def bodies(seed: int = 0) -> Callable[[], bytes]:
    """Mostly short texts, some long ones, few so long that they don't travel on the stream."""
    draw, numbers = random.Random(seed), itertools.count()
    lengths = [20, 30, 40, 60, 80, 100, 150, 300, 2000, 4000]

    def body() -> bytes:
        length = 20_000 if draw.random() < 0.005 else draw.choice(lengths)
        return (b"%d " % next(numbers)).ljust(length, b"x")

    return body


async def closed_loop(load: Load, connections: int, requests: int) -> None:
    left, body = iter(range(requests)), bodies()

    async def connection() -> None:
        for _ in left:
            await load.send(body=body())

    await asyncio.gather(*(connection() for _ in range(connections)))


async def open_loop(load: Load, until: asyncio.Event, rate: float) -> None:
    body = bodies(1)
    while not until.is_set():
        load.begin(body=body())
        await asyncio.sleep(1 / rate)
    await load.finish()


def all_right(load: Load) -> None:
    assert load.statuses() == {200: len(load.sent)}
    assert all(request.correct for request in load.sent)
    assert len({request.request_id for request in load.sent}) == len(load.sent)


async def test_short_rows_do_not_pay_for_long_ones(stack: Callable[..., Stack]) -> None:
    system = stack(**TEXTS)
    await asyncio.to_thread(system.up)
    async with Load(lambda: [system.url]) as load:
        await closed_loop(load, 64, 1500)
    all_right(load)
    assert Counter(request.closed for request in load.sent)["cost"] > 100
    # What the batches were padded to, by what their rows came to. In arrival order, 32 rows each, it is above 5.
    padding = partial(system.counter, "smartbatch_padding_ratio_sum")
    batches = partial(system.counter, "smartbatch_padding_ratio_count")
    assert await asyncio.to_thread(batches) > 20
    assert await asyncio.to_thread(padding) / await asyncio.to_thread(batches) < 1.7
    predicted = await asyncio.to_thread(system.counter, "smartbatch_predicted_forward_seconds_total")
    actual = await asyncio.to_thread(system.counter, "smartbatch_forward_seconds_sum")
    assert 0.7 < predicted / actual < 1.4
    await asyncio.to_thread(system.until_clean, 1, "texts")


async def test_a_drain_under_load_loses_nothing(stack: Callable[..., Stack]) -> None:
    system = stack(**TEXTS)
    await asyncio.to_thread(system.up, 2)
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(open_loop(load, done, 150))
        for _ in range(2):
            await asyncio.sleep(1)
            oldest: Process = next(process for process in system.processes[1:] if process.popen.poll() is None)
            await asyncio.to_thread(eventually, partial(system.held_by, oldest, "texts"))
            assert await asyncio.to_thread(oldest.stop, signal.SIGTERM) == 0
            await asyncio.to_thread(system.worker)
            await asyncio.to_thread(system.ready, 2)
        done.set()
        await sending
    all_right(load)
    assert "isolated" not in {request.closed for request in load.sent}
    await asyncio.to_thread(system.until_clean, 2, "texts")


async def test_kill_9_under_a_load_that_never_lets_the_pool_run_empty_loses_nothing(
    stack: Callable[..., Stack],
) -> None:
    system = stack(**TEXTS, MAX_BATCH_SIZE=8)
    await asyncio.to_thread(system.up, 2)
    victim = system.processes[1]
    async with Load(lambda: [system.url]) as load:
        sending = asyncio.create_task(closed_loop(load, 96, 5000))  # far more than the pools of both
        await asyncio.sleep(1)
        await asyncio.to_thread(eventually, partial(system.held_by, victim, "texts"))
        name = await asyncio.to_thread(system.name_of, victim, "texts")
        victim.kill()
        killed_at = time.monotonic()
        await asyncio.to_thread(eventually, lambda: name not in system.pending("texts"), 10, 0.05)
        assert not sending.done()  # the load went on all the time
        await sending
    all_right(load)
    isolated = [request for request in load.sent if request.closed == "isolated"]
    assert isolated
    assert max(request.done_at for request in isolated) - killed_at < 8
    await asyncio.to_thread(system.until_clean, 1, "texts")


async def test_idle_workers_share_a_burst_of_which_no_two_rows_gain_by_a_batch(stack: Callable[..., Stack]) -> None:
    system = stack(**TEXTS, TEXTS_FIXED_MS=0, TEXTS_TOKEN_US=1000)
    await asyncio.to_thread(system.up, 2)
    took = []
    async with Load(lambda: [system.url]) as load:
        for burst in range(8):
            first, started = len(load.sent), time.monotonic()
            # 40 rows of 20 tokens, 20 ms each: 800 ms for one worker
            await asyncio.gather(*(load.send(body=b"%d %d".ljust(310, b"x") % (burst, n)) for n in range(40)))
            took.append(max(request.done_at for request in load.sent[first:]) - started)
    all_right(load)
    assert percentile(took, 50) < 0.6, took
