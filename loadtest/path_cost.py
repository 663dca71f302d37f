"""What the path itself costs: CPU seconds per 1,000 requests over gateway, broker and worker, with a no-op model.

    python -m loadtest.path_cost [--connections 64] [--seconds 10] [--body-bytes 1024]

Starts `smartbatch up` with a model that does nothing, drives it with wrk in a closed loop on loopback, and reads
the CPU time of each process from the operating system (user + system). Needs wrk (Debian: apt-get install wrk).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import psutil

SCRIPT = """
wrk.method = "POST"
wrk.body = string.rep("x", {body_bytes})
wrk.headers["Content-Type"] = "application/octet-stream"
function done(summary, latency, requests)
  io.write(string.format('{{"requests":%d,"seconds":%.3f,"p50_ms":%.3f,"p99_ms":%.3f,"errors":%d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed (Debian: apt-get install wrk)")
    port = _free_port()
    command = ["-m", "deploy.cli", "up", "--port", str(port), "--model", "simulated:base_ms=0,row_ms=0"]
    up = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(url)
        _drive(url, options.connections, 2, options.body_bytes)
        result = _measure(up.pid, url, options)
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(30)
    print(json.dumps(result, indent=2) if options.json else _table(result))


def _measure(pid: int, url: str, options: argparse.Namespace) -> dict:
    processes = {_role(child): child for child in psutil.Process(pid).children(recursive=True)}
    before = {role: _cpu_s(process) for role, process in processes.items()}
    driven = _drive(url, options.connections, options.seconds, options.body_bytes)
    thousands = driven["requests"] / 1000
    cost = {role: round((_cpu_s(process) - before[role]) / thousands, 4) for role, process in processes.items()}
    resident = {role: round(process.memory_info().rss / 1e6, 1) for role, process in processes.items()}
    return {
        **driven,
        "connections": options.connections,
        "requests_per_s": round(driven["requests"] / driven["seconds"]),
        "cpu_s_per_1000": {**cost, "total": round(sum(cost.values()), 4)},
        "resident_mb": resident,
    }


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((role for role in ("gateway", "worker") if line.endswith(f" {role}")), "broker")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _drive(url: str, connections: int, seconds: int, body_bytes: int) -> dict:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.format(body_bytes=body_bytes))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, f"{url}/predict"]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    found = re.search(r"^\{.*\}$", out, re.MULTILINE)
    if found is None:
        sys.exit(f"wrk said: {out}")
    return json.loads(found.group())


def _table(result: dict) -> str:
    cost, resident = result["cpu_s_per_1000"], result["resident_mb"]
    lines = [
        f"{result['connections']} connections: {result['requests_per_s']} req/s, p50 {result['p50_ms']} ms, "
        f"p99 {result['p99_ms']} ms, {result['errors']} errors",
        "process    CPU s per 1,000    resident MB",
    ]
    lines += [f"{role:<10} {seconds:<18} {resident.get(role, '')}" for role, seconds in cost.items()]
    return "\n".join(lines)


def _until_ready(url: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} was not ready within {timeout_s:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
