"""A load rises from nothing, falls to nothing and rises again, while the ScaledObject of the chart starts and stops
real workers as KEDA would: every request is answered, and few but those of a first start wait long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smartbatch.deploy.ports import free_port
from tests.kubernetes.autoscaler import Autoscaler, read_trigger, scaled_object
from tests.load import Load, SentRequest, percentile
from tests.prometheus import Prometheus
from tests.system.stack import Process, Stack

pytestmark = [pytest.mark.extended, pytest.mark.timeout(300)]

MODEL = "simulated:base_ms=5,row_ms=20,load_ms=1000"  # about 50 rows a second
HIGH_RATE = 100  # two workers are too few by KEDA's threshold
RISE_S, HIGH_S, AGAIN_S = 24, 16, 12
TIMEOUT_S = 12.0
LATE_S = 4.0
SYNC_S = 3.0  # instead of the HPA's 15 s, as all times of this test are shorter than in a cluster


class Deployment:
    """Starts and stops worker processes until there are as many as the autoscaler wants, as a ReplicaSet does."""

    def __init__(self, system: Stack, scaler: Autoscaler, prometheus: Prometheus) -> None:
        self._system = system
        self._scaler = scaler
        self._prometheus = prometheus
        self._ports: dict[Process, int] = {}
        self._stopping: list[asyncio.Task[int]] = []
        self.history: list[tuple[float, int, int]] = []  # time, replicas, ready workers
        self.exits: list[int] = []

    async def run(self) -> None:
        while True:
            values = [
                await asyncio.to_thread(read_trigger, trigger, self._prometheus.value)
                for trigger in self._scaler.triggers
            ]
            self._scale(self._scaler.step(values, time.monotonic()))
            stats = await asyncio.to_thread(self._system.stats)
            ready = sum(report["state"] == "ready" for report in stats["workers"].values())
            self.history.append((time.monotonic(), self._scaler.replicas, ready))
            await asyncio.sleep(self._scaler.polling_s)

    def _scale(self, replicas: int) -> None:
        if len(self._ports) == replicas:
            return
        while len(self._ports) < replicas:
            port = free_port()
            self._ports[self._system.worker(METRICS_PORT=port)] = port
        while len(self._ports) > replicas:
            worker, _ = self._ports.popitem()  # the newest, as a ReplicaSet does
            self._stopping.append(asyncio.create_task(asyncio.to_thread(worker.stop)))
        self._prometheus.set_workers(f"http://127.0.0.1:{port}" for port in self._ports.values())

    async def until(self, replicas: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while self._scaler.replicas != replicas:
                await asyncio.sleep(0.1)
        self.exits = list(await asyncio.gather(*self._stopping))


async def ramp(load: Load, rate: float, seconds: float) -> None:
    """Send at a rate that rises from 0 to this one."""
    began = time.monotonic()
    while (at_s := time.monotonic() - began) < seconds:
        load.begin()
        await asyncio.sleep(1 / max(2.0, rate * at_s / seconds))


def first_starts(history: list[tuple[float, int, int]]) -> list[tuple[float, float]]:
    """Return the times from when there is a first replica until a worker is ready."""
    found, began_at = [], None
    for at, replicas, ready in history:
        if ready:
            if began_at is not None:
                found.append((began_at, at))
            began_at = None
        elif replicas and began_at is None:
            began_at = at
    return found


@pytest.mark.parametrize("trigger", ["prometheus", "redis"])
async def test_no_request_is_lost_while_workers_scale_from_zero_and_back(
    stack: Callable[..., Stack], tmp_path: Path, trigger: str
) -> None:
    system = stack(MODEL_PATH=MODEL, MAX_BATCH_SIZE=8, REQUEST_TIMEOUT=TIMEOUT_S, GRACE_TIME=15, MAX_QUEUE=4096)
    await asyncio.to_thread(system.gateway)
    prometheus = Prometheus(tmp_path, [system.url])
    values = {"url": system.broker.url, "maxReplicas": 4, "pollingSeconds": 1, "cooldownSeconds": 8}
    values |= {"scaleDownSeconds": 8, "trigger": trigger, "backlogSeconds": 1, "streamLength": 25, "rateWindow": "5s"}
    scaler = Autoscaler(scaled_object("simulated", **values), SYNC_S)
    scaler.replicas = 0
    deployment = Deployment(system, scaler, prometheus)
    scaling = asyncio.create_task(deployment.run())
    try:
        async with Load(lambda: [system.url]) as load:
            await ramp(load, HIGH_RATE, RISE_S)
            await load.open_loop(HIGH_RATE, HIGH_S)
            highest = max(replicas for _, replicas, _ in deployment.history)
            await deployment.until(0, 60)
            again_at = time.monotonic()
            await load.open_loop(HIGH_RATE / 4, AGAIN_S)
            await deployment.until(0, 60)
        assert not scaling.done()
    finally:
        scaling.cancel()
        prometheus.close()
    starts = first_starts(deployment.history)
    beyond = [request for request in load.sent if not in_first_start(request, starts)]
    late = sum(request.seconds > LATE_S for request in beyond)
    print(f"{len(load.sent)} requests, up to {highest} workers, first starts of {starts_s(starts)} s, "
          f"p99 beyond them {percentile((each.seconds for each in beyond), 99):.2f} s, {late} late")  # fmt: skip
    assert load.statuses() == {200: len(load.sent)}
    assert all(request.correct for request in load.sent)
    assert len(starts) == 2 and starts[1][0] > again_at
    assert highest >= 3
    assert len(beyond) > 0.8 * len(load.sent)
    assert late <= 0.01 * len(load.sent)
    assert len(deployment.exits) >= highest and set(deployment.exits) == {0}
    assert system.waiting() == 0


def in_first_start(request: SentRequest, starts: list[tuple[float, float]]) -> bool:
    return any(began_at - 5 <= request.sent_at <= ended_at for began_at, ended_at in starts)


def starts_s(starts: list[tuple[float, float]]) -> str:
    return " and ".join(f"{ended_at - began_at:.1f}" for began_at, ended_at in starts)
