"""`make bench` measures what it claims to. No test here depends on speed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench.figures import Figure, Outcome, document, table
from loadtest.bench.one_queue import mean_batch
from loadtest.bench.rows.texts import RAMP_S, SHORT, Answers, latencies, overloaded
from loadtest.generator.connection import Connection
from loadtest.servers.naive import digest
from smartbatch.worker.models.simulated import expected

ROOT = Path(__file__).parents[2]


def test_one_queue_closes_a_batch_by_its_window() -> None:
    # within 10 ms of the first there are three, then two
    arrivals = [0.000, 0.004, 0.010, 0.011, 0.020]
    assert mean_batch(arrivals, devices=8, base_s=0.04, row_s=0.002, max_rows=32, window_s=0.010) == 2.5


def test_one_queue_closes_a_full_batch_at_once_and_fills_it_while_no_device_is_free() -> None:
    burst = [0.0] * 8
    assert mean_batch(burst, devices=1, base_s=1.0, row_s=0.0, max_rows=4, window_s=0.010) == 4
    # the only device runs the first from 0.01 to 1.01, so the other three are one batch
    assert mean_batch([0.0, 0.1, 0.5, 1.0], devices=1, base_s=1.0, row_s=0.0, max_rows=4, window_s=0.010) == 2
    # with two devices the second batch does not wait
    assert mean_batch([0.0, 0.1, 0.5, 1.0], devices=2, base_s=1.0, row_s=0.0, max_rows=4, window_s=0.010) == 4 / 3


def test_the_naive_server_responds_as_the_simulated_model_does() -> None:
    assert [digest(body) for body in (b"", b"abc")] == [expected(body) for body in (b"", b"abc")]


def test_figures_are_judged_by_their_goals() -> None:
    assert Figure("throughput", 3000.0, "req/s", 3000.0).met is True
    assert Figure("throughput", 2999.9, "req/s", 3000.0).met is False
    assert Figure("p50", 0.9, "ms", 0.9, "at most").met is True
    assert Figure("p50", float("inf"), "ms", 0.9, "at most").met is False
    assert Figure("no goal", 1.0, "s").met is None


def test_a_missing_latency_is_null_in_the_document_and_a_failed_row_is_in_the_table() -> None:
    outcomes = {"S": Outcome([Figure("p50", float("inf"), "ms", 5.5, "at most")])}
    made = document(outcomes, {"R": "RuntimeError: no"}, {})
    assert made["rows"]["S"]["figures"][0]["measured"] is None
    assert made["totals"] == {"figures": 1, "met": 0, "missed": 1, "without_goal": 0, "rows_failed": 1}
    assert "MISSED" in table(outcomes, {"R": "RuntimeError: no"})
    assert "failed: RuntimeError: no" in table(outcomes, {"R": "RuntimeError: no"})


def test_texts_are_sent_in_turn_and_counted_by_their_length() -> None:
    connection = Connection(socket.socket())
    answers = Answers()
    with connection.socket:
        for text, status, took_s in ((0, 200, 0.5), (1, 200, 3.0), (1, 503, 0.1), (0, 200, 1.0)):
            connection.body, connection.status = text, status
            answers.ended(connection, RAMP_S, RAMP_S + took_s)
        connection.status = 200
        answers.ended(connection, 0.0, 0.1)  # while the load begins: not counted under overload
    tokens = [SHORT, SHORT + 1]
    assert overloaded(answers, tokens, 2.0) == {
        **{"offered_per_s": 2.0, "in_time_per_s": 1.0, "tokens_per_s": 32.0, "statuses": {"200": 3, "503": 1}}
    }
    assert latencies(answers, tokens) == {
        "short_ms": {"p50": 500.0, "p90": 1000.0, "p99": 1000.0},
        "long_ms": {"p50": float("inf"), "p90": float("inf"), "p99": float("inf")},
    }


@pytest.mark.extended
@pytest.mark.timeout(240)
def test_a_quick_run_of_texts_judges_every_goal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.bench", "--quick", "--only", "T", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=230)
    assert ended.returncode == 0, ended.stderr
    row = json.loads((tmp_path / "bench.json").read_text())["rows"]["T"]
    goals = {each["name"] for each in row["figures"] if each["goal"]}
    assert goals >= {
        *(f"{connections} connections, of sorted" for connections in (32, 64, 128)),
        "one connection, p50 of one by one",
        "80% of capacity, p99 of short texts, of the longest alone",
        "80% of capacity, p99 of short texts, of long ones'",
        "2 × capacity, goodput of capacity",
    }
    (measured,) = row["details"]["rounds"]
    assert [measured[connections]["errors"] for connections in ("1", "32", "64", "128")] == [0, 0, 0, 0]
    assert {path.name for path in tmp_path.glob("*.png")} == {"goals.png", "T.png"}


@pytest.mark.extended
@pytest.mark.timeout(240)
def test_a_quick_runs_result_is_complete_and_adds_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.bench", "--quick", "--only", "E,overload", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=230)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert list(result["rows"]) == ["E", "overload"]
    assert result["failed"] == {}
    assert {"cores", "cpu", "python", "packages", "generator"} <= set(result["machine"])
    assert 1 < result["machine"]["python_loop_ms"] < 1000

    figures = [figure for row in result["rows"].values() for figure in row["figures"]]
    totals = result["totals"]
    assert totals["figures"] == len(figures) == 26
    assert totals["met"] + totals["missed"] + totals["without_goal"] == 26
    for figure in figures:
        assert (figure["goal"] is None) == (figure["met"] is None)
        assert figure["name"] in ended.stdout

    all_roles = {
        "smartbatch": {"root", "gateway", "worker", "broker"},
        "infer": {"root", "gateway", "worker", "broker"},
        "naive": {"root"},
    }
    for side, roles in all_roles.items():
        for connections in ("64", "256"):
            (measured,) = result["rows"]["E"]["details"][side][connections]
            assert measured["requests"] > 0 and measured["errors"] == 0
            assert set(measured["cpu_s_per_1000"]) == roles
            assert measured["cpu_s_per_1000_total"] == pytest.approx(sum(measured["cpu_s_per_1000"].values()), abs=1e-3)
    details = result["rows"]["overload"]["details"]
    for load in (device[times] for device in (details, details["slower"]) for times in ("2", "5")):
        assert sum(load["statuses"].values()) == load["offered"] > 1000
        assert all(sum(step.values()) - step["at_s"] > 0 for step in load["over_time"])
    rejection = details["rejection"]
    assert rejection["errors"] > 0.8 * rejection["requests"] > 1000
    assert 0 < rejection["cpu_s_per_1000"]["gateway"] < 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"goals.png", "overload.png"}
