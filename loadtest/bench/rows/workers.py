"""Scale and consolidation: many workers with a device of 40 ms and 2 ms a row each."""

from __future__ import annotations

from typing import Any

from loadtest.bench.figures import Figure, Outcome, Run, median
from loadtest.bench.http_client import request_bytes
from loadtest.bench.metrics import rows_and_batches
from loadtest.bench.one_queue import mean_batch
from loadtest.bench.open_loop import offer, percentile, poisson
from loadtest.bench.rows.echo import driven
from loadtest.bench.system import System, smartbatch

MODEL = "simulated:base_ms=40,row_ms=2"
BASE_S, ROW_S, MAX_ROWS, WINDOW_S = 0.040, 0.002, 32, 0.010
CAPACITY = MAX_ROWS / (BASE_S + ROW_S * MAX_ROWS)  # rows a second and worker: 308
BODY = b"x" * 1024
LINEAR = 0.95
WORKERS = (1, 2, 4, 8, 16)
CONNECTIONS = 3 * MAX_ROWS  # for each worker: a batch that runs, one claimed ahead, and one that gathers
DEVICES = 8
LOADS = (0.2, 0.5)
CONSOLIDATED = 0.9


def scale(run: Run) -> Outcome:
    """Linear is what one worker reached, times the workers."""
    details: dict[str, Any] = {"device_capacity": round(CAPACITY, 1)}
    figures: list[Figure] = []
    one = 0.0
    for workers in (1, 2) if run.quick else WORKERS:
        run.say(f"scale: {workers} workers")
        with smartbatch(MODEL, workers) as system:
            driven(system, BODY, CONNECTIONS * workers, 2)
            rounds = [driven(system, BODY, CONNECTIONS * workers, run.seconds(6)) for _ in range(run.rounds(2))]
        details[str(workers)] = rounds
        rate = max(each["requests_per_s"] for each in rounds)
        one = one or rate
        goal = None if workers == 1 else round(LINEAR * workers * one, 1)
        figures.append(Figure(f"{workers} worker{'s' * (workers > 1)}, throughput", rate, "req/s", goal))
    return Outcome(figures, details)


def consolidation(run: Run) -> Outcome:
    """The reference sees the arrivals that the system is offered."""
    details: dict[str, Any] = {}
    figures: list[Figure] = []
    with smartbatch(MODEL, DEVICES, MAX_WAIT_TIME=WINDOW_S) as system:
        request = request_bytes(system.port, BODY, content_type="application/octet-stream")
        offer(system.port, request, poisson(DEVICES * CAPACITY / 5, 1.0))  # warm
        for load in LOADS:
            at = f"{load:.0%} of capacity"
            rounds = []
            for number in range(run.rounds(2)):
                run.say(f"consolidation: {DEVICES} workers, {at}, round {number + 1}")
                starts = poisson(load * DEVICES * CAPACITY, run.seconds(8), seed=number)
                rounds.append(_consolidated(system, request, starts))
            details[at] = rounds
            reference = median([each["reference_rows"] for each in rounds])
            measured = median([each["mean_rows"] for each in rounds])
            figures.append(Figure(f"{at}, mean batch", round(measured, 2), "rows", round(CONSOLIDATED * reference, 2)))
    return Outcome(figures, details)


def _consolidated(system: System, request: bytes, starts: list[float]) -> dict[str, Any]:
    rows_before, batches_before = rows_and_batches(system)
    trace = offer(system.port, request, starts)
    answered = trace.statuses().get("200", 0)
    rows, batches = rows_and_batches(system, at_least=rows_before + answered)
    reference = mean_batch(starts, DEVICES, BASE_S, ROW_S, MAX_ROWS, WINDOW_S)
    return {
        "offered": len(starts),
        "statuses": trace.statuses(),
        "mean_rows": round((rows - rows_before) / max(1, batches - batches_before), 3),
        "reference_rows": round(reference, 3),
        "p50_ms": round(percentile(trace.latencies(200), 0.5) * 1000, 2),
        "p99_ms": round(percentile(trace.latencies(200), 0.99) * 1000, 2),
        "generator_late_p99_ms": round(percentile(trace.lateness(), 0.99) * 1000, 2),
    }
