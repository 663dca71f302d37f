"""The stream of statistics for the live page, as server-sent events.

Once a second, each process creates one event for all its viewers, from the latest snapshots of the system monitor.
Without viewers it creates none. A slow viewer misses events. Draining ends all streams immediately.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Literal

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.http.connection_registry import ConnectionRegistry
from smartbatch.gateway.monitoring.model_view import ModelView, describe
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.monitoring.window_stats import StatsWindow
from smartbatch.shared.errors import Draining, Unavailable

log = logging.getLogger(__name__)

EVERY_S = 1.0
MAX_VIEWERS = 32  # per process; each is a connection with a copy of the event in its send buffer
RETRY_S = 10.0  # Retry-After of a rejected viewer
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # proxies must not buffer events


class LiveEvent(msgspec.Struct):
    """One event. `predicts`: whether this port also serves /predict."""

    at_ms: int
    broker: Literal["up", "down"]
    default: str
    predicts: bool
    models: dict[str, ModelView]


class LiveStream:
    """One per process, used on the event loop only. Its task runs while there are viewers."""

    def __init__(
        self, monitor: SystemMonitor, connection_registry: ConnectionRegistry, default: str, *, predicts: bool
    ) -> None:
        self._monitor = monitor
        self._connection_registry = connection_registry
        self._default = default
        self._predicts = predicts
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._event = b""
        self._changed = asyncio.Event()

    def join(self) -> None:
        """Register a viewer, which must call `leave`. Raises Unavailable or Draining."""
        if self._connection_registry.draining:
            raise Draining("the server is shutting down")
        if self._viewers >= MAX_VIEWERS:
            raise Unavailable(f"this gateway process serves at most {MAX_VIEWERS} viewers of the live page", RETRY_S)
        self._viewers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def leave(self) -> None:
        self._viewers -= 1
        if not self._viewers and self._task:
            self._task.cancel()
            self._task = None
            self._event = b""

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the current event, and then each new one until the process drains."""
        while not self._connection_registry.draining:
            changed = self._changed
            if self._event:
                yield self._event
            await changed.wait()

    async def _run(self) -> None:
        windows: defaultdict[str, StatsWindow] = defaultdict(StatsWindow)
        while not self._connection_registry.draining:
            try:
                self._event = b"data: " + msgspec.json.encode(self._make_event(windows)) + b"\n\n"
            except Exception:  # unexpected values on the broker must not end the stream
                log.exception("can't make the statistics of the live page")
            self._wake()
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._connection_registry.drain_began.wait()
            except TimeoutError:
                pass
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _make_event(self, windows: defaultdict[str, StatsWindow]) -> LiveEvent:
        monitor = self._monitor
        models = {
            name: ModelView(describe(snapshot), windows[name].add(snapshot), monitor.models.get(name))
            for name, snapshot in monitor.snapshots.items()
        }
        broker = "up" if monitor.fresh else "down"
        return LiveEvent(int(time.time() * 1000), broker, self._default, self._predicts, models)


class Events:
    """The endpoint: GET /live/events."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        live: LiveStream = scope["app"].state.gateway.live
        try:
            live.join()
        except Unavailable as error:
            status, headers, body = problem(error, None)
            await Response(body, status, headers)(scope, receive, send)
            return
        try:
            if scope["method"] == "HEAD":
                response = Response(headers=_HEADERS, media_type="text/event-stream")
            else:
                response = StreamingResponse(live.events(), headers=_HEADERS, media_type="text/event-stream")
            await response(scope, receive, send)
        finally:
            live.leave()
