"""Closed loop: so many connections, each sends again once it is answered. wrk where there is one, else our own.

The generator shares the cores with what it measures, so each result says which it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import Any

import uvloop

from loadtest.bench.http_client import UNANSWERED, Connection, connect, request_bytes
from loadtest.bench.open_loop import percentile

PERCENTILES = (*range(1, 100), 99.9)
SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "{content_type}"
function done(summary, latency, requests)
  io.write(string.format('{{"requests":%d,"seconds":%.4f,"errors":%d,"latency_ms":[', summary.requests,
    summary.duration / 1e6, summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout))
  for share = 1, 99 do io.write(string.format('%.3f,', latency:percentile(share) / 1e3)) end
  io.write(string.format('%.3f]}}\\n', latency:percentile(99.9) / 1e3))
end
"""


def drive(
    port: int,
    body: bytes,
    connections: int,
    seconds: float,
    content_type: str = "application/octet-stream",
    path: str = "/predict",
) -> dict[str, Any]:
    """Return requests, seconds, errors, requests_per_s, p50_ms, p99_ms, latency_ms at PERCENTILES, and what the
    generator itself took of the cores, generator_cpu_s_per_1000."""
    before = _cpu_s()
    if shutil.which("wrk"):
        result = _wrk(port, body, connections, max(1, round(seconds)), content_type, path)
    else:
        request = request_bytes(port, body, content_type=content_type, path=path)
        result = uvloop.run(_own(port, request, connections, seconds))
    if not result["requests"]:  # wrk says 0 ms then
        result["latency_ms"] = [float("inf")] * len(PERCENTILES)
    latency = result["latency_ms"]
    right = result["requests"] - result["errors"]  # an error is no work done, and quickly given
    return {
        "connections": connections,
        "requests_per_s": round(right / result["seconds"], 1),
        "p50_ms": latency[49],
        "p99_ms": latency[98],
        "generator_cpu_s_per_1000": round((_cpu_s() - before) / max(1, result["requests"]) * 1000, 4),
        **result,
    }


def _cpu_s() -> float:
    """Of this process, and of children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def generator() -> str:
    """The name of what `drive` uses."""
    if not shutil.which("wrk"):
        return "loadtest.bench.http_client (Python; takes more of the shared cores than wrk would)"
    said = subprocess.run(["wrk", "--version"], capture_output=True, text=True).stdout  # it exits 1
    return f"{said.partition(' [')[0] or 'wrk'}, -t1"


def _wrk(port: int, body: bytes, connections: int, seconds: int, content_type: str, path: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script, tempfile.NamedTemporaryFile("wb") as content:
        content.write(body)
        content.flush()
        script.write(SCRIPT.format(body=content.name, content_type=content_type))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", script.name]
        command.append(f"http://127.0.0.1:{port}{path}")
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    found = re.search(r"^\{.*\}$", out, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said: {out}")
    return json.loads(found.group())


async def _own(port: int, request: bytes, connections: int, seconds: float) -> dict[str, Any]:
    latencies: list[float] = []
    errors = 0
    started = time.monotonic()

    def answered(connection: Connection, status: int) -> None:
        nonlocal errors
        now = time.monotonic()
        latencies.append(now - connection.mark)
        errors += status != 200
        if now < started + seconds and status != UNANSWERED:
            connection.mark = now
            connection.send(request)

    opened = [await connect(port, answered) for _ in range(connections)]
    started = time.monotonic()
    for connection in opened:
        connection.mark = time.monotonic()
        connection.send(request)
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    done = sorted(latencies)
    for connection in opened:
        connection.close()
    return {
        "requests": len(done),
        "seconds": round(took, 4),
        "errors": errors,
        "latency_ms": [round(percentile(done, share / 100) * 1000, 3) for share in PERCENTILES],
    }
