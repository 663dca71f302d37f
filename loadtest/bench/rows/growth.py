"""Growth of cost: CPU per 1,000 requests by connections, body size, workers and gateways.

The model does nothing. There are no goals: look for a change of shape between runs (a step, a curve instead of a line).
"""

from __future__ import annotations

from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.rows.echo import MODEL
from loadtest.bench.run import Run, closed_loop
from loadtest.system import System, smartbatch

KB = 1024
CONNECTIONS = (1, 8, 64, 256)
BODY_BYTES = (KB, 8 * KB, 16 * KB, 32 * KB, 64 * KB, 256 * KB, 600 * KB)
WORKERS = (1, 2, 4)
GATEWAYS = (1, 2)


def row(run: Run) -> Outcome:
    details: dict[str, list[dict[str, Any]]] = {"connections": [], "body_bytes": [], "workers": [], "gateways": []}

    def add(axis: str, value: int, system: System, body_bytes: int = KB, connections: int = 64) -> None:
        load = {"": closed_loop(system, b"x" * body_bytes, connections)}
        (result,) = run.interleave(f"growth, {axis} {value}", load, rounds=1, seconds=4)[""]
        details[axis].append({"value": value, **result})

    with smartbatch(MODEL) as system:
        for connections in CONNECTIONS:
            add("connections", connections, system, connections=connections)
        for size in BODY_BYTES:
            add("body_bytes", size, system, body_bytes=size, connections=16)
    for workers in WORKERS:
        with smartbatch(MODEL, workers) as system:
            add("workers", workers, system)
    for gateways in GATEWAYS:
        with smartbatch(MODEL, GATEWAY_PROCESSES=gateways) as system:
            add("gateways", gateways, system)
    figures = [
        Figure(f"{axis} {each['value']:,}, CPU per 1,000 requests", each["cpu_s_per_1000_total"], "s")
        for axis, measured in details.items()
        for each in measured
    ]
    return Outcome(figures, details)
