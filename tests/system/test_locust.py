"""`locust -f loadtest/locustfile.py` against a running system: what it sends, checks and counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.system.stack import ROOT, Stack

pytestmark = pytest.mark.extended


def locust(host: str, *arguments: str) -> tuple[int, dict[str, dict], str]:
    """Run it headless. Returns the exit code, the statistics by name, and the log."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", host, "--headless", "--json"]
    ended = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=90)
    documents = re.findall(r"^\[\n.*?^\]", ended.stdout, re.S | re.M)  # each process prints one; a worker's is empty
    stats = {entry["name"]: entry for document in documents for entry in json.loads(document)}
    return ended.returncode, stats, ended.stderr


def summary(log: str) -> tuple[int, int, int]:
    """Responses checked and correct, rejections, failures."""
    (line,) = re.findall(r"checked and correct: (\d+); rejected with Retry-After: (\d+); failed: (\d+)", log)
    return int(line[0]), int(line[1]), int(line[2])


def test_photos_and_tensors_are_sent_by_weight_and_every_response_is_checked(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0.1")
    system.up()
    load = ("-u", "8", "-r", "8", "-t", "3s", "--shape", "ramp", "--tensor-shape", "4", "--msgpack-weight", "0")
    code, stats, log = locust(system.url, *load)
    assert code == 0, log
    kinds = {name.rpartition(".")[2].split()[0] for name in stats}
    assert kinds == {"jpg", "png", "webp", "npy", "json"}
    requests = sum(entry["num_requests"] for entry in stats.values())
    assert summary(log) == (requests, 0, 0) and requests > 50
    photos = sum(entry["num_requests"] for name, entry in stats.items() if not name.startswith(("npy", "json")))
    assert 0.5 < photos / requests < 0.85  # six in nine


def test_rejections_are_no_failures_and_workers_share_the_load(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=300,row_ms=0", MAX_BATCH_SIZE=1, MAX_QUEUE=1)
    system.up()
    body = ROOT / "loadtest/data/cat-224x149.jpg"
    load = ("-u", "16", "-r", "16", "-t", "4s", "--body", str(body), "--processes", "2")
    code, stats, log = locust(system.url, *load)
    assert code == 0, log
    assert set(stats) == {"cat-224x149.jpg", "cat-224x149.jpg, rejected"}
    assert all(entry["num_requests"] > 0 and entry["num_failures"] == 0 for entry in stats.values())
    assert log.count("(this worker)") == 2


class DependsOnBatch:
    """A wrong model: its result depends on the other rows in the batch."""

    def forward(self, batch):
        return [float(len(batch))] * len(batch)


def test_a_wrong_response_is_a_failure_although_its_status_is_200(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="tests.system.test_locust:DependsOnBatch", MAX_WAIT_TIME=0.05)
    system.gateway()
    system.worker()
    system.ready()
    body = ROOT / "loadtest/data/cat-224x149.jpg"
    code, stats, log = locust(system.url, "-u", "8", "-r", "8", "-t", "2s", "--body", str(body))
    assert code == 1
    _, rejected, failed = summary(log)
    assert failed > 10 and rejected == 0
    assert stats["cat-224x149.jpg"]["num_failures"] == failed
    assert "wrong response" in log or "wrong response" in str(stats)


def test_locust_exits_with_a_clear_message_when_there_is_nothing_to_send() -> None:
    code, _, log = locust("http://127.0.0.1:1", "-u", "1", "-t", "3s")
    assert code == 2 and "cannot reach http://127.0.0.1:1/predict" in log
    code, _, log = locust("http://127.0.0.1:1", "-u", "1", "-t", "3s", "--tensor-shape", "3x4")
    assert code == 2 and "--tensor-shape: expected whole numbers separated by commas, like 3,224,224, got '3x4'" in log
