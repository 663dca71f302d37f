"""The triggers of the chart on a real Prometheus and a real Redis: what they read, and how many replicas KEDA makes of
it, while requests wait, while the system is idle, overloaded, or without a worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker, eventually
from tests.kubernetes.autoscaler import Autoscaler, Values, read_trigger, scaled_object
from tests.load import Load
from tests.prometheus import Prometheus
from tests.system.stack import Process, Stack

pytestmark = pytest.mark.extended

ROW_MS = 100  # ten rows a second, of which admission counts on nine
TARGET_S = 2.0


class Watched:
    """A system with a gateway, a Prometheus that scrapes it, and the two autoscalers of its workers."""

    def __init__(self, system: Stack, folder: Path) -> None:
        self.system = system
        self.system.gateway()
        self._prometheus = Prometheus(folder, [system.url])
        values = {"url": system.broker.url, "maxReplicas": 10, "rateWindow": "5s"}
        self.by_backlog = Autoscaler(scaled_object("simulated", backlogSeconds=TARGET_S, load=0.8, **values))
        self.by_length = Autoscaler(scaled_object("simulated", trigger="redis", streamLength=20, **values))

    def values(self, scaler: Autoscaler) -> Values:
        return [read_trigger(trigger, self._prometheus.value) for trigger in scaler.triggers]

    def desired(self, scaler: Autoscaler) -> int:
        """Return the replicas that KEDA's formula makes of what the triggers read now; 0 if none is active."""
        values = self.values(scaler)
        assert None not in values
        return scaler.desired(values) if any(values) else 0

    def both(self) -> tuple[int, int]:
        return self.desired(self.by_backlog), self.desired(self.by_length)

    def scraped(self) -> bool:
        """Whether Prometheus has the metric, which is missing at first."""
        return self.values(self.by_backlog)[0] is not None

    def worker(self) -> Process:
        worker = self.system.worker()
        self.system.ready()
        self._prometheus.set_workers(self.system.worker_urls())
        return worker

    def close(self) -> None:
        self._prometheus.close()


@pytest.fixture
def watched(stack: Callable[..., Stack], tmp_path: Path) -> Iterator[Watched]:
    system = stack(MODEL_PATH=f"simulated:base_ms=0,row_ms={ROW_MS}", MAX_BATCH_SIZE=4, POOL=4, REQUEST_TIMEOUT=60)
    watched = Watched(system, tmp_path)
    eventually(watched.scraped, 20)
    yield watched
    watched.close()


class Sending:
    """Requests that are sent by a thread, at once or at a rate. `end` waits for their responses."""

    def __init__(self, url: str, at_once: int = 0, rate: float = 0.0) -> None:
        self._until = threading.Event()
        self.statuses: dict[int, int] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send(url, at_once, rate)), daemon=True)
        self._thread.start()

    async def _send(self, url: str, at_once: int, rate: float) -> None:
        async with Load(lambda: [url]) as load:
            for _ in range(at_once):
                load.begin()
            while rate and not self._until.is_set():
                load.begin()
                await asyncio.sleep(1 / rate)
            await load.finish()
            self.statuses = dict(load.statuses())

    def end(self) -> dict[int, int]:
        self._until.set()
        self._thread.join()
        return self.statuses


def test_without_a_worker_before_any_one_is_wanted_and_when_idle_none(watched: Watched) -> None:
    assert watched.both() == (0, 0)
    sending = Sending(watched.system.url, at_once=30)
    eventually(lambda: watched.both() == (1, 2), 10)  # 30 entries of an unknown cost; 30 entries by 20
    assert watched.values(watched.by_backlog) == [1.0, 0.0]
    watched.worker()
    assert sending.end() == {200: 30}
    eventually(lambda: watched.both() == (0, 0), 20)
    assert watched.values(watched.by_backlog) == [0.0, 0.0]


def test_backlog_is_counted_in_seconds_of_work_with_and_without_a_worker(watched: Watched) -> None:
    worker = watched.worker()
    assert worker.stop() == 0
    sending = Sending(watched.system.url, at_once=80)  # 8.9 s of one worker's work
    eventually(lambda: watched.both() == (5, 4), 10)
    assert watched.values(watched.by_backlog)[0] == pytest.approx(80 * ROW_MS / 900, rel=0.05)
    watched.worker()
    seen = []
    while (now := watched.both()) != (0, 0):
        seen.append(now)
        time.sleep(0.2)
    assert sending.end() == {200: 80}
    by_backlog, by_length = map(list, zip(*seen, strict=True))
    assert set(by_backlog) >= {5, 4, 3, 2, 1} and set(by_length) >= {4, 3, 2, 1}
    assert by_length == sorted(by_length, reverse=True)


def test_a_load_that_a_worker_keeps_up_with_wants_it_to_stay_and_an_overload_wants_more(watched: Watched) -> None:
    watched.worker()
    sending = Sending(watched.system.url, rate=6)  # of ten
    time.sleep(8)
    backlog, load = watched.values(watched.by_backlog)
    assert backlog is not None and load is not None
    assert backlog < 1 and 0.4 < load < 0.8
    assert watched.desired(watched.by_backlog) == 1
    more = Sending(watched.system.url, rate=14)  # twenty in all
    eventually(lambda: watched.desired(watched.by_backlog) >= 3 and watched.desired(watched.by_length) >= 2, 30)
    assert watched.values(watched.by_backlog)[1] == pytest.approx(1.0, abs=0.15)  # the load alone would want two
    assert sending.end().keys() == more.end().keys() == {200}


def test_without_redis_nothing_is_read_so_nothing_is_scaled(watched: Watched, valkey_server: Broker) -> None:
    watched.by_backlog.replicas = 3
    valkey_server.kill()
    try:
        eventually(lambda: watched.values(watched.by_backlog)[0] is None, 20)
        assert [watched.by_backlog.step(watched.values(watched.by_backlog), now) for now in (0, 1000, 2000)] == [
            3,
            3,
            3,
        ]
    finally:
        valkey_server.start()


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_stream_length_counts_what_waits_and_runs_where_the_groups_lag_is_unknown(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Redis turns the lag unknown once an entry before the last-delivered one was deleted, and KEDA reads that as 0."""
    broker: Broker = request.getfixturevalue(f"{kind}_server")
    broker.sync.flushall()
    system = Stack(broker, tmp_path, MODEL_PATH="simulated:base_ms=0,row_ms=50", MAX_BATCH_SIZE=4, POOL=4)
    try:
        system.up()
        sending = Sending(system.url, at_once=60)
        scaler = Autoscaler(scaled_object("simulated", trigger="redis", streamLength=20, url=broker.url))
        eventually(lambda: 8 < system.waiting() < 56)
        length = read_trigger(scaler.triggers[0], lambda _: None)
        group = broker.sync.xinfo_groups("smartbatch:{simulated}:requests")[0]
        assert length is not None and 4 < length < 60
        assert (group["lag"] or 0) < length
        assert sending.end() == {200: 60}
        assert read_trigger(scaler.triggers[0], lambda _: None) == 0
    finally:
        system.close()
