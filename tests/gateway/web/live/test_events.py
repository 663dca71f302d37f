from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from smartbatch.gateway.web.live import events
from smartbatch.gateway.web.live.events import MAX_VIEWERS, LiveStream
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import Draining, Unavailable


class CountingMonitor:
    """Stands in for the system monitor and counts its calls."""

    fresh = True
    models: dict = {}  # noqa: RUF012
    started = 0
    workers: dict = {}  # noqa: RUF012

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        self.started += 1
        return {"m": Snapshot("m", self.started * 1000, waiting=self.started, workers=self.workers)}


class Viewed:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(events, "EVERY_S", 0.01)
        self.monitor = CountingMonitor()
        self.connection_registry: Any = SimpleNamespace(draining=False, drain_began=asyncio.Event())
        monitor: Any = self.monitor
        self.live = LiveStream(monitor, self.connection_registry, "m", predicts=True)

    def drain(self) -> None:
        self.connection_registry.draining = True
        self.connection_registry.drain_began.set()


@pytest.fixture
async def viewed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Viewed]:
    yield Viewed(monkeypatch)


def waiting(event: bytes) -> int:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    return json.loads(event[6:])["models"]["m"]["stats"]["queue"]["waiting"]


async def test_all_viewers_share_each_event(viewed: Viewed) -> None:
    for _ in range(3):
        viewed.live.join()
    streams = [viewed.live.events() for _ in range(3)]
    firsts = [await anext(stream) for stream in streams]
    assert firsts[0] is firsts[1] is firsts[2]
    seconds = await asyncio.gather(*(anext(stream) for stream in streams))
    assert seconds[0] is seconds[1] is seconds[2]
    assert waiting(seconds[0]) == waiting(firsts[0]) + 1


async def test_no_event_is_made_without_a_viewer(viewed: Viewed) -> None:
    assert viewed.monitor.started == 0
    viewed.live.join()
    await anext(viewed.live.events())
    viewed.live.leave()
    started = viewed.monitor.started
    await asyncio.sleep(0.05)
    assert viewed.monitor.started == started
    assert len(asyncio.all_tasks()) == 1
    viewed.live.join()  # a later viewer gets no old event
    assert waiting(await anext(viewed.live.events())) == started + 1


async def test_a_slow_viewer_misses_events_and_gets_the_newest(viewed: Viewed) -> None:
    viewed.live.join()
    stream = viewed.live.events()
    first = waiting(await anext(stream))
    while viewed.monitor.started < first + 5:
        await asyncio.sleep(0.01)
    assert waiting(await anext(stream)) >= first + 5


async def test_the_number_of_viewers_is_limited(viewed: Viewed) -> None:
    for _ in range(MAX_VIEWERS):
        viewed.live.join()
    with pytest.raises(Unavailable, match=f"{MAX_VIEWERS} viewers"):
        viewed.live.join()
    viewed.live.leave()
    viewed.live.join()


async def test_a_drain_ends_every_stream_and_rejects_new_viewers(
    viewed: Viewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVERY_S", 3600)
    viewed.live.join()
    stream = viewed.live.events()
    await anext(stream)
    rest = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)
    viewed.drain()
    assert await asyncio.wait_for(rest, 5) is None
    with pytest.raises(Draining):
        viewed.live.join()


async def test_an_event_that_cannot_be_made_ends_no_stream(viewed: Viewed, caplog: pytest.LogCaptureFixture) -> None:
    viewed.live.join()
    stream = viewed.live.events()
    first = waiting(await anext(stream))
    viewed.monitor.workers = {"w": {"started_ms": "0", "counts": 5}}  # a value that Redis cannot return
    while "can't make the statistics" not in caplog.text:
        await asyncio.sleep(0.01)
    assert waiting(await anext(stream)) >= first  # the last event that could be made
    viewed.monitor.workers = {}
    started = viewed.monitor.started
    while waiting(await anext(stream)) <= started:
        pass
