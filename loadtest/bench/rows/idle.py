"""Measure how long the device is idle while requests wait, by the counters of the worker's /metrics."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.rows.steady import BODY, MODEL
from loadtest.bench.run import Run
from loadtest.generator.run import run_closed_loop
from loadtest.system import free_port, http_get, metric_total, smartbatch

CONNECTIONS = 256  # eight batches, so there is always a backlog
SHARE = 3.0
COUNTERS = {
    "busy": "smartbatch_device_busy_seconds_total",
    "starved": "smartbatch_device_starved_seconds_total",
    "batches": "smartbatch_batch_rows_count",
    "rows": "smartbatch_batch_rows_sum",
}


def row(run: Run) -> Outcome:
    """Measure all idle time, and the part of it in which the worker waited for a batch (`starved`)."""
    port = free_port()
    seconds = run.seconds(5)
    with smartbatch(MODEL, METRICS_PORT=port) as system, ThreadPoolExecutor(1) as pool:
        run_closed_loop(system.port, BODY, CONNECTIONS, 1)
        run.log(f"idle, {CONNECTIONS} connections")
        load = pool.submit(run_closed_loop, system.port, BODY, CONNECTIONS, seconds + 2)
        time.sleep(1)  # measure neither the start of the load, when the backlog builds up, nor its end
        before = _sample(port)
        time.sleep(seconds)
        after = _sample(port)
        result = load.result()
    span = after["at_s"] - before["at_s"]
    busy, starved = (100 * (after[name] - before[name]) / span for name in ("busy", "starved"))
    figures = [
        Figure("device not in a forward", round(100 - busy, 2), "% of time", SHARE, "at most"),
        Figure("device starved", round(starved, 2), "% of time", SHARE, "at most"),
    ]
    return Outcome(figures, {"before": before, "after": after, "load": result})


def _sample(port: int) -> dict[str, float]:
    text = http_get(f"http://127.0.0.1:{port}/metrics")
    return {"at_s": time.monotonic(), **{name: metric_total(text, metric) for name, metric in COUNTERS.items()}}
