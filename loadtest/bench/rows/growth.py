"""How cost grows: CPU per 1,000 requests by load, payload, workers and gateways, with a model that does nothing.

No goals: a change of shape here (a step, a curve where a line was) is what to look for.
"""

from __future__ import annotations

from typing import Any

from loadtest.bench.figures import Figure, Outcome, Run
from loadtest.bench.rows.echo import MODEL, driven
from loadtest.bench.system import System, smartbatch

KB = 1024
CONNECTIONS = (1, 8, 64, 256)
BODY_BYTES = (KB, 8 * KB, 16 * KB, 32 * KB, 64 * KB, 256 * KB, 600 * KB)
WORKERS = (1, 2, 4)
GATEWAYS = (1, 2)


def measure(run: Run) -> Outcome:
    details: dict[str, list[dict[str, Any]]] = {"connections": [], "body_bytes": [], "workers": [], "gateways": []}

    def note(axis: str, value: int, system: System, body_bytes: int = KB, connections: int = 64) -> None:
        run.say(f"growth: {axis} {value}")
        body = b"x" * body_bytes
        driven(system, body, connections, 1)
        details[axis].append({"value": value, **driven(system, body, connections, run.seconds(4))})

    with smartbatch(MODEL) as system:
        for connections in CONNECTIONS:
            note("connections", connections, system, connections=connections)
        for size in BODY_BYTES:
            note("body_bytes", size, system, body_bytes=size, connections=16)
    for workers in WORKERS:
        with smartbatch(MODEL, workers) as system:
            note("workers", workers, system)
    for gateways in GATEWAYS:
        with smartbatch(MODEL, GATEWAY_PROCESSES=gateways) as system:
            note("gateways", gateways, system)
    figures = [
        Figure(f"{axis} {each['value']:,}, CPU per 1,000 requests", each["cpu_s_per_1000_total"], "s")
        for axis, measured in details.items()
        for each in measured
    ]
    return Outcome(figures, details)
