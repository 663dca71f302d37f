"""Overload: offer two and five times the device's capacity in an open loop.

Admitted requests must get a response in time; the others must be rejected.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.rows.steady import BASE_MS, BODY, CAPACITY, MODEL, ROW_MS
from loadtest.bench.run import Run
from loadtest.generator.connection import request_bytes
from loadtest.generator.loops import poisson
from loadtest.generator.run import run_closed_loop, run_open_loop
from loadtest.generator.trace import Trace, percentile
from loadtest.system import smartbatch

TIMES = (2, 5)
SLOWDOWN = 4  # on few cores, generator and servers cannot send and reject five times the load of S
SLOWER = f"simulated:base_ms={BASE_MS * SLOWDOWN:g},row_ms={ROW_MS * SLOWDOWN:g}"
SHARE = 0.95
TIMEOUT_S = 0.5
CONNECTIONS = 2048  # more than are in use within TIMEOUT_S, so that no request waits for a free one
RAMP_S = 1.0  # queues fill and the gateway learns the rate; plotted, but not counted
FULL = "simulated:base_ms=40,row_ms=1"  # so slow that its queue of MAX_QUEUE requests is always full
MAX_QUEUE = 8
ADMITTED = (200, 504)  # 504: admitted, but without a response in time
SHARES = (0.5, 0.9, 0.99, 0.999)


def row(run: Run) -> Outcome:
    figures, details = _overloaded(run, MODEL, CAPACITY, "")
    slower, details["slower"] = _overloaded(run, SLOWER, CAPACITY / SLOWDOWN, f"{SLOWDOWN} times slower, ")
    rejection, details["rejection"] = _rejection_cost(run)
    return Outcome([*figures, *slower, rejection], {"limit_s": TIMEOUT_S, "ramp_s": RAMP_S, **details})


def _rejection_cost(run: Run) -> tuple[Figure, dict[str, Any]]:
    """Run a closed loop against a queue that is always full."""
    with smartbatch(FULL, MAX_QUEUE=MAX_QUEUE) as system:
        run_closed_loop(system.port, BODY, 64, 1)  # fills it
        run.log("overload, a full queue, 64 connections, closed loop")
        before = system.cpu_s()
        result = run_closed_loop(system.port, BODY, 64, run.seconds(5))
        cpu_s = {role: spent - before.get(role, 0.0) for role, spent in system.cpu_s().items()}
    thousands = max(1, result["requests"]) / 1000  # nearly all are rejected
    cost = {role: round(spent / thousands, 4) for role, spent in cpu_s.items()}
    figure = Figure("a full queue, gateway's CPU per 1,000 requests", cost["gateway"], "s")
    return figure, {**result, "cpu_s_per_1000": cost}


def _overloaded(run: Run, model: str, capacity: float, name: str) -> tuple[list[Figure], dict[str, Any]]:
    """Offer TIMES the capacity. `capacity` is in rows/s."""
    details: dict[str, Any] = {"capacity": round(capacity, 1)}
    figures: list[Figure] = []
    with smartbatch(model) as system:
        headers = {"content_type": "application/octet-stream", "x_request_timeout": f"{TIMEOUT_S:g}"}
        request = request_bytes(system.port, BODY, **headers)
        run_open_loop(system.port, request, list(poisson(capacity / 2, 1.0)))  # warm-up
        for times in TIMES:
            seconds = run.seconds(10)
            run.log(f"overload, {name}{times} times capacity, {RAMP_S + seconds:g} s, open loop")
            starts = list(poisson(times * capacity, RAMP_S + seconds))
            before, own = system.cpu_s(), time.process_time()
            trace = run_open_loop(system.port, request, starts, CONNECTIONS)
            own_s = time.process_time() - own
            spent_s = sum(system.cpu_s().values()) - sum(before.values())
            details[str(times)] = {
                "generator_cpu_s": round(own_s, 2),
                **_details(trace, seconds),
                "cpu_s_per_1000_offered": round(spent_s * 1000 / len(starts), 4),
            }
            figures += _figures(f"{name}{times} × capacity", capacity, trace.since(RAMP_S), seconds)
    return figures, details


def _figures(at: str, capacity: float, trace: Trace, seconds: float) -> list[Figure]:
    in_time = sum(latency <= TIMEOUT_S for latency in trace.latencies(200))
    p99_ms = percentile(trace.latencies(*ADMITTED), 0.99) * 1000
    late_ms = percentile(trace.lateness(), 0.99) * 1000
    return [
        Figure(f"{at}, goodput", round(in_time / seconds, 1), "req/s", round(SHARE * capacity, 1)),
        Figure(f"{at}, p99 of the admitted", round(p99_ms, 1), "ms", TIMEOUT_S * 1000, "at most"),
        Figure(f"{at}, generator's lateness p99", round(late_ms, 1), "ms"),
    ]


def _details(trace: Trace, seconds: float) -> dict[str, Any]:
    counted = trace.since(RAMP_S)
    return {
        "seconds": seconds,
        "offered": len(counted.starts),
        "statuses": counted.statuses(),
        "admitted_ms": _percentiles_ms(counted.latencies(*ADMITTED)),
        "rejected_ms": _percentiles_ms(counted.latencies(503)),
        "over_time": _over_time(trace, RAMP_S + seconds),
    }


def _percentiles_ms(latencies: list[float]) -> dict[str, float]:
    return {f"p{share * 100:g}": round(percentile(latencies, share) * 1000, 1) for share in SHARES if latencies}


def _over_time(trace: Trace, seconds: float, step_s: float = 0.25) -> list[dict[str, float]]:
    """Return requests/s by outcome (in time, late, rejected, other) for each quarter second of intended starts."""
    offered = Counter(int(start / step_s) for start in trace.starts)
    kinds = Counter((int(start / step_s), _kind(status, end - start)) for start, _, end, status in trace.lines)
    series = []
    for step in range(int(seconds / step_s)):
        known = {kind: kinds[step, kind] / step_s for kind in ("in_time", "late", "rejected")}
        series.append({"at_s": step * step_s, **known, "other": offered[step] / step_s - sum(known.values())})
    return series


def _kind(status: int, latency_s: float) -> str:
    if status == 200:
        return "in_time" if latency_s <= TIMEOUT_S else "late"
    return {503: "rejected", 504: "late"}.get(status, "other")
