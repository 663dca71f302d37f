"""Counters of a running system, read off its /metrics."""

from __future__ import annotations

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


def rows_and_batches(system: System, at_least: float = 0.0) -> tuple[float, float]:
    """Rows and batches run until now, once the workers have reported `at_least` so many rows."""
    deadline = time.monotonic() + REPORTED_S
    while True:
        text = system.get("/metrics")
        rows = total(text, "smartbatch_batch_rows_sum")
        if rows >= at_least:
            return rows, total(text, "smartbatch_batch_rows_count")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the workers reported {rows:g} rows, not {at_least:g}")
        time.sleep(0.2)
