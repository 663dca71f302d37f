"""Overload: twice and five times what the device can do, open loop. What is taken must be in time, the rest refused."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from loadtest.bench.closed_loop import drive
from loadtest.bench.figures import Figure, Outcome, Run
from loadtest.bench.http_client import request_bytes
from loadtest.bench.open_loop import Trace, offer, percentile, poisson
from loadtest.bench.rows.steady import BODY, CAPACITY, MODEL
from loadtest.bench.system import smartbatch

TIMES = (2, 5)
SLOWDOWN = 4  # where generator and servers share few cores, S offered five times is more than they can send and refuse
SLOWER = f"simulated:base_ms={4 * SLOWDOWN:g},row_ms={0.2 * SLOWDOWN:g}"
SHARE = 0.95
LIMIT_S = 0.5
CONNECTIONS = 2048  # more than can be open at the server within LIMIT_S, so that no request waits for one
RAMP_S = 1.0  # queues fill and the gateway learns the rate; shown in the plot, not counted
FULL = "simulated:base_ms=40,row_ms=1"  # whose queue of MAX_QUEUE requests is always full
MAX_QUEUE = 8
ADMITTED = (200, 504)  # 504: taken, and not answered in time


def measure(run: Run) -> Outcome:
    figures, details = _offered(run, MODEL, CAPACITY, "")
    slower, details["slower"] = _offered(run, SLOWER, CAPACITY / SLOWDOWN, f"{SLOWDOWN} times slower, ")
    refusal, details["refusal"] = _refused(run)
    return Outcome([*figures, *slower, refusal], {"limit_s": LIMIT_S, "ramp_s": RAMP_S, **details})


def _refused(run: Run) -> tuple[Figure, dict[str, Any]]:
    """What a refusal costs: a closed loop against a queue that is always full."""
    with smartbatch(FULL, MAX_QUEUE=MAX_QUEUE) as system:
        drive(system.port, BODY, 64, 1)  # it fills
        run.say("overload: a full queue, 64 connections, closed loop")
        before = system.cpu_s()
        result = drive(system.port, BODY, 64, run.seconds(5))
        cpu_s = {role: spent - before.get(role, 0.0) for role, spent in system.cpu_s().items()}
    thousands = max(1, result["requests"]) / 1000  # nearly all of them are refused
    cost = {role: round(spent / thousands, 4) for role, spent in cpu_s.items()}
    details = {**result, "cpu_s_per_1000": cost}
    return Figure("a full queue, gateway's CPU per 1,000 requests", cost["gateway"], "s"), details


def _offered(run: Run, model: str, capacity: float, name: str) -> tuple[list[Figure], dict[str, Any]]:
    """Offer a device more than it can do, each of TIMES. `capacity`: rows a second."""
    details: dict[str, Any] = {"capacity": round(capacity, 1)}
    figures: list[Figure] = []
    with smartbatch(model) as system:
        request = request_bytes(
            system.port, BODY, content_type="application/octet-stream", x_request_timeout=f"{LIMIT_S:g}"
        )
        offer(system.port, request, poisson(capacity / 2, 1.0))  # warm
        for times in TIMES:
            seconds = run.seconds(10)
            run.say(f"overload: {name}{times} times capacity, {RAMP_S + seconds:g} s, open loop")
            starts = poisson(times * capacity, RAMP_S + seconds)
            before, own = system.cpu_s(), time.process_time()
            trace = offer(system.port, request, starts, CONNECTIONS)
            spent = sum(system.cpu_s().values()) - sum(before.values())
            details[str(times)] = {
                "generator_cpu_s": round(time.process_time() - own, 2),
                **_details(trace, seconds),
                "cpu_s_per_1000_offered": round(spent * 1000 / len(starts), 4),
            }
            figures += _figures(f"{name}{times} × capacity", capacity, trace.since(RAMP_S), seconds)
    return figures, details


def _figures(at: str, capacity: float, trace: Trace, seconds: float) -> list[Figure]:
    in_time = sum(latency <= LIMIT_S for latency in trace.latencies(200))
    p99_ms = percentile(trace.latencies(*ADMITTED), 0.99) * 1000
    late_ms = percentile(trace.lateness(), 0.99) * 1000
    return [
        Figure(f"{at}, goodput", round(in_time / seconds, 1), "req/s", round(SHARE * capacity, 1)),
        Figure(f"{at}, p99 of the admitted", round(p99_ms, 1), "ms", LIMIT_S * 1000, "at most"),
        Figure(f"{at}, generator's lateness p99", round(late_ms, 1), "ms"),
    ]


def _details(trace: Trace, seconds: float) -> dict[str, Any]:
    counted = trace.since(RAMP_S)
    admitted, refused = counted.latencies(*ADMITTED), counted.latencies(503)
    shares = (0.5, 0.9, 0.99, 0.999)
    return {
        "seconds": seconds,
        "offered": counted.offered,
        "statuses": counted.statuses(),
        "admitted_ms": {f"p{share * 100:g}": round(percentile(admitted, share) * 1000, 1) for share in shares},
        "refused_ms": {f"p{share * 100:g}": round(percentile(refused, share) * 1000, 1) for share in shares}
        if refused
        else {},
        "over_time": _over_time(trace, RAMP_S + seconds),
    }


def _over_time(trace: Trace, seconds: float, step_s: float = 0.25) -> list[dict[str, float]]:
    """By intended start, each quarter of a second: how many of those offered were in time, late, refused, and other
    (broken, or never answered), a second."""
    offered = Counter(int(start / step_s) for start in trace.starts)
    kinds = Counter((int(start / step_s), _kind(status, done - start)) for start, _, done, status in trace.lines)
    series = []
    for step in range(int(seconds / step_s)):
        known = {kind: kinds[step, kind] / step_s for kind in ("in_time", "late", "refused")}
        series.append({"at_s": step * step_s, **known, "other": offered[step] / step_s - sum(known.values())})
    return series


def _kind(status: int, latency: float) -> str:
    if status == 200:
        return "in_time" if latency <= LIMIT_S else "late"
    return {503: "refused", 504: "late"}.get(status, "other")
