"""Scale and consolidation: many workers with a device of 40 ms and 2 ms a row each."""

from __future__ import annotations

import time
from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.one_queue import mean_batch
from loadtest.bench.run import Run, closed_loop, median_of
from loadtest.generator.connection import request_bytes
from loadtest.generator.loops import poisson
from loadtest.generator.run import run_open_loop
from loadtest.generator.trace import percentile
from loadtest.system import System, smartbatch

MODEL = "simulated:base_ms=40,row_ms=2"
BASE_S, ROW_S, MAX_ROWS, WINDOW_S = 0.040, 0.002, 32, 0.010
CAPACITY = MAX_ROWS / (BASE_S + ROW_S * MAX_ROWS)  # rows/s of a worker: 308
BODY = b"x" * 1024
LINEAR = 0.95
WORKERS = (1, 2, 4, 8, 16)
CONNECTIONS = 3 * MAX_ROWS  # per worker: a running batch, one claimed ahead and one that fills
DEVICES = 8
LOADS = (0.2, 0.5)
CONSOLIDATED = 0.9
REPORT_TIMEOUT_S = 10.0  # workers report their counters with their heartbeat


def scale(run: Run) -> Outcome:
    """Compare with linear growth: the rate of one worker times the number of workers."""
    details: dict[str, Any] = {"device_capacity": round(CAPACITY, 1)}
    figures: list[Figure] = []
    one = 0.0
    for workers in (1, 2) if run.quick else WORKERS:
        name = f"{workers} worker{'s' * (workers > 1)}"
        with smartbatch(MODEL, workers) as system:
            load = {"": closed_loop(system, BODY, CONNECTIONS * workers)}
            rounds = run.interleave(f"scale, {name}", load, rounds=2, seconds=6, warm_s=2)[""]
        details[str(workers)] = rounds
        rate = max(each["requests_per_s"] for each in rounds)
        one = one or rate
        goal = None if workers == 1 else round(LINEAR * workers * one, 1)
        figures.append(Figure(f"{name}, throughput", rate, "req/s", goal))
    return Outcome(figures, details)


def consolidation(run: Run) -> Outcome:
    """Compare the mean batch of eight workers with that of one queue with the same arrivals."""
    details: dict[str, Any] = {}
    figures: list[Figure] = []
    with smartbatch(MODEL, DEVICES, MAX_WAIT_TIME=WINDOW_S) as system:
        request = request_bytes(system.port, BODY, content_type="application/octet-stream")
        run_open_loop(system.port, request, list(poisson(DEVICES * CAPACITY / 5, 1.0)))  # warm-up
        for load in LOADS:
            at = f"{load:.0%} of capacity"
            rounds = []
            for number in range(run.rounds(2)):
                run.log(f"consolidation, {DEVICES} workers, {at}, round {number + 1}")
                starts = list(poisson(load * DEVICES * CAPACITY, run.seconds(8), seed=number))
                rounds.append(_consolidated(system, request, starts))
            details[at] = rounds
            goal = round(CONSOLIDATED * median_of(rounds, "reference_rows"), 2)
            figures.append(Figure(f"{at}, mean batch", round(median_of(rounds, "mean_rows"), 2), "rows", goal))
    return Outcome(figures, details)


def _consolidated(system: System, request: bytes, starts: list[float]) -> dict[str, Any]:
    rows_before, batches_before, _ = system.batches()
    trace = run_open_loop(system.port, request, starts)
    rows, batches = _reported(system, rows_before + trace.statuses().get("200", 0))
    return {
        "offered": len(starts),
        "statuses": trace.statuses(),
        "mean_rows": round((rows - rows_before) / max(1, batches - batches_before), 3),
        "reference_rows": round(mean_batch(starts, DEVICES, BASE_S, ROW_S, MAX_ROWS, WINDOW_S), 3),
        "p50_ms": round(percentile(trace.latencies(200), 0.5) * 1000, 2),
        "p99_ms": round(percentile(trace.latencies(200), 0.99) * 1000, 2),
        "generator_late_p99_ms": round(percentile(trace.lateness(), 0.99) * 1000, 2),
    }


def _reported(system: System, at_least: float) -> tuple[float, float]:
    """Wait until the workers have reported `at_least` rows; return rows and batches."""
    deadline = time.monotonic() + REPORT_TIMEOUT_S
    while True:
        rows, batches, _ = system.batches()
        if rows >= at_least:
            return rows, batches
        if time.monotonic() > deadline:
            raise RuntimeError(f"the workers reported {rows:g} rows, not {at_least:g}")
        time.sleep(0.2)
