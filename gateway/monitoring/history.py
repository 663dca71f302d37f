"""The last two minutes of each model, one point a second, for the charts of the live page.

Each gateway process keeps its own, also without viewers, from the snapshots that it reads anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from smartbatch.gateway.core.response_types import ModelStats
from smartbatch.gateway.monitoring.model_view import CLIENT_ERRORS, FAILED, REJECTED, ModelView, describe
from smartbatch.gateway.monitoring.window_stats import StatsWindow, WindowStats
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.model_info import ModelInfo

KEPT = 120  # points


class Point(msgspec.Struct, gc=False):
    """One second. Rates and percentiles (in ms) are over the window of ModelStats. `admit` to `reply` are the mean time
    of each part of a request in ms, None without an answered one."""

    at_s: float
    answered: float
    rejected: float
    failed: float
    client_errors: float
    p50: float | None
    p95: float | None
    p99: float | None
    waiting: int
    running: int
    admit: float | None
    queue: float | None
    decode: float | None
    batch_wait: float | None
    forward: float | None
    reply: float | None


class LiveModel(ModelView):
    """A model's data in one event of the live page. `point` is the newest one."""

    point: Point


class ModelHistory:
    """The points of one model. Its owner adds one a second."""

    def __init__(self) -> None:
        self._window = StatsWindow()
        self._points: deque[Point] = deque(maxlen=KEPT)

    def add(self, snapshot: Snapshot, info: ModelInfo | None, at_s: float) -> LiveModel:
        stats, last = describe(snapshot), self._window.add(snapshot)
        point = _point(stats, last, at_s)
        self._points.append(point)
        return LiveModel(stats, last, info, point)

    def columns(self) -> dict[str, list[Any]]:
        """Return all points, the oldest first, as one list per field, which is half the size of a list of points."""
        return {name: [getattr(point, name) for point in self._points] for name in Point.__struct_fields__}


def _point(stats: ModelStats, last: WindowStats, at_s: float) -> Point:
    def rate(outcomes: Sequence[str]) -> float:
        return round(sum(stats.outcomes.get(outcome, 0) for outcome in outcomes) / stats.window_s, 2)

    latency, parts = stats.latency_ms, last.parts_ms
    return Point(
        at_s=round(at_s, 3),
        answered=stats.throughput_rps,
        rejected=rate(REJECTED),
        failed=rate(FAILED),
        client_errors=rate(CLIENT_ERRORS),
        p50=latency["p50"],
        p95=latency["p95"],
        p99=latency["p99"],
        waiting=stats.queue.waiting,
        running=stats.queue.running,
        admit=parts.get("admit"),
        queue=parts.get("queue"),
        decode=parts.get("decode"),
        batch_wait=parts.get("batch_wait"),
        forward=parts.get("forward"),
        reply=parts.get("reply"),
    )
