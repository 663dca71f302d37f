"""Redis stops, restarts with and without its data, stalls, is slow, is full: under load, on both kinds of broker.

Whatever happens, every request has one outcome: the correct response, or a 503 that says when to come back. Nothing of
ours is restarted, and the service is green within three seconds of Redis being back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import psutil
import pytest

from tests.brokers import Broker
from tests.load import Load
from tests.proxy import Proxy
from tests.system.stack import Stack

RATE = 150.0
RECOVERED_S = 3.0

Fault = Callable[[Broker, Proxy], Awaitable[None]]


@pytest.fixture(scope="module")
def proxy(durable_broker: Broker) -> Iterator[Proxy]:
    proxy = Proxy(durable_broker.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def system(durable_broker: Broker, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers and a gateway that reach their broker only through the proxy, and live through all of it."""
    settings = {"MODEL_PATH": "simulated:base_ms=20,row_ms=1", "REPLY_TTL": 3, "REDIS_URL": proxy.url}
    system = Stack(durable_broker, tmp_path_factory.mktemp("trouble"), **settings)
    yield system.up(2)
    system.close()


async def restarted_with_its_data(broker: Broker, proxy: Proxy) -> None:
    broker.kill()
    await asyncio.sleep(1.5)
    await asyncio.to_thread(broker.start)


async def restarted_empty(broker: Broker, proxy: Proxy) -> None:
    broker.kill()
    broker.lose_data()
    await asyncio.sleep(0.5)
    await asyncio.to_thread(broker.start)


async def flushed(broker: Broker, proxy: Proxy) -> None:
    broker.sync.flushall()


async def paused(broker: Broker, proxy: Proxy) -> None:
    broker.pause()
    await asyncio.sleep(4)
    broker.resume()


async def cut(broker: Broker, proxy: Proxy) -> None:
    for _ in range(5):
        proxy.cut()
        await asyncio.sleep(0.2)


async def black_holed(broker: Broker, proxy: Proxy) -> None:
    proxy.stall()
    await asyncio.sleep(4)
    proxy.flow()


async def slow(broker: Broker, proxy: Proxy) -> None:
    proxy.delay(0.1)
    await asyncio.sleep(3)
    proxy.delay(0)


async def full(broker: Broker, proxy: Proxy) -> None:
    broker.sync.config_set("maxmemory", 1)
    await asyncio.sleep(1)
    broker.sync.config_set("maxmemory", 0)


# During how many seconds requests may be rejected: while Redis was unreachable and until its return was noticed.
FAULTS: dict[Fault, float] = {
    restarted_with_its_data: 4.0,
    restarted_empty: 3.0,
    flushed: 0.0,
    paused: 6.0,
    cut: 2.0,
    black_holed: 7.0,
    slow: 0.0,
    full: 1.5,
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_request_is_lost_and_the_service_recovers(
    system: Stack, durable_broker: Broker, proxy: Proxy, fault: Fault
) -> None:
    files = [psutil.Process(process.pid).num_fds() for process in system.processes]
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, RATE))
        await asyncio.sleep(1)
        await fault(durable_broker, proxy)
        back_at = time.monotonic()
        await asyncio.sleep(RECOVERED_S + 0.5)
        done.set()
        await sending
        requests = load.sent
    assert all(request.correct for request in requests if request.status == 200)
    others = [request for request in requests if request.status != 200]
    assert {(request.status, request.code) for request in others} <= {(503, "broker_unavailable"), (503, "broker_full")}
    assert all(request.retry_after for request in others)
    assert len(others) <= FAULTS[fault] * RATE
    assert not [request for request in others if request.sent_at > back_at + RECOVERED_S]
    assert all(process.popen.poll() is None for process in system.processes)
    assert system.client.get(f"{system.url}/readyz").json()["ready"]
    assert system.counter("smartbatch_dead_workers_found_total") == 0
    await asyncio.to_thread(system.until_clean, 2)
    for process, before in zip(system.processes, files, strict=True):
        assert psutil.Process(process.pid).num_fds() <= before + 3
