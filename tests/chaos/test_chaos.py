"""One minute of chaos. The seed is the date, so a run is reproducible and differs each day."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.chaos.evaluation import evaluate
from tests.chaos.run import FaultRecord, Run
from tests.load import SentRequest


@pytest.mark.timeout(300)
def test_one_minute_of_chaos_loses_no_request(tmp_path: Path) -> None:
    seed = str(datetime.datetime.now(datetime.UTC).toordinal())
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--rate", "150", "--seed", seed]
    ended = subprocess.run([*command, "--out", tmp_path / "out.json"], capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    evaluation = msgspec.json.decode((tmp_path / "out.json").read_bytes())["evaluation"]
    assert evaluation["answered"] > 4000
    assert evaluation["hostile"] > 50
    assert evaluation["lost"] + evaluation["duplicated"] + evaluation["wrong"] + evaluation["wrongly_failed"] == 0


def correct(number: int, at: float, **how) -> SentRequest:
    values = {"status": 200, "correct": True, "request_id": f"r{number}", **how}
    return SentRequest(number, values.pop("kind", "plain"), at, "http://g", at + 0.1, **values)


def run_of(*sent: SentRequest, **how) -> Run:
    return Run(1, 10, 10, "valkey", list(sent), **how)


def test_run_without_failures_is_good() -> None:
    evaluation = evaluate(run_of(*(correct(n, n) for n in range(10))))
    assert (evaluation.good, evaluation.answered) == (True, 10)


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (correct(1, 5, correct=False), "wrong"),
        (correct(1, 5, request_id="r0"), "duplicated"),
        (correct(1, 5, status=0, correct=False, code="ServerDisconnectedError", request_id=""), "lost"),
        (correct(1, 5, status=504, correct=False, code="deadline_exceeded"), "late"),  # one of two is too many
        (correct(1, 5, status=500, correct=False, code="model_failed"), "wrongly_failed"),
        (correct(1, 5, status=503, correct=False, code="queue_full"), "wrongly_failed"),  # without a Retry-After
    ],
)
def test_every_failed_request_fails_the_run(sent: SentRequest, what: str) -> None:
    evaluation = evaluate(run_of(correct(0, 4), sent))
    assert getattr(evaluation, what) >= 1
    assert not evaluation.good


def test_connection_may_break_only_with_its_gateway() -> None:
    broken = correct(1, 5, status=0, correct=False, code="ServerDisconnectedError", request_id="")
    assert evaluate(run_of(broken, killed_gateways=[("http://g", 5.05)])).broken == 1
    assert evaluate(run_of(broken, killed_gateways=[("http://other", 5.05)])).lost == 1
    assert evaluate(run_of(broken, killed_gateways=[("http://g", 9.0)])).lost == 1


def test_slow_recovery_fails_the_run() -> None:
    fault = FaultRecord("pause_broker", 2, 3)
    soon, late = correct(1, 7.5), correct(1, 9)
    assert evaluate(run_of(soon, faults=[fault])).recovery_s == {"pause_broker": [pytest.approx(4.6)]}
    assert evaluate(run_of(soon, faults=[fault])).good
    assert not evaluate(run_of(late, faults=[fault])).good
