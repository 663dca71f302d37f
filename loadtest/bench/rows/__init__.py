"""The rows of the table in docs/performance.md, in its order. Each runs alone: `make bench ONLY=S`."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.bench.figures import Outcome, Run
from loadtest.bench.rows import broker, echo, few, growth, idle, large, overload, photos, steady, workers

ROWS: dict[str, Callable[[Run], Outcome]] = {
    "E": echo.measure,
    "S": steady.measure,
    "R": photos.measure,
    "overload": overload.measure,
    "scale": workers.scale,
    "consolidation": workers.consolidation,
    "large": large.measure,
    "idle": idle.measure,
    "broker": broker.measure,
    "few": few.measure,
    "growth": growth.measure,
}
