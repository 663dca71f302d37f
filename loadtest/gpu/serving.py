"""The whole server over HTTP: throughput and latency, the baseline, two workers on one device, overload, and a kill."""

from __future__ import annotations

import os
import threading
import time
from io import BytesIO
from typing import Any, Literal

import numpy as np

from loadtest.bench import run as bench
from loadtest.bench.rows.photos import photo
from loadtest.bench.run import Run
from loadtest.generator.connection import request_bytes
from loadtest.generator.loops import poisson
from loadtest.generator.run import run_open_loop
from loadtest.generator.trace import percentile
from loadtest.system import System, free_port, http_get, metric_total, reference_server, smartbatch

CONNECTIONS, QUICK_CONNECTIONS = 512, 16
OPEN_SHARE = 0.8  # of the rate in the closed loop
OVERLOAD = 2.0
TIMEOUT_S = 0.5
PEERS = {"litserve": "/health", "mosec": "/"}  # by name: the path that answers once the model is loaded
BUSY = "smartbatch_device_busy_seconds_total"

Input = Literal["tensor", "jpeg"]


def body_of(kind: Input) -> dict[str, Any]:
    """Return one request: pixels that are decoded already, as uint8 in npy, or the photo as JPEG."""
    if kind == "jpeg":
        return {"body": photo(), "content_type": "image/jpeg"}
    out = BytesIO()
    np.save(out, np.random.default_rng(1).integers(0, 256, (1, 3, 224, 224), np.uint8))
    return {"body": out.getvalue(), "content_type": "application/x-npy"}


def closed_and_open(kind: Input, model: str, gateways: int, settings: dict[str, Any], run: Run) -> dict[str, Any]:
    """Measure the rate in a closed loop, and p50 and p99 in an open loop at OPEN_SHARE of it."""
    port = free_port()
    with smartbatch(model, GATEWAY_PROCESSES=gateways, METRICS_PORT=port, **settings) as system:
        request = body_of(kind)
        _closed_loop(system, run, 2, **request)
        busy, started = _busy_s(port), time.monotonic()
        result = _closed_loop(system, run, 8, **request)
        idle = 1 - (_busy_s(port) - busy) / (time.monotonic() - started)
        result["device_idle"] = round(max(0.0, idle), 4)  # a batch begun before counts when it ends
        result["bottleneck"] = bottleneck(result)
        rate = OPEN_SHARE * result["requests_per_s"]
        result["open"] = _open_loop(system, request, rate, run.seconds(6), TIMEOUT_S * 10)
    run.log(
        f"{model}, {kind}, {gateways} gateway processes: {result['requests_per_s']:,.0f}/s, "
        f"p99 {result['open']['p99_ms']:.1f} ms at {OPEN_SHARE:.0%}, {result['bottleneck']}"
    )
    return result


def bottleneck(result: dict[str, Any]) -> str:
    """Name what is full: the device, all cores, or the process with the most CPU time."""
    if result["device_idle"] < 0.05:
        return "the device is full"
    cores = {role: cost * result["requests_per_s"] / 1000 for role, cost in result["cpu_s_per_1000"].items()}
    if sum(cores.values()) > 0.85 * (os.cpu_count() or 1):
        return "all cores are full"
    role = max(cores, key=lambda name: cores[name])
    return f"{role}: {cores[role]:.1f} cores"


def baseline(kind: Input, model: str, settings: dict[str, Any], run: Run) -> dict[str, Any]:
    """Measure a plain Starlette server with the same model code, one request at a time."""
    with reference_server("baseline", MODEL_PATH=model, **settings) as system:
        return _closed_loop(system, run, 5, connections=64, **body_of(kind))


def peer(name: str, model: str, settings: dict[str, Any], run: Run) -> dict[str, Any]:
    """Measure another server of Python models with the same model code: decoded pixels, as for `closed_and_open`."""
    server = reference_server(f"{name}_server", MODEL_PATH=model, **settings)
    server.ready_path = PEERS[name]
    with server as system:
        request = body_of("tensor")
        _closed_loop(system, run, 2, **request)
        return _closed_loop(system, run, 8, **request)


def two_workers(kind: Input, model: str, settings: dict[str, Any], run: Run) -> dict[str, Any]:
    """Measure two workers on the one device, twice their capacity, and the kill of one of them."""
    request = body_of(kind)
    with smartbatch(model, 2, **settings) as system:
        _closed_loop(system, run, 2, **request)
        result = _closed_loop(system, run, 5, **request)
        rate = result["requests_per_s"]
        result["overload"] = _open_loop(system, request, OVERLOAD * rate, run.seconds(5), TIMEOUT_S)
        result["kill"] = _kill(system, request, 0.3 * rate, run.seconds(5))
    return result


def _kill(system: System, request: dict[str, Any], rate: float, seconds: float) -> dict[str, Any]:
    """Kill a worker in the middle of an open loop. No request may fail."""
    victim = system.processes()["worker"][0]
    timer = threading.Timer(seconds / 3, victim.kill)
    timer.start()
    try:
        return _open_loop(system, request, rate, seconds, 30.0)
    finally:
        timer.cancel()


def _closed_loop(
    system: System, run: Run, seconds: float, connections: int = CONNECTIONS, **request: Any
) -> dict[str, Any]:
    connections = QUICK_CONNECTIONS if run.quick else connections
    result = bench.measure(system, connections=connections, seconds=run.seconds(seconds), **request)
    return {name: value for name, value in result.items() if name != "latency_ms"}  # one per request


def _open_loop(
    system: System, request: dict[str, Any], rate: float, seconds: float, timeout_s: float
) -> dict[str, Any]:
    headers = {"content_type": request["content_type"], "x_request_timeout": f"{timeout_s:g}"}
    sent = request_bytes(system.port, request["body"], **headers)
    trace = run_open_loop(system.port, sent, list(poisson(rate, seconds)), 2048)
    answered = trace.latencies(200)
    return {
        "offered_per_s": round(rate, 1),
        "answered_per_s": round(len(answered) / seconds, 1),
        "statuses": trace.statuses(),
        "p50_ms": round(1000 * percentile(answered, 0.5), 2),
        "p99_ms": round(1000 * percentile(answered, 0.99), 2),
        "generator_late_p99_ms": round(1000 * percentile(trace.lateness(), 0.99), 2),
    }


def _busy_s(port: int) -> float:
    return metric_total(http_get(f"http://127.0.0.1:{port}/metrics"), BUSY)
