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

from loadtest.bench.run import Run
from loadtest.gpu.__main__ import Step, measure, table
from loadtest.gpu.engine import IN_FLIGHT, WARM_FORWARDS, bare, engine, repeat
from loadtest.gpu.timeline import shares
from loadtest.workload import text_model
from loadtest.workload.texts import docstrings
from smartbatch.shared.wire import Payload
from smartbatch.worker.models import LoadContext, resolve

ROOT = Path(__file__).parents[2]


def test_engine_and_timeline_are_measured_on_any_device(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--dtype", "float32", "--models", "squeezenet1_1", "--sizes", "1,2", "--quick"]
    command = [
        sys.executable,
        "-m",
        "loadtest.gpu",
        *options,
        "--only",
        "engine,timeline,jpegs",
        "--out",
        str(tmp_path),
    ]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's threads wait for each other on a busy machine
    ended = subprocess.run(
        command, cwd=ROOT, env=one_thread, check=True, timeout=110, stdout=subprocess.PIPE, text=True
    )
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert (result["device"], result["left_out"]) == ("cpu", [])
    assert list(result["steps"]) == ["engine: squeezenet1_1, float32", "timeline", "jpegs"]
    found, profiled, jpegs = (step["result"] for step in result["steps"].values())
    assert found["variant"]
    assert set(found["sizes"]) == {"1", "2"}
    measured = [(int(size), each[way]) for size, each in found["sizes"].items() for way in ("bare", "engine")]
    for size, rate in [*measured, *((1, rate) for rate in jpegs.values())]:
        assert rate["items"] > 0 and rate["items"] % size == 0
        assert rate["seconds"] >= 1.0  # a quick run's second, plus the batches in progress at its end
        assert rate["per_s"] == pytest.approx(rate["items"] / rate["seconds"], rel=0.01, abs=0.1)
    assert profiled == {}  # a CPU has no kernels
    assert "aten::conv2d" in (tmp_path / "timeline.txt").read_text()
    assert f"| engine: squeezenet1_1, float32, 2 rows | {found['sizes']['2']['engine']['per_s']:,.0f}/s" in ended.stdout


@pytest.mark.extended
@pytest.mark.timeout(900)
def test_the_whole_server_and_its_peers_are_measured_on_any_device(tmp_path: Path) -> None:
    only = "serving,two workers,own class,texts,baseline,peer"
    options = ["--device", "cpu", "--dtype", "float32", "--models", "squeezenet1_1", "--sizes", "1,4", "--only", only]
    command = [sys.executable, "-m", "loadtest.gpu", *options, "--quick", "--budget", "850", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=880, env={**os.environ, "OMP_NUM_THREADS": "1"})
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert not [step for step in steps.values() if "error" in step["result"]]
    serving = steps["serving: tensor, 1 gateway processes"]["result"]
    assert serving["requests_per_s"] > 0 and serving["open"]["p99_ms"] > 0 and 0 <= serving["device_idle"] <= 1
    assert set(steps["two workers: overload and a kill"]["result"]["kill"]["statuses"]) == {"200"}
    assert set(steps["own class"]["result"]["images"]) == set(steps["texts"]["result"]["sizes"]) == {"1", "4"}
    for name in ("baseline", "peer: litserve", "peer: mosec"):
        assert steps[name]["result"]["requests_per_s"] > 0 and not steps[name]["result"]["errors"], name


def test_without_its_package_a_text_model_of_the_same_shape_is_measured(tmp_path: Path) -> None:
    text_model.make(tmp_path)
    model = resolve(f"hf:{tmp_path}")
    model.load(LoadContext("cpu", torch_threads=1))
    short, long = model.decode(Payload("text", ["a list", docstrings()[0]]))
    assert model.size(short) == 4  # [CLS] a list [SEP]
    assert 4 < model.size(long) <= 256
    (row, _) = model.separate(model.forward(model.collate([short, long])), 2)
    assert row.values.shape == (384,)


def test_steps_without_time_are_left_out_and_one_that_fails_ends_no_other(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    written: list[int] = []

    def fails() -> None:
        raise RuntimeError("no such kernel")

    def reads() -> dict[str, float]:
        written.append(len(json.loads(file.read_text())["steps"]))
        return {"rate": 7.5}

    steps = [Step("broken", 1, fails), Step("long", 100, fails), Step("good", 1, reads)]
    document = measure(steps, 10, {"device": "cpu", "torch": "2", "cores": 2}, file, Run(quick=True))
    assert document == json.loads(file.read_text())
    assert written == [1]  # what the first step had to say was there before the last one began
    assert document["left_out"] == ["long"]
    assert document["steps"]["broken"]["result"] == {"error": "RuntimeError: no such kernel"}
    assert table(document).splitlines()[4:] == [
        "| broken | RuntimeError: no such kernel |",
        '| good | {"rate": 7.5} |',
        "| long | left out |",
    ]


def test_a_timeline_knows_when_the_device_was_busy_and_which_copies_it_hid() -> None:
    kernels = [(0.0, 10.0), (8.0, 20.0), (25.0, 40.0)]
    assert shares(kernels, [(15.0, 20.0), (20.0, 25.0)]) == {
        "device_busy": 0.875,
        "copies_hidden": 0.5,
        "longest_gap_us": 5.0,
    }
    assert shares(kernels, [])["copies_hidden"] is None
    assert shares([], []) == {}


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
    rate = engine(model, [[model.example()] * 4], 0.25)
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
