"""The rows of the table in docs/performance.md, in its order. `make bench ONLY=S` runs one of them."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.bench.figures import Outcome
from loadtest.bench.rows import (
    broker,
    echo,
    few,
    growth,
    idle,
    large,
    overload,
    own_model,
    photos,
    steady,
    texts,
    workers,
)
from loadtest.bench.run import Run

ROWS: dict[str, Callable[[Run], Outcome]] = {
    "E": echo.row,
    "S": steady.row,
    "R": photos.row,
    "T": texts.row,
    "U": own_model.row,
    "overload": overload.row,
    "scale": workers.scale,
    "consolidation": workers.consolidation,
    "large": large.row,
    "idle": idle.row,
    "broker": broker.row,
    "few": few.row,
    "growth": growth.row,
}
