"""Workers of several models on one device of one host."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.brokers import eventually
from tests.system.stack import Process, Stack

SHORT_MS, LONG_MS = 4, 200


@pytest.fixture
def system(stack: Callable[..., Stack], tmp_path: Path) -> Callable[[str], tuple[Stack, Process, Process]]:
    def start(share: str) -> tuple[Stack, Process, Process]:
        system = stack(MAX_BATCH_SIZE=1, TMPDIR=tmp_path, DEVICE_SHARE=share)
        system.gateway(MODEL_PATH="simulated", MODEL_NAME="short")
        path = "simulated:base_ms={},row_ms=0,device=gpu0"
        short = system.worker(MODEL_PATH=path.format(SHORT_MS), MODEL_NAME="short")
        long = system.worker(MODEL_PATH=path.format(LONG_MS), MODEL_NAME="long")
        return system.ready(2), short, long

    return start


class Load:
    """Clients of one model: each sends the next request when it has the response."""

    def __init__(self, system: Stack, model: str, clients: int) -> None:
        self._url = f"{system.url}/predict?model={model}"
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    self.statuses.append(client.post(self._url, content=b"x").status_code)
                except httpx.TransportError:
                    assert self._stop.is_set()

    def answered_within(self, seconds: float) -> int:
        before = len(self.statuses)
        time.sleep(seconds)
        return len(self.statuses) - before

    def stop(self) -> list[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        return self.statuses


def test_a_model_with_long_batches_does_not_starve_one_with_short_ones(system: Callable[..., tuple]) -> None:
    running, _, _ = system("auto")
    short, long = Load(running, "short", 3), Load(running, "long", 3)
    time.sleep(2)  # each worker learns of the other within a second
    ran_short = short.answered_within(6)
    counted = running.stats("long")["workers"], running.stats("short")["workers"]
    assert set(short.stop()) == set(long.stop()) == {200}
    # Without turns each of the two would run every other batch: 30 in 6 s.
    assert ran_short > 150
    assert len(long.statuses) > 10
    capacity = [float(next(iter(workers.values()))["capacity_rows_per_s"]) for workers in counted]
    assert capacity[0] < 1000 / LONG_MS * 0.9 and capacity[1] < 1000 / SHORT_MS * 0.9
    assert running.counter("smartbatch_device_wait_seconds_count", 'model="short"') > 0


def test_without_turns_it_does(system: Callable[..., tuple]) -> None:
    running, _, _ = system("off")
    short, long = Load(running, "short", 3), Load(running, "long", 3)
    time.sleep(1)
    ran_short = short.answered_within(4)
    assert set(short.stop()) == set(long.stop()) == {200}
    assert 5 < ran_short < 40
    assert running.counter("smartbatch_device_wait_seconds_count", 'model="short"') == 0


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_one_worker_frees_the_device_for_the_other(
    system: Callable[..., tuple], name: signal.Signals
) -> None:
    running, short_worker, long_worker = system("auto")
    short, long = Load(running, "short", 1), Load(running, "long", 1)
    time.sleep(2)
    answered = len(short.statuses)
    eventually(lambda: len(short.statuses) > answered)
    long_worker.popen.send_signal(name)
    long_worker.popen.wait(10)
    assert short.answered_within(2) > 20
    assert set(short.stop()) == {200}
    assert short_worker.popen.poll() is None
    long._stop.set()
