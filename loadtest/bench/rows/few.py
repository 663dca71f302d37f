"""Fewer clients in a closed loop than a batch holds: compare the adaptive window with a fixed one.

For `S` the details include the lowest possible latency: the device's time with all clients in every batch. There are no
goals.
"""

from __future__ import annotations

from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.rows import echo, steady
from loadtest.bench.run import Run, closed_loop
from loadtest.system import smartbatch

MODELS = {"E": echo.MODEL, "S": steady.MODEL}
CONNECTIONS = (1, 2, 4, 8, 16, 32)
IN_TABLE = 8  # connections


def row(run: Run) -> Outcome:
    details: dict[str, Any] = {}
    figures: list[Figure] = []
    for name, model in MODELS.items():
        details[name] = {"adaptive": [], "fixed": []}
        with smartbatch(model) as adaptive, smartbatch(model, WINDOW="fixed") as fixed:
            for connections in CONNECTIONS:
                windows = {"adaptive": adaptive, "fixed": fixed}
                loads = {window: closed_loop(system, steady.BODY, connections) for window, system in windows.items()}
                measured = run.interleave(f"few, {name}, {connections} connections", loads, rounds=1, seconds=4)
                for window, (result,) in measured.items():
                    details[name][window].append(result)
        for window, results in details[name].items():
            at = results[CONNECTIONS.index(IN_TABLE)]
            where = f"{name}, {IN_TABLE} connections, WINDOW={window}"
            figures.append(Figure(f"{where}, throughput", at["requests_per_s"], "req/s"))
            figures.append(Figure(f"{where}, p50", at["p50_ms"], "ms"))
    details["S"]["device_ms"] = [steady.BASE_MS + steady.ROW_MS * connections for connections in CONNECTIONS]
    return Outcome(figures, details)
