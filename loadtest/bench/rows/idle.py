"""How long the device stands still while work waits, by the worker's own counters, read from its own /metrics."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from loadtest.bench.closed_loop import drive
from loadtest.bench.figures import Figure, Outcome, Run
from loadtest.bench.metrics import read, total
from loadtest.bench.rows.steady import BODY, MODEL
from loadtest.bench.system import free_port, smartbatch

CONNECTIONS = 256  # eight batches: there is always a backlog
SHARE = 3.0


def measure(run: Run) -> Outcome:
    """`idle` is all time outside a forward; `starved` the part of it that the worker waited for a batch to come."""
    port = free_port()
    seconds = run.seconds(5)
    with smartbatch(MODEL, METRICS_PORT=port) as system, ThreadPoolExecutor(1) as pool:
        drive(system.port, BODY, CONNECTIONS, 1)
        run.say(f"idle: {CONNECTIONS} connections")
        load = pool.submit(drive, system.port, BODY, CONNECTIONS, seconds + 2)
        time.sleep(1)  # the backlog builds up; the end of the load is left out too
        before = _sample(port)
        time.sleep(seconds)
        after = _sample(port)
        driven = load.result()
    span = after["at_s"] - before["at_s"]
    busy, starved = (100 * (after[name] - before[name]) / span for name in ("busy", "starved"))
    figures = [
        Figure("device not in a forward", round(100 - busy, 2), "% of time", SHARE, "at most"),
        Figure("device starved", round(starved, 2), "% of time", SHARE, "at most"),
    ]
    return Outcome(figures, {"before": before, "after": after, "driven": driven})


def _sample(port: int) -> dict[str, Any]:
    text = read(f"http://127.0.0.1:{port}")
    return {
        "at_s": time.monotonic(),
        "busy": total(text, "smartbatch_device_busy_seconds_total"),
        "starved": total(text, "smartbatch_device_starved_seconds_total"),
        "batches": total(text, "smartbatch_batch_rows_count"),
        "rows": total(text, "smartbatch_batch_rows_sum"),
    }
