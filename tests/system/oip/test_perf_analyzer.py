"""Triton's perf_analyzer, where its binary starts: it needs libraries that not every machine has."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.system.stack import Process, Stack

# Long enough for statistics, which are a second old, and satisfied with any three measurements: it is no benchmark.
QUICK = [
    "--concurrency-range",
    "2",
    "--measurement-interval",
    "2000",
    "--max-trials",
    "3",
    "--stability-percentage",
    "999",
]


@pytest.fixture(scope="module")
def perf_analyzer() -> str:
    found = shutil.which("perf_analyzer")
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip("no perf_analyzer that starts on PATH (pip install perf-analyzer, glibc 2.38)")
    return found


@pytest.mark.extended
@pytest.mark.parametrize("model", ["arithmetic", "efficientnet_lite0", "simulated"])
def test_perf_analyzer_measures_over_http(perf_analyzer: str, system: Stack, model: str) -> None:
    address = system.url.removeprefix("http://")
    _measure(perf_analyzer, "-m", model, "-u", address, "--string-length", "20")


@pytest.mark.extended
def test_perf_analyzer_measures_over_grpc(perf_analyzer: str, grpc_gateway: Process) -> None:
    _measure(perf_analyzer, "-m", "arithmetic", "-i", "grpc", "-u", grpc_gateway.url)


def _measure(perf_analyzer: str, *options: str) -> None:
    command = [perf_analyzer, *options, "--input-data", "zero", *QUICK]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Successful request count: 0" not in run.stdout
    assert "Concurrency: 2, throughput: " in run.stdout
