"""Import rules, read from every file, and their purpose: a gateway that is small and starts quickly."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.brokers import Broker
from tests.system.stack import Stack

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "numpy", "PIL"}
HTTP = {"starlette", "uvicorn"}
# Top-level names that the files of a folder never import. `smartbatch.X` counts as X.
FORBIDDEN = {
    "gateway": {"worker", "deploy", "loadtest", "simulation", "redis"} | HEAVY,
    "worker": {"gateway", "deploy", "loadtest", "simulation", "redis"} | HTTP,
    "shared": {"gateway", "worker", "deploy", "loadtest", "simulation", "redis"} | HEAVY | HTTP,
    "deploy": {"loadtest", "simulation", "redis"},
    "loadtest": {"gateway", "worker", "shared", "deploy", "simulation"},
    "simulation": {"deploy", "loadtest", "redis"} | HEAVY | HTTP,
}
EXCEPT = {
    "loadtest/servers/same_model.py": {"deploy", "simulation"},  # runs the same model code behind the same formats
    "loadtest/servers/baseline.py": {"worker", "deploy", "simulation"},  # reads the settings, writes the same errors
    "loadtest/servers/litserve_server.py": {"gateway", "worker", "deploy", "simulation"},  # reads the settings
    "loadtest/servers/mosec_server.py": {"gateway", "worker", "deploy", "simulation"},  # the same
    "loadtest/gpu/engine.py": {"gateway", "deploy", "simulation"},  # measures the engine without HTTP
    "loadtest/gpu/timeline.py": {"gateway", "deploy", "simulation"},  # the same
    "loadtest/gpu/__main__.py": {"gateway", "deploy", "simulation"},  # opens the device
    "loadtest/device_sharing.py": {"gateway", "deploy", "simulation"},  # the same
    "loadtest/system.py": {"gateway", "worker", "shared", "simulation"},  # uses free_port of deploy
    "simulation/cost_benchmark.py": {"loadtest"} | HEAVY | HTTP,  # starts the embedded broker of deploy
}
# Within a package, from the top down: a file imports from its own layer and from those below it, never from above.
# "." is the files of the folder itself. Imports for type checking count.
LAYERS = {
    "gateway": (
        ".",
        "web",
        "grpc",
        "http",
        "openai",
        "oip",
        "inference",
        "routing",
        "monitoring",
        "queue",
        "auth",
        "formats",
        "core",
    ),
    "worker": (".", "batching", "queue", "execution", "models", "optimization", "images", "observability", "core"),
    "shared": ("broker", "telemetry", "process", "."),
    "shared/broker": ("admin", "queue", "connection", "."),
}
FILES = [path for package in sorted(FORBIDDEN) for path in sorted((ROOT / package).rglob("*.py"))]

IMPORTED_IN = """
import sys, time
started = time.process_time()
import {modules}
print(time.process_time() - started)
print(*sorted({{name.removeprefix("smartbatch.").partition(".")[0] for name in sys.modules}}))
"""


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, those inside functions and for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_names(path: Path) -> set[str]:
    return {module.removeprefix("smartbatch.").partition(".")[0] for module in imported(path)}


def fresh_import(*modules: str) -> tuple[float, set[str]]:
    """Import in a new interpreter. Return the CPU seconds and every top-level name that was loaded."""
    code = IMPORTED_IN.format(modules=", ".join(modules))
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, loaded = ended.stdout.splitlines()
    return float(seconds), set(loaded.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_only_what_its_package_may(path: Path) -> None:
    inside = path.relative_to(ROOT)
    assert top_names(path) & EXCEPT.get(str(inside), FORBIDDEN[inside.parts[0]]) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_installed_packages_are_imported_by_their_installed_names(path: Path) -> None:
    assert {module for module in imported(path) if module.partition(".")[0] in LAYERS | {"deploy": ()}} == set()


@pytest.mark.parametrize("package", LAYERS)
def test_imports_point_downwards(package: str) -> None:
    layers = LAYERS[package]
    upward = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for module in imported(path):
            inside = Path(*module.removeprefix("smartbatch.").split("."))
            if inside.is_relative_to(package):
                of = layer(path.relative_to(ROOT / package), layers)
                target = layer(inside.relative_to(package) / "module", layers)
                if layers.index(target) < layers.index(of):
                    upward.append(f"{path.relative_to(ROOT)} imports {module}")
    assert upward == []


def layer(inside: Path, layers: Sequence[str]) -> str:
    """Return the layer of a path inside its package: its first folder, or "." for the files of the package itself."""
    return inside.parts[0] if inside.parts[0] in layers else "."


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_has_its_layer(package: str) -> None:
    folders = {path.parent.name for path in (ROOT / package).glob("*/*.py")}
    assert folders == set(LAYERS[package]) - {"."}


def test_the_rules_cover_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "examples", "smartbatch"} == set(FORBIDDEN)


def test_one_file_imports_opentelemetry() -> None:
    assert [path for path in FILES if "opentelemetry" in top_names(path)] == [ROOT / "shared/telemetry/spans.py"]


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
    assert min(times) < 0.75  # 0.25 s of CPU time


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
