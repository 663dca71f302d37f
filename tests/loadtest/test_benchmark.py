"""The benchmark: a short run with real servers that is interrupted and resumed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from loadtest.benchmark import report
from loadtest.benchmark.plan import Phase, Plan
from loadtest.benchmark.summary import compare, phase_result
from loadtest.generator.process import Load
from loadtest.served_model import ServedModel
from tests.brokers import eventually

ROOT = Path(__file__).parents[2]
PLOTS = ("throughput", "latency_p50", "latency_p95", "latency_p99", "batch_size", "queue_depth")
COMMAND = [
    *(sys.executable, "loadtest/production_benchmark.py", "--model", "simulated:base_ms=4,row_ms=0.2"),
    *("--users", "16", "--rate", "60", "--duration", "2s", "--warmup", "1s"),
]


def second(ok: int, *, bucket: int = 400, in_flight: int = 0, **more) -> tuple[str, dict]:
    nothing = {"rejected": 0, "errors": {}, "checked": 0, "wrong": 0, "late": {}}
    return "second", {"sent": ok, "ok": ok, "latency": {str(bucket): ok}, "in_flight": in_flight, **nothing, **more}


def test_a_phase_is_summed_over_its_pieces() -> None:
    piece = ("piece", {"references": {}})
    events = [
        *(piece, ("begin", {"in_flight": 3}), second(10, in_flight=5, rows=10, batches=2), second(10, in_flight=4)),
        *(piece, ("begin", {"in_flight": 2}), second(20, in_flight=1, rows=30, batches=8)),
        ("end", {"unfinished": {}, "cpu_s": 0.5, "others_cpu_s": 0.3, "elapsed_s": 1.0}),
    ]
    result = phase_result(Phase("smartbatch", Load("closed", 5)), events)
    assert (result["seconds"], result["pieces"], result["ok"]) == (3, 2, 40)
    assert (result["in_flight_at_begin"], result["in_flight_at_end"]) == (5, 5)
    assert result["throughput_rps"] == pytest.approx(40 / 3, abs=0.01)
    assert result["mean_batch_rows"] == 4.0
    assert result["others_cores"] == 0.3
    assert result["p50_ms"] == pytest.approx(54.9, rel=0.01)  # e**4


def test_requests_without_a_response_count_with_the_time_they_waited_in_an_open_loop() -> None:
    end = ("end", {"unfinished": {"900": 30}, "elapsed_s": 1.0})
    events = [("piece", {"references": {}}), ("begin", {"in_flight": 0}), second(10), end]
    opened = phase_result(Phase("baseline", Load("open", 40)), events)
    closed = phase_result(Phase("baseline", Load("closed", 40)), events)
    assert opened["p50_ms"] > 8000 > closed["p50_ms"]
    assert opened["unfinished"] == 30


def test_improvement_is_how_many_times_better() -> None:
    sides = {"load": {"kind": "closed", "amount": 1}, "p50_ms": 100.0, "p95_ms": 200.0, "p99_ms": None}
    gains = compare({**sides, "throughput_rps": 10.0}, {**sides, "throughput_rps": 33.0, "p50_ms": 20.0})
    assert gains == {"load": sides["load"], "throughput": 3.3, "p50": 5.0, "p95": 1.0, "p99": None}


def test_load_by_other_processes_is_reported() -> None:
    quiet, busy = {"others_cores": 0.1}, {"others_cores": 0.9}
    assert report.disturbance({"phases": [quiet, {"others_cores": None}], "machine": {"cores": 2}}) == ""
    assert "up to 0.9 of 2 cores" in report.disturbance({"phases": [quiet, busy], "machine": {"cores": 2}})


def test_the_open_loops_rate_is_a_share_of_the_closed_loops_throughput() -> None:
    plan = Plan(ServedModel("m", "default", 1, {}), "auto", (), (200,), ("auto", 7.0), 60, 1)
    assert [str(phase.load) for phase in plan.open(2518.0)] == ["2,000 req/s"] * 2 + ["7 req/s"] * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Interrupt a run in its first phase, then resume it with the same command."""
    folder = tmp_path_factory.mktemp("production")
    command = [*COMMAND, "--out", str(folder)]
    first = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    phase = folder / "phases" / "closed-16-baseline.jsonl"
    eventually(lambda: phase.exists() and '"second"' in phase.read_text(), 60)
    started = psutil.Process(first.pid).children(recursive=True)
    assert started
    first.send_signal(signal.SIGINT)
    assert "the same command resumes" in first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert not [process for process in started if process.is_running() and process.status() != "zombie"]
    ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


@pytest.mark.extended
def test_a_short_runs_result_adds_up(run: tuple[Path, str]) -> None:
    folder, stdout = run
    result = json.loads((folder / "result.json").read_text())
    loads = [(phase["side"], phase["load"]["kind"], phase["load"]["amount"]) for phase in result["phases"]]
    assert loads == [(side, *load) for load in (("closed", 16), ("open", 60)) for side in ("baseline", "smartbatch")]
    for phase in result["phases"]:
        assert phase["seconds"] == 2 and phase["ok"] > 20, phase
        assert phase["sent"] + phase["in_flight_at_begin"] == (
            phase["ok"] + phase["rejected"] + phase["errors"] + phase["in_flight_at_end"]
        )
        assert phase["errors"] == sum(phase["errors_by_kind"].values()) == 0
        assert phase["p50_ms"] <= phase["p95_ms"] <= phase["p99_ms"]
        assert sum(point["throughput_rps"] for point in phase["series"]) == pytest.approx(phase["ok"], rel=0.01)
    for name in ("sent", "ok", "errors", "checked"):
        assert result["totals"][name] == sum(phase[name] for phase in result["phases"])
    assert result["phases"][0]["pieces"] == 2
    assert [phase["mean_batch_rows"] is None for phase in result["phases"]] == [True, False, True, False]
    assert set(result["machine"]) >= {"cpu", "cores", "packages"}
    assert stdout.count("improvement") == 2


@pytest.mark.extended
def test_both_sides_give_the_same_results_alone_and_under_load(run: tuple[Path, str]) -> None:
    result = json.loads((run[0] / "result.json").read_text())
    assert result["agreement"] == {
        "bodies": 16,
        "agree": 16,
        "difference": pytest.approx(0, abs=0.01),
        "disagreeing": [],
    }
    assert result["totals"]["checked"] > 10 and result["totals"]["wrong"] == 0


@pytest.mark.extended
def test_its_plots_are_images_and_its_report_is_self_contained(run: tuple[Path, str]) -> None:
    folder, stdout = run
    for name in PLOTS:
        path = folder / f"production_{name}.png"
        with Image.open(path) as image:
            tones = image.convert("L").histogram()
            assert image.width > 1000 and image.height > 400 and sum(tones[:128]) > 1000  # not empty
        assert str(path) in stdout
    page = (folder / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == len(PLOTS)
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:)', page)
    assert all(phase in page for phase in ("Baseline", "SmartBatch", "improvement", "16 users"))


@pytest.mark.extended
def test_a_folder_with_another_run_is_rejected(run: tuple[Path, str]) -> None:
    command = [*COMMAND, "--out", str(run[0]), "--users", "17"]
    rejected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert rejected.returncode == 1
    assert "holds a run with users [16], not [17]" in rejected.stderr and "--fresh" in rejected.stderr
