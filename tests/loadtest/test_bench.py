"""The benchmark measures what it says; how fast anything was is not asked here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.ports import free_port
from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.http_client import request_bytes
from loadtest.bench.naive import _digest
from loadtest.bench.one_queue import mean_batch
from loadtest.bench.open_loop import offer, poisson
from loadtest.bench.report import document, table
from worker.models.simulated import expected

ROOT = Path(__file__).parents[2]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def server_that_stalls(seconds: float) -> Iterator[int]:
    """Answer requests one by one, on one connection, the first after `seconds`. Yields the port."""
    go_on = threading.Event()

    def serve() -> None:
        peer, _ = listening.accept()
        with peer:
            peer.recv(65536)
            go_on.wait(seconds)
            peer.sendall(ANSWER)
            while peer.recv(65536):
                peer.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        go_on.set()
        thread.join()


def test_a_stall_counts_for_every_request_that_was_to_start_meanwhile() -> None:
    starts = [0.0, 0.1, 0.2, 0.3, 0.4]
    with server_that_stalls(0.5) as port:
        trace = offer(port, request_bytes(port, b"x"), starts, connections=1)
    assert trace.statuses() == {"200": 5}
    latencies = trace.latencies(200)
    for latency, least in zip(latencies, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
        assert least - 0.01 <= latency < least + 0.5
    assert trace.lateness()[-1] >= 0.39  # four of them waited for the one connection


def test_what_is_never_answered_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def hang_up() -> None:
            for _ in range(3):
                peer, _ = listening.accept()
                peer.recv(65536)
                peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        trace = offer(port, request_bytes(port, b"x"), [0.0, 0.05, 0.1], connections=3)
        thread.join()
    assert trace.statuses() == {"0": 3}
    assert trace.latencies(200) == []


def test_an_answer_that_comes_in_pieces_to_a_request_that_leaves_in_pieces_is_one_answer() -> None:
    body = b"x" * 8_000_000  # more than the kernel holds of it
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                left = len(request)
                while left and (data := peer.recv(65536)):
                    left -= len(data)
                for piece in (ANSWER[:5], ANSWER[5:30], ANSWER[30:-1], ANSWER[-1:]):
                    peer.sendall(piece)
                    time.sleep(0.02)

        port = listening.getsockname()[1]
        request = request_bytes(port, body)
        thread = threading.Thread(target=serve)
        thread.start()
        trace = offer(port, request, [0.0], connections=1)
        thread.join()
    assert trace.statuses() == {"200": 1}
    assert trace.latencies(200)[0] >= 0.06


def test_what_finds_nobody_listening_waits_for_it() -> None:
    port = free_port()

    def serve() -> None:
        time.sleep(0.3)
        with socket.create_server(("127.0.0.1", port)) as listening:
            peer, _ = listening.accept()
            with peer:
                while peer.recv(65536):
                    peer.sendall(ANSWER)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    trace = offer(port, request_bytes(port, b"x"), [0.0, 0.1], connections=1)
    thread.join()
    assert trace.statuses() == {"200": 2}


def test_what_nobody_asked_for_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            refused, _ = listening.accept()
            refused.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
            peer, _ = listening.accept()
            with refused, peer:
                while peer.recv(65536):
                    peer.sendall(ANSWER)

        port = listening.getsockname()[1]
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        trace = offer(port, request_bytes(port, b"x"), [0.2, 0.3], connections=1)
        thread.join()
    assert trace.statuses() == {"200": 2}


def test_arrivals_are_the_same_each_time_and_as_many_as_the_rate_says() -> None:
    starts = poisson(1000, 10)
    assert starts == poisson(1000, 10)
    assert starts == sorted(starts) and starts[0] > 0 and starts[-1] < 10
    assert 9_700 < len(starts) < 10_300  # three standard deviations


def test_one_queue_closes_a_batch_by_its_window() -> None:
    # 10 ms from the first: three, then two
    arrivals = [0.000, 0.004, 0.010, 0.011, 0.020]
    assert mean_batch(arrivals, devices=8, base_s=0.04, row_s=0.002, max_rows=32, window_s=0.010) == 2.5


def test_one_queue_closes_a_full_batch_at_once_and_gathers_while_no_device_is_free() -> None:
    burst = [0.0] * 8
    assert mean_batch(burst, devices=1, base_s=1.0, row_s=0.0, max_rows=4, window_s=0.010) == 4
    # one device, busy with the first from 0.01 to 1.01: the other three are one batch
    assert mean_batch([0.0, 0.1, 0.5, 1.0], devices=1, base_s=1.0, row_s=0.0, max_rows=4, window_s=0.010) == 2
    # with two devices the second batch needn't wait for them
    assert mean_batch([0.0, 0.1, 0.5, 1.0], devices=2, base_s=1.0, row_s=0.0, max_rows=4, window_s=0.010) == 4 / 3


def test_the_naive_server_answers_what_the_simulated_model_does() -> None:
    assert [_digest(body) for body in (b"", b"abc")] == [expected(body) for body in (b"", b"abc")]


def test_figures_are_judged_by_their_sense() -> None:
    assert Figure("throughput", 3000.0, "req/s", 3000.0).met is True
    assert Figure("throughput", 2999.9, "req/s", 3000.0).met is False
    assert Figure("p50", 0.9, "ms", 0.9, "at most").met is True
    assert Figure("p50", float("inf"), "ms", 0.9, "at most").met is False
    assert Figure("told only", 1.0, "s").met is None


def test_what_was_never_answered_is_null_in_the_document_and_a_failed_row_is_in_the_table() -> None:
    outcomes = {"S": Outcome([Figure("p50", float("inf"), "ms", 5.5, "at most")])}
    made = document(outcomes, {"R": "RuntimeError: no"}, {})
    assert made["rows"]["S"]["figures"][0]["measured"] is None
    assert made["totals"] == {"figures": 1, "met": 0, "missed": 1, "without_goal": 0, "rows_failed": 1}
    assert "MISSED" in table(outcomes, {"R": "RuntimeError: no"})
    assert "failed: RuntimeError: no" in table(outcomes, {"R": "RuntimeError: no"})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_quick_run_leaves_a_result_that_is_complete_and_adds_up(tmp_path: Path) -> None:
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
    assert totals["figures"] == len(figures) == 24
    assert totals["met"] + totals["missed"] + totals["without_goal"] == 24
    for figure in figures:
        assert (figure["goal"] is None) == (figure["met"] is None)
        assert figure["name"] in ended.stdout

    all_roles = {
        "smartbatch": {"root", "gateway", "worker", "broker"},
        "naive": {"root"},
        "floor": {"root", "worker", "broker"},  # its gateway is the root
    }
    for side, roles in all_roles.items():
        for connections in ("64", "256"):
            (driven,) = result["rows"]["E"]["details"][side][connections]
            assert driven["requests"] > 0 and driven["errors"] == 0
            assert set(driven["cpu_s_per_1000"]) == roles
            assert driven["cpu_s_per_1000_total"] == pytest.approx(sum(driven["cpu_s_per_1000"].values()), abs=1e-3)
    at_once = result["rows"]["overload"]["details"]
    for overloaded in (device[times] for device in (at_once, at_once["slower"]) for times in ("2", "5")):
        assert sum(overloaded["statuses"].values()) == overloaded["offered"] > 1000
        assert all(sum(step.values()) - step["at_s"] > 0 for step in overloaded["over_time"])
    refusal = at_once["refusal"]
    assert refusal["errors"] > 0.8 * refusal["requests"] > 1000
    assert 0 < refusal["cpu_s_per_1000"]["gateway"] < 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"goals.png", "overload.png"}
