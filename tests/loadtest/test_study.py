"""The parameter study: a short study of a real system, and the parts of the search."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loadtest.study.levels import Level, best, climb, level
from loadtest.study.plots import pareto_front
from loadtest.study.space import Settings, Space, batch_sizes, waits

ROOT = Path(__file__).parents[2]
COMMAND = [
    *(sys.executable, "loadtest/study_params.py", "--model", "simulated:base_ms=10,row_ms=0.1", "--p99", "10s"),
    *("--max-batch", "32", "--wait", "10ms", "--users", "2,12", "--seconds", "1s"),
]


def reached(users: int, rate: float, p99_ms: float, **more: int) -> Level:
    return Level(users, rate, p99_ms / 2, p99_ms, 4.0, more.get("rejected", 0), more.get("errors", 0))


def climbed(*levels: Level) -> list[float]:
    """Return the loads that `climb` measures for an objective of 100 ms."""
    by_users = {each.load: each for each in levels}
    ladder = tuple(int(users) for users in by_users)
    return [each.load for each in climb(ladder, lambda users: by_users[users], 100.0, lambda each: None)]


def test_users_are_added_until_it_is_too_slow_or_throughput_no_longer_grows() -> None:
    assert climbed(reached(4, 100, 20), reached(8, 200, 40), reached(16, 390, 99)) == [4, 8, 16]
    assert climbed(reached(4, 100, 20), reached(8, 200, 101), reached(16, 390, 99)) == [4, 8]
    assert climbed(reached(4, 100, 20), reached(8, 102, 40), reached(16, 390, 99)) == [4, 8]
    assert climbed(reached(4, 100, 20, rejected=1), reached(8, 200, 40)) == [4]


def test_the_best_level_has_the_highest_throughput_within_the_latency_without_errors() -> None:
    levels = [reached(4, 100, 20), reached(8, 180, 99), reached(16, 300, 101), reached(32, 400, 50, errors=1)]
    assert best(levels, 100.0) == levels[1]
    assert best(levels, 10.0) is None


def test_a_level_includes_requests_without_a_response() -> None:
    nothing = {"sent": 10, "rejected": 0, "checked": 0, "wrong": 0, "errors": {}, "late": {}}
    second = {"ok": 10, "latency": {"300": 10}, **nothing}
    assert level(5, [("second", second), ("end", {"unfinished": {"900": 10}})]).p99_ms == pytest.approx(8103, rel=0.02)


def test_the_space_leaves_out_windows_longer_than_half_the_latency() -> None:
    assert batch_sizes(48) == (1, 2, 4, 8, 16, 32, 48) and batch_sizes(1) == (1,)
    assert waits(0.01) == (0.0, 0.001, 0.002, 0.005) and waits(0.0001) == (0.0,)
    space = Space((16, 32), (0.0, 0.01), (1, 2), (0,))
    assert space.points == 8
    assert space.default() == {"MAX_BATCH_SIZE": 32, "MAX_WAIT_TIME": 0.01, "workers": 1, "DECODE_THREADS": 0}
    assert Space((16,), (0.0,), (1,), (0,)).default() is None
    every = {Settings(size, wait, workers, 0) for size in (16, 32) for wait in (0.0, 0.01) for workers in (1, 2)}
    last = Settings(16, 0.01, 2, 0)
    assert space.other_than(every - {last}) == last._asdict()


def test_the_pareto_front_has_the_points_that_no_other_beats_in_both() -> None:
    assert pareto_front([(100, 10), (200, 30), (150, 40), (90, 11), (200, 35)]) == [(100, 10), (200, 30)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run one trial (the defaults), then a second one with the same command."""
    folder = tmp_path_factory.mktemp("study")
    for trials in ("1", "2"):
        command = [*COMMAND, "--trials", trials, "--out", str(folder)]
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110)
        assert ended.returncode == 0, ended.stderr
    assert "resuming: 1 of 2 settings were tried before" in ended.stderr
    assert ended.stderr.count("starting 1 worker(s)") == 1  # the batch size changes without a restart
    return folder, ended.stdout


@pytest.mark.extended
def test_a_short_study_ends_with_an_environment_block(study: tuple[Path, str]) -> None:
    folder, stdout = study
    result = json.loads((folder / "study.json").read_text())
    assert len(result["trials"]) == 2
    assert result["trials"][0]["settings"]["MAX_BATCH_SIZE"] == 32
    kept = [trial for trial in result["trials"] if trial["best"] and not trial["pruned"]]
    most = max(kept, key=lambda trial: trial["best"]["throughput_rps"])
    assert result["recommended"] == most["settings"] and result["reached"] == most["best"]
    block = (folder / "recommended.env").read_text()
    assert block.strip() in stdout
    assert re.fullmatch(r"MAX_BATCH_SIZE=\d+\nMAX_WAIT_TIME=0\.01\nDECODE_THREADS=0\n# workers: 1\n", block)
    assert result["confirmed"][-1]["load"] < result["reached"]["throughput_rps"]


@pytest.mark.extended
def test_batches_have_the_sizes_that_were_set(study: tuple[Path, str]) -> None:
    result = json.loads((study[0] / "study.json").read_text())
    for trial in result["trials"]:
        assert max(each["batch_rows"] for each in trial["levels"]) <= trial["settings"]["MAX_BATCH_SIZE"]
        assert max(each["batch_rows"] for each in trial["levels"]) > 1 or trial["settings"]["MAX_BATCH_SIZE"] == 1


@pytest.mark.extended
def test_its_plots_are_images_and_its_report_is_self_contained(study: tuple[Path, str]) -> None:
    folder, _ = study
    for name in ("study_heatmap.png", "study_pareto.png"):
        with Image.open(folder / name) as image:
            tones = image.convert("L").histogram()
            assert image.width > 800 and sum(tones[:128]) > 1000
    page = (folder / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 2
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:)', page)
    assert "MAX_BATCH_SIZE=" in page


@pytest.mark.extended
def test_a_folder_with_another_study_is_rejected(study: tuple[Path, str]) -> None:
    command = [*COMMAND, "--p99", "20s", "--out", str(study[0])]
    rejected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert rejected.returncode == 1 and "holds a run with p99_ms 10000.0, not 20000.0" in rejected.stderr
