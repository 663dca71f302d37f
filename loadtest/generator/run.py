"""Run a closed loop with wrk if it is installed, else with ClosedLoop; and an open loop.

wrk takes a fraction of the CPU time, and the servers share the cores. So each result names the generator.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from typing import Any

from loadtest.generator.connection import request_bytes
from loadtest.generator.split import Part, run_split
from loadtest.generator.trace import Trace, percentile

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


def run_closed_loop(
    port: int,
    body: bytes,
    connections: int,
    seconds: float,
    content_type: str = "application/octet-stream",
    path: str = "/predict",
) -> dict[str, Any]:
    """Return requests, seconds, errors, requests_per_s, p50_ms, p99_ms, latency_ms at PERCENTILES, and the CPU time of
    the generator, generator_cpu_s_per_1000."""
    before = _cpu_s()
    generate = _run_wrk if shutil.which("wrk") else _run_python
    result = generate(port, body, connections, seconds, content_type, path)
    if not result["requests"]:  # wrk would report 0 ms
        result["latency_ms"] = [float("inf")] * len(PERCENTILES)
    latency = result["latency_ms"]
    successes = result["requests"] - result["errors"]  # errors cost little, so they do not count as throughput
    return {
        "connections": connections,
        "requests_per_s": round(successes / result["seconds"], 1),
        "p50_ms": latency[49],
        "p99_ms": latency[98],
        "generator_cpu_s_per_1000": round((_cpu_s() - before) / max(1, result["requests"]) * 1000, 4),
        **result,
    }


def generator_name() -> str:
    """Name the generator that `run_closed_loop` uses."""
    if not shutil.which("wrk"):
        return "loadtest.generator (Python; takes more of the shared cores than wrk would)"
    version = subprocess.run(["wrk", "--version"], capture_output=True, text=True).stdout  # it exits 1
    return f"{version.partition(' [')[0] or 'wrk'}, -t1"


def _cpu_s() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _run_wrk(port: int, body: bytes, connections: int, seconds: float, content_type: str, path: str) -> dict[str, Any]:
    duration_s = max(1, round(seconds))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script, tempfile.NamedTemporaryFile("wb") as content:
        content.write(body)
        content.flush()
        script.write(SCRIPT.format(body=content.name, content_type=content_type))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "30s", "-s", script.name]
        command.append(f"http://127.0.0.1:{port}{path}")
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=duration_s + 60).stdout
    found = re.search(r"^\{.*\}$", out, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk printed no result: {out}")
    return json.loads(found.group())


def _run_python(
    port: int, body: bytes, connections: int, seconds: float, content_type: str, path: str
) -> dict[str, Any]:
    request = request_bytes(port, body, path, content_type=content_type)
    trace = Trace(lines=run_split(Part(port, request, connections, None, seconds)))
    latencies = trace.latencies()
    return {
        "requests": len(latencies),
        "seconds": round(max([seconds, *(end for *_, end, _ in trace.lines)]), 4),
        "errors": sum(status != 200 for *_, status in trace.lines),
        "latency_ms": [round(percentile(latencies, share / 100) * 1000, 3) for share in PERCENTILES],
    }


def run_open_loop(port: int, request: bytes, starts: list[float], connections: int = 1024) -> Trace:
    """Send a request at each of the ascending `starts`. Return at most LAST_RESPONSES_S after the last one."""
    return Trace(starts, run_split(Part(port, request, connections, starts, 0.0)))
