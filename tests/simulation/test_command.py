"""The command line of `python -m simulation`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("curve", ["4,0.2", "1:4.2,32:10.4"])
def test_run_prints_a_table(curve: str) -> None:
    ran = simulation("run", "--pattern", "closed", "--clients", "64", "--seconds", "0.5", "--curve", curve)
    assert ran.returncode == 0
    header, _, row, rest = ran.stdout.splitlines()
    assert header.startswith("| system | goodput /s | mean batch |")
    assert row.split("|")[1:4:2] == [" 1 workers ", " 32.0 "]
    assert "closed: {'full': " in rest


def test_a_curve_of_one_point_is_rejected_in_one_line() -> None:
    ran = simulation("run", "--curve", "1:5")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].endswith("argument --curve: invalid _curve value: '1:5'")
