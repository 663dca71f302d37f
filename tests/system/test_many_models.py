"""A gateway that knows hundreds of models, of which it serves few."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest

from loadtest.machine import python_loop_ms
from smartbatch.shared import model_info
from smartbatch.shared.keys import MODELS, Keys
from smartbatch.shared.model_info import InputSpec, ModelInfo
from tests.brokers import eventually
from tests.system.stack import Stack

KNOWN, SERVED = 200, 20
WATCHED_S = 10


def announce(system: Stack, number: int, *, worker: bool) -> None:
    """Announce a model as its worker does. With `worker`, one that is ready and does nothing else."""
    broker = system.broker.sync
    info = ModelInfo(f"model-{number}", "simulated", InputSpec(("raw",)), 32)
    broker.hset(MODELS, info.id, model_info.encode(info))
    if worker:
        keys = Keys(info.id)
        broker.zadd(keys.leases, {f"worker-{number}": (time.time() + 3600) * 1000})
        broker.hset(keys.worker(f"worker-{number}"), mapping={"state": "ready", "model": info.name, "partition": 0})


@pytest.mark.extended
def test_a_gateway_that_knows_two_hundred_models_is_idle_and_small(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    gateway = psutil.Process(system.gateway().pid)
    bytes_before = gateway.memory_info().rss
    lines_before = len(system.client.get(f"{system.url}/metrics").text.splitlines())
    for number in range(KNOWN):
        announce(system, number, worker=number < SERVED)
    eventually(lambda: len(system.client.get(f"{system.url}/readyz").json()["ready_workers"]) > KNOWN)
    time.sleep(1.5 * WATCHED_S)  # in which every model has been read, also those that nobody uses
    used_s = sum(gateway.cpu_times()[:2])
    time.sleep(WATCHED_S)
    share = (sum(gateway.cpu_times()[:2]) - used_s) / WATCHED_S
    grown_mb = (gateway.memory_info().rss - bytes_before) / 1e6
    lines = len(system.client.get(f"{system.url}/metrics").text.splitlines()) - lines_before
    print(f"{share:.2%} of a core, {grown_mb:.1f} MB more, {lines} lines of /metrics more")
    slower = max(1.0, python_loop_ms() / 21)  # than the machine of docs/performance.md
    assert share <= 0.02 * slower
    assert grown_mb <= 20
    assert lines <= KNOWN + 30 * SERVED
