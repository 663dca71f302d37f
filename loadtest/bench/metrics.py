"""Counters of a running system, read off /stats and a process's /metrics."""

from __future__ import annotations

import json
import time
import urllib.request

from loadtest.bench.system import System

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
REPORTED_S = 10.0  # workers report with their beat


def total(text: str, name: str) -> float:
    """The sum of a metric over its samples."""
    lines = text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def read(url: str) -> str:
    with _DIRECT.open(f"{url}/metrics", timeout=10) as response:
        return response.read().decode()


def workers_ran(system: System) -> tuple[float, float, float]:
    """Rows and batches that the live workers have run until now, and entries that wait."""
    models = json.loads(system.get("/stats"))["models"].values()
    workers = [worker for model in models for worker in model["workers"].values()]
    rows, batches = (sum(worker[name] for worker in workers) for name in ("rows", "batches"))
    return rows, batches, sum(model["queue"]["waiting"] for model in models)


def rows_and_batches(system: System, at_least: float = 0.0) -> tuple[float, float]:
    """Rows and batches run until now, once the workers have reported `at_least` so many rows."""
    deadline = time.monotonic() + REPORTED_S
    while True:
        rows, batches, _ = workers_ran(system)
        if rows >= at_least:
            return rows, batches
        if time.monotonic() > deadline:
            raise RuntimeError(f"the workers reported {rows:g} rows, not {at_least:g}")
        time.sleep(0.2)
