from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from smartbatch.gateway.auth.keys import Key, Role
from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.monitoring.history import KEPT, LiveModel
from smartbatch.gateway.web.live import events
from smartbatch.gateway.web.live.events import MAX_VIEWERS, LiveStream
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import Draining, Unavailable
from smartbatch.shared.model_info import InputSpec, ModelInfo


class CountingMonitor:
    """Stands in for the system monitor and counts its calls."""

    fresh = True
    models: dict = {}  # noqa: RUF012
    names: tuple[str, ...] = ("m",)
    started = 0
    workers: dict = {}  # noqa: RUF012

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        self.started += 1
        return {
            name: Snapshot(name, self.started * 1000, waiting=self.started, workers=self.workers) for name in self.names
        }


class Viewed:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(events, "EVERY_S", 0.01)
        self.monitor = CountingMonitor()
        self.connection_registry: Any = SimpleNamespace(draining=False, drain_began=asyncio.Event())
        monitor: Any = self.monitor
        self.live = LiveStream(monitor, self.connection_registry, "m", None, predicts=True)

    def stream(self, principal: Any = None) -> AsyncGenerator[bytes]:
        self.live.join()
        return self.live.events(principal)

    def drain(self) -> None:
        self.connection_registry.draining = True
        self.connection_registry.drain_began.set()


@pytest.fixture
async def viewed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Viewed]:
    viewed = Viewed(monkeypatch)
    task = asyncio.create_task(viewed.live.run())
    yield viewed
    viewed.drain()
    await task


def content(event: bytes) -> dict:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    return json.loads(event[6:])


def waiting(event: bytes) -> int:
    return content(event)["models"]["m"]["stats"]["queue"]["waiting"]


def key(role: Role = "admin", models: tuple[str, ...] = ()) -> Principal:
    return Principal("k", Key(sha256="00" * 32, role=role, models=models), Mock())


async def test_first_event_contains_the_history_and_later_ones_the_newest_point(viewed: Viewed) -> None:
    while viewed.monitor.started < 5:
        await asyncio.sleep(0.01)
    stream = viewed.stream()
    first, second = content(await anext(stream)), content(await anext(stream))
    columns = first["history"]["m"]
    assert columns["waiting"] == list(range(1, len(columns["waiting"]) + 1)) and len(columns["waiting"]) >= 5
    assert columns["at_s"] == sorted(columns["at_s"])
    assert {len(values) for values in columns.values()} == {len(columns["waiting"])}
    assert first["models"]["m"]["point"] == {name: values[-1] for name, values in columns.items()}
    assert "history" not in second
    assert second["models"]["m"]["point"]["waiting"] == columns["waiting"][-1] + 1


async def test_history_ends_after_two_minutes_and_with_its_model(viewed: Viewed) -> None:
    while viewed.monitor.started < KEPT + 5:
        viewed.live._add_points()
    columns = content(await anext(viewed.stream()))["history"]["m"]
    assert len(columns["waiting"]) == KEPT == 120
    assert columns["waiting"][-1] == viewed.monitor.started
    viewed.monitor.names = ("other",)
    viewed.live._add_points()
    assert list(content(await anext(viewed.stream()))["history"]) == ["other"]


async def test_history_has_a_gap_while_redis_is_unreachable(viewed: Viewed) -> None:
    stream = viewed.stream()
    first = content(await anext(stream))
    viewed.monitor.fresh = False
    await anext(stream)
    later = content(await anext(stream))
    assert (first["broker"], later["broker"]) == ("up", "down")
    started = viewed.monitor.started
    await anext(stream)
    assert viewed.monitor.started == started


async def test_nothing_is_encoded_without_a_viewer_and_once_for_all_viewers(
    viewed: Viewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode_json = [], msgspec.json.encode

    def encode(value: Any) -> bytes:
        encoded.append(type(value))
        return encode_json(value)

    monkeypatch.setattr(msgspec.json, "encode", encode)
    while viewed.monitor.started < 5:
        await asyncio.sleep(0.01)
    assert encoded == []
    monkeypatch.setattr(events, "EVERY_S", 3600)
    await asyncio.sleep(0.05)
    for stream in [viewed.stream() for _ in range(3)]:
        await anext(stream)
    assert encoded.count(LiveModel) == 1


async def test_a_viewer_sees_only_the_models_of_its_key(viewed: Viewed) -> None:
    viewed.monitor.names = ("m", "other")
    viewed.monitor.models = {
        name: ModelInfo(name, "path", InputSpec(("text",)), 8, fingerprint="f") for name in viewed.monitor.names
    }
    viewed.live._add_points()
    for principal, names, default in (
        (None, ["m", "other"], "m"),
        (key(), ["m", "other"], "m"),
        (key(models=("m",)), ["m"], "m"),
        (key(models=("other",)), ["other"], ""),
        (key(models=("no-such",)), [], ""),
    ):
        event = content(await anext(viewed.stream(principal)))
        assert list(event["models"]) == list(event.get("history", ())) == names
        assert event["default"] == default
        offer = msgspec.to_builtins(viewed.live.offer(principal))
        assert offer == {
            "default": default,
            "models": {
                n: {
                    "input": {"kinds": ("text",)},
                    "inputs": (),
                    "outputs": (),
                    "classifier": False,
                    "example": {"data": ["a text"]},
                }
                for n in names
            },
        }


async def test_a_key_that_is_limited_to_a_name_sees_all_versions_of_it(viewed: Viewed) -> None:
    viewed.monitor.names = ("m", "m@2", "other@2")
    viewed.live._add_points()
    event = content(await anext(viewed.stream(key(models=("m",)))))
    assert list(event["models"]) == ["m", "m@2"]


@pytest.mark.parametrize(("role", "predict"), [("monitor", "forbidden"), ("admin", "here")])
async def test_an_event_says_whether_the_key_may_send_requests(viewed: Viewed, role: Role, predict: str) -> None:
    assert content(await anext(viewed.stream(key(role))))["predict"] == predict


async def test_a_slow_viewer_misses_events_and_gets_the_newest(viewed: Viewed) -> None:
    stream = viewed.stream()
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
    stream = viewed.stream()
    await anext(stream)
    monkeypatch.setattr(events, "EVERY_S", 3600)
    await anext(stream)
    rest = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)
    viewed.drain()
    assert await asyncio.wait_for(rest, 5) is None
    with pytest.raises(Draining):
        viewed.live.join()


async def test_an_event_that_cannot_be_made_ends_no_stream(viewed: Viewed, caplog: pytest.LogCaptureFixture) -> None:
    stream = viewed.stream()
    first = waiting(await anext(stream))
    viewed.monitor.workers = {"w": {"started_ms": "0", "counts": 5}}  # a value that Redis cannot return
    while "can't make the statistics" not in caplog.text:
        await asyncio.sleep(0.01)
    assert waiting(await anext(stream)) >= first  # the last event that could be made
    viewed.monitor.workers = {}
    started = viewed.monitor.started
    while waiting(await anext(stream)) <= started:
        pass
