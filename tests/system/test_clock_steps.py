"""The broker's clock steps by an hour, forth and back, under load: no worker is found dead and no request is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker, eventually
from tests.conftest import binary
from tests.load import Load
from tests.system.stack import Stack


class SteppingBroker(Broker):
    """Valkey under libfaketime, which reads the offset of the clock from a file at each look."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            pytest.skip("no libfaketime (Debian: apt-get install faketime)")
        self._offset = folder / "offset"
        self.step(0)
        environ = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        super().__init__(binary("valkey"), environ=environ)  # jemalloc, in redis-server, and libfaketime deadlock

    def step(self, seconds: int) -> None:
        """Set the clock so far from the true time."""
        self._offset.write_text(f"{seconds:+d}\n")

    def seconds(self) -> int:
        return self.sync.time()[0]


@pytest.fixture
def stepping(tmp_path: Path) -> Iterator[SteppingBroker]:
    server = SteppingBroker(tmp_path)
    yield server
    server.kill()  # a SIGTERM's handler asks for the time, and may wait in libfaketime for whom it interrupts, for ever
    server.stop()


async def test_clock_steps_kill_no_worker_and_lose_no_request(stepping: SteppingBroker, tmp_path: Path) -> None:
    system = Stack(stepping, tmp_path, MODEL_PATH="simulated:base_ms=20,row_ms=1")
    try:
        await asyncio.to_thread(system.up, 2)
        true = stepping.seconds()
        async with Load(lambda: [system.url]) as load:
            done = asyncio.Event()
            sending = asyncio.create_task(load.open_loop_until(done, 150))
            for hours in (1, 0, -1, 0):
                await asyncio.sleep(2.5)
                stepping.step(3600 * hours)
                await asyncio.to_thread(eventually, lambda h=hours: abs(stepping.seconds() - true - 3600 * h) < 60)
            await asyncio.sleep(2.5)
            done.set()
            await sending
        assert load.statuses() == {200: len(load.sent)}
        assert all(request.correct for request in load.sent)
        assert max(request.seconds for request in load.sent) < 10
        assert system.counter("smartbatch_dead_workers_found_total") == 0
        await asyncio.to_thread(system.until_clean, 2)
    finally:
        system.close()
