"""One minute of chaos, with a seed of its own each day, so that what runs is known and yet not always the same."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.chaos.run import Happened, Run
from tests.chaos.verdict import judge
from tests.load import Asked


@pytest.mark.timeout(300)
def test_a_minute_of_chaos_loses_nothing(tmp_path: Path) -> None:
    seed = str(datetime.datetime.now(datetime.UTC).toordinal())
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--rate", "150", "--seed", seed]
    ended = subprocess.run([*command, "--out", tmp_path / "out.json"], capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdict = msgspec.json.decode((tmp_path / "out.json").read_bytes())["verdict"]
    assert verdict["answered"] > 4000
    assert verdict["hostile"] > 50
    assert verdict["lost"] + verdict["doubled"] + verdict["wrong"] + verdict["punished"] == 0


def right(number: int, at: float, **how) -> Asked:
    values = {"status": 200, "right": True, "request_id": f"r{number}", **how}
    return Asked(number, values.pop("kind", "plain"), at, "http://g", at + 0.1, **values)


def run_of(*asked: Asked, **how) -> Run:
    return Run(1, 10, 10, "valkey", list(asked), **how)


def test_a_run_without_a_fault_is_good() -> None:
    verdict = judge(run_of(*(right(n, n) for n in range(10))))
    assert (verdict.good, verdict.answered) == (True, 10)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (right(1, 5, right=False), "wrong"),
        (right(1, 5, request_id="r0"), "doubled"),
        (right(1, 5, status=0, right=False, code="ServerDisconnectedError", request_id=""), "lost"),
        (right(1, 5, status=504, right=False, code="deadline_exceeded"), "late"),  # one of two is too many
        (right(1, 5, status=500, right=False, code="model_failed"), "punished"),
        (right(1, 5, status=503, right=False, code="queue_full"), "punished"),  # without a Retry-After
    ],
)
def test_whatever_goes_wrong_makes_a_run_bad(asked: Asked, what: str) -> None:
    verdict = judge(run_of(right(0, 4), asked))
    assert getattr(verdict, what) >= 1
    assert not verdict.good


def test_a_connection_may_break_with_its_gateway_and_not_otherwise() -> None:
    broken = right(1, 5, status=0, right=False, code="ServerDisconnectedError", request_id="")
    assert judge(run_of(broken, killed_gateways=[("http://g", 5.05)])).broken == 1
    assert judge(run_of(broken, killed_gateways=[("http://other", 5.05)])).lost == 1
    assert judge(run_of(broken, killed_gateways=[("http://g", 9.0)])).lost == 1


def test_a_service_that_stays_away_for_long_makes_a_run_bad() -> None:
    fault = Happened("pause_broker", 2, 3)
    soon, late = right(1, 7.5), right(1, 9)
    assert judge(run_of(soon, faults=[fault])).recovery_s == {"pause_broker": [pytest.approx(4.6)]}
    assert judge(run_of(soon, faults=[fault])).good
    assert not judge(run_of(late, faults=[fault])).good
