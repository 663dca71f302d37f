"""Metrics of several gateway processes, some of which have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from smartbatch.gateway.monitoring.process_metrics import remove_dead_processes
from smartbatch.shared.telemetry.process_usage import CpuTime, resident_bytes

COUNTS = """
from prometheus_client import CollectorRegistry
from smartbatch.shared.telemetry import metric_names as names
registry = CollectorRegistry()
names.CONNECTIONS.gauge(registry).set(5)
names.GATEWAY_CPU.counter(registry).inc(2)
"""
READS = """
from prometheus_client import generate_latest, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def python(code: str, folder: Path) -> str:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True, text=True).stdout


def test_an_ended_process_has_no_connections_and_keeps_its_cpu_time(tmp_path: Path) -> None:
    python(COUNTS, tmp_path)
    python(COUNTS, tmp_path)
    assert "smartbatch_http_connections 10.0" in python(READS, tmp_path)
    remove_dead_processes(str(tmp_path))
    text = python(READS, tmp_path)
    assert "smartbatch_http_connections 10.0" not in text
    assert "smartbatch_gateway_cpu_seconds_total 4.0" in text


def test_cpu_time_and_memory_are_reported() -> None:
    used = CpuTime()
    first = used.delta_s()
    sum(range(200_000))
    assert first > 0 and 0 < used.delta_s() < first + 1
    assert 10_000_000 < resident_bytes() < 100_000_000_000
