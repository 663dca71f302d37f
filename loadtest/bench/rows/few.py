"""Few clients, fewer than a batch holds, who ask again once they are answered: whom is waited for, and for how long?

Beside it the fixed window, which is what other servers have, and for `S` the least that can be: all of them in every
batch, and nothing but the device's time. No goals.
"""

from __future__ import annotations

from typing import Any

from loadtest.bench.closed_loop import drive
from loadtest.bench.figures import Figure, Outcome, Run
from loadtest.bench.rows import echo, steady
from loadtest.bench.system import smartbatch

MODELS = {"E": echo.MODEL, "S": steady.MODEL}
CONNECTIONS = (1, 2, 4, 8, 16, 32)
TOLD = 8  # connections of which the table tells


def measure(run: Run) -> Outcome:
    details: dict[str, Any] = {}
    figures: list[Figure] = []
    for name, model in MODELS.items():
        details[name] = {"adaptive": [], "fixed": []}
        with smartbatch(model) as adaptive, smartbatch(model, WINDOW="fixed") as fixed:
            for connections in CONNECTIONS:
                for window, system in (("adaptive", adaptive), ("fixed", fixed)):
                    run.say(f"few: {name}, {connections} connections, WINDOW={window}")
                    drive(system.port, steady.BODY, connections, 1)
                    details[name][window].append(drive(system.port, steady.BODY, connections, run.seconds(4)))
        for window, measured in details[name].items():
            at = measured[CONNECTIONS.index(TOLD)]
            where = f"{name}, {TOLD} connections, WINDOW={window}"
            figures.append(Figure(f"{where}, throughput", at["requests_per_s"], "req/s"))
            figures.append(Figure(f"{where}, p50", at["p50_ms"], "ms"))
    details["S"]["device_ms"] = [steady.BASE_MS + steady.ROW_MS * connections for connections in CONNECTIONS]
    return Outcome(figures, details)
