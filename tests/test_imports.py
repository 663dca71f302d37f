"""Who may import whom, read from every file; and what those rules are for: a gateway that stays small and quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.brokers import Broker
from tests.system.stack import Stack

ROOT = Path(__file__).parents[1]
OURS = {"gateway", "worker", "shared", "deploy", "loadtest", "simulation"}
HEAVY = {"torch", "torchvision", "numpy", "PIL"}
HTTP = {"starlette", "uvicorn"}
FORBIDDEN = {
    "gateway": {"worker", "deploy", "loadtest", "simulation"} | HEAVY,
    "worker": {"gateway", "deploy", "loadtest", "simulation"} | HTTP,
    "shared": {"gateway", "worker", "deploy", "loadtest", "simulation"} | HEAVY | HTTP,
    "loadtest": OURS - {"loadtest"},
    "deploy": {"loadtest", "simulation"},
    "simulation": {"deploy", "loadtest"} | HEAVY | HTTP,
}
EXCEPT = {  # what the baseline is compared with runs the same model code behind the same formats, or says nothing
    "loadtest/baseline.py": {"deploy", "simulation"},
    "loadtest/gpu.py": {"gateway", "deploy", "simulation"},  # the engine without HTTP
    "loadtest/bench/system.py": {"gateway", "worker", "shared", "simulation"},  # which ports are free, nothing of ours
    "simulation/prices.py": {"loadtest"} | HEAVY | HTTP,  # the embedded broker, whose commands it measures
    "loadtest/bench/floor.py": {"gateway", "simulation"},  # the same scripts, wire and model with nothing around them
}
FILES = [path for package in sorted(FORBIDDEN) for path in sorted((ROOT / package).rglob("*.py"))]

IMPORTED_IN = """
import sys, time
started = time.perf_counter()
import {modules}
print(time.perf_counter() - started)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").partition(".")[0])
    return found


def fresh_import(*modules: str) -> tuple[float, set[str]]:
    """Import in a new interpreter. Returns the seconds it took and every top-level module then loaded."""
    code = IMPORTED_IN.format(modules=", ".join(modules))
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, loaded = answer.stdout.splitlines()
    return float(seconds), set(loaded.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_only_what_its_package_may(path: Path) -> None:
    inside = path.relative_to(ROOT)
    assert imported(path) & EXCEPT.get(str(inside), FORBIDDEN[inside.parts[0]]) == set()


def test_the_rules_cover_every_package_of_the_distribution() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "examples"} == set(FORBIDDEN)


def test_one_file_imports_opentelemetry() -> None:
    assert [path for path in FILES if "opentelemetry" in imported(path)] == [ROOT / "shared/telemetry/spans.py"]


def test_without_tracing_opentelemetry_is_not_loaded() -> None:
    _, loaded = fresh_import(
        "smartbatch.gateway.app", "smartbatch.gateway.grpc.server", "smartbatch.worker.process", "smartbatch.deploy.cli"
    )
    assert "opentelemetry" not in loaded


def test_gateway_loads_no_numeric_library_and_starts_quickly() -> None:
    times = []
    for _ in range(3):
        seconds, loaded = fresh_import("smartbatch.gateway.app")
        assert loaded & (HEAVY | {"worker", "deploy"}) == set()
        times.append(seconds)
    assert min(times) < 0.75  # 0.3 to 0.45 when the machine is quiet


def test_worker_of_the_simulated_model_loads_no_torch_and_no_http_server() -> None:
    _, loaded = fresh_import("smartbatch.worker.process", "smartbatch.worker.models.simulated")
    assert loaded & ({"torch", "torchvision", "gateway", "deploy"} | HTTP) == set()


def test_command_line_loads_a_subcommands_needs_only_when_it_runs() -> None:
    _, loaded = fresh_import("smartbatch.deploy.cli")
    assert loaded & ({"gateway", "worker", "redis"} | HEAVY | HTTP) == set()


def test_gateway_that_served_a_request_is_under_80_megabytes(broker: Broker, tmp_path: Path) -> None:
    system = Stack(broker, tmp_path, MODEL_PATH="simulated")
    try:
        gateway = system.gateway()
        system.worker()
        assert system.ready().predict(b"hello").status_code == 200
        assert psutil.Process(gateway.pid).memory_info().rss < 80_000_000
    finally:
        system.close()
