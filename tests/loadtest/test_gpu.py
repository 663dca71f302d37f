"""python -m loadtest.gpu on the CPU: its counts are exact at any speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from loadtest.gpu import IN_FLIGHT, WARM_FORWARDS, bare, engine, repeat
from smartbatch.worker.models import resolve

ROOT = Path(__file__).parents[2]


def test_bare_and_engine_are_measured_on_any_device(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--dtype", "float32", "--models", "squeezenet1_1", "--sizes", "1,2"]
    command = [sys.executable, "-m", "loadtest.gpu", *options, "--quick", "--no-http", "--out", str(tmp_path)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's threads wait for each other on a busy machine
    subprocess.run(command, cwd=ROOT, env=one_thread, check=True, timeout=110)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["device"] == "cpu"
    found = result["models"]["squeezenet1_1"]
    assert found["variant"]
    assert set(found["images"]) == {"1", "2"}
    measured = [(int(size), rate) for size, rates in found["images"].items() for rate in rates.values()]
    assert len(measured) == 4
    for size, rate in [*measured, *((1, rate) for rate in result["jpegs"].values())]:
        assert rate["items"] > 0 and rate["items"] % size == 0
        assert rate["seconds"] >= 1.0  # a quick run's second, plus the batches in progress at its end
        assert rate["per_s"] == pytest.approx(rate["items"] / rate["seconds"], rel=0.01, abs=0.1)


def test_bare_counts_every_image_of_every_forward() -> None:
    forwards: Counter[int] = Counter()

    class Counting(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            forwards[len(batch)] += 1
            return batch

    rate = bare(Counting(), torch.device("cpu"), "float32", 3, 0.05)
    assert set(forwards) == {3}
    assert rate.items == 3 * (forwards[3] - WARM_FORWARDS) > 0
    assert rate.seconds >= 0.05


def test_the_engine_counts_the_batches_that_ran_and_is_no_faster_than_its_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = resolve("simulated:base_ms=5,row_ms=0")
    forward, sizes = model.forward, []
    monkeypatch.setattr(model, "forward", lambda batch: (sizes.append(len(batch)), forward(batch))[1])
    rate = engine(model, 4, 0.25)
    assert set(sizes) == {4}
    assert 0 < rate.items <= 4 * len(sizes) and rate.items % 4 == 0
    assert rate.seconds >= 0.25
    assert rate.items <= 4 * (rate.seconds / 0.005 + IN_FLIGHT)  # some may have run before the measurement


def test_a_repeated_step_is_counted_until_the_time_is_over() -> None:
    calls: list[float] = []

    def step() -> int:
        calls.append(time.perf_counter())
        return 5

    rate = repeat(step, 0.02)
    assert rate.items == 5 * len(calls) > 0
    assert rate.seconds >= max(0.02, calls[-1] - calls[0])
    assert rate.per_s == rate.items / rate.seconds
