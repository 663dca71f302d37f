"""`smartbatch limits` on a running system: batch sizes change without a restart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.brokers import eventually
from tests.system.stack import ROOT, Stack
from tests.system.test_batching import bodies, send_all


def limits(system: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "smartbatch.deploy.cli",
        "limits",
        "--redis-url",
        system.broker.url,
        "--model",
        "simulated",
    ]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)


def batching(system: Stack) -> tuple[int, float]:
    (report,) = system.stats()["workers"].values()
    return report["max_batch_size"], report["max_wait_time"]


async def test_live_limits_apply_without_a_restart_and_can_be_reset(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=20,row_ms=0", MAX_BATCH_SIZE=16, MAX_WAIT_TIME=0.02)
    system.up()
    (worker_id,) = system.stats()["workers"]
    assert limits(system, "--max-batch-size", "4", "--max-wait-time", "0").returncode == 0
    eventually(lambda: batching(system) == (4, 0.0))
    responses = await send_all(system.url, bodies(64), 32)
    assert max(response["batch"]["rows"] for response in responses) == 4
    assert "MAX_BATCH_SIZE" in limits(system).stdout
    assert limits(system, "--max-batch-size", "1000").returncode == 0  # no more than it was started with
    eventually(lambda: batching(system) == (16, 0.0))
    assert limits(system, "--reset").returncode == 0
    eventually(lambda: batching(system) == (16, 0.02))
    responses = await send_all(system.url, bodies(64), 32)
    assert max(response["batch"]["rows"] for response in responses) > 4
    assert list(system.stats()["workers"]) == [worker_id]


def test_invalid_limits_are_rejected(stack: Callable[..., Stack]) -> None:
    system = stack()
    for arguments in (["--max-batch-size", "0"], ["--max-wait-time", "-1"], ["--reset", "--max-batch-size", "4"]):
        rejected = limits(system, *arguments)
        assert rejected.returncode == 2 and "Error" in rejected.stderr
