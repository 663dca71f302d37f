"""`smartbatch limits` on a running system: batch sizes change without a restart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.brokers import eventually
from tests.system.stack import ROOT, Stack
from tests.system.test_batching import bodies, send_all


def limits(system: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smartbatch.deploy.cli", "limits", "--redis-url", system.broker.url]
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
    refused = limits(system, "--max-batch-size", "1000")
    assert refused.returncode == 2
    assert "16 is the most that the workers of simulated can take" in refused.stderr
    done = limits(system, "--max-batch-size", "16")
    assert done.stdout == (
        "simulated: MAX_BATCH_SIZE=16 for 1 worker within a second, and for workers that start later\n"
    )
    eventually(lambda: batching(system) == (16, 0.0))
    done = limits(system, "--reset")
    assert (done.returncode, done.stdout) == (
        0,
        "simulated: the limits that each was started with for 1 worker within a second, "
        "and for workers that start later\n",
    )
    eventually(lambda: batching(system) == (16, 0.02))
    responses = await send_all(system.url, bodies(64), 32)
    assert max(response["batch"]["rows"] for response in responses) > 4
    assert list(system.stats()["workers"]) == [worker_id]


def test_invalid_limits_are_rejected(stack: Callable[..., Stack]) -> None:
    system = stack()
    for arguments in (["--max-batch-size", "0"], ["--max-wait-time", "-1"], ["--reset", "--max-batch-size", "4"]):
        refused = limits(system, *arguments)
        assert refused.returncode == 2 and "Error" in refused.stderr


def test_limits_of_all_models_are_shown_and_one_is_chosen_by_name(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated", MODEL_NAME="one", MAX_BATCH_SIZE=16)
    system.up()
    assert limits(system, "--max-batch-size", "8").returncode == 0  # the only one
    system.worker(MODEL_NAME="two", MAX_BATCH_SIZE=8)
    eventually(lambda: len(limits(system).stdout.splitlines()) == 3, 20)

    def shown() -> list[tuple[str, str]]:
        return [(row[0], row[3]) for row in map(str.split, limits(system).stdout.splitlines()[1:])]

    eventually(lambda: shown() == [("one", "8"), ("two", "8")], 20)
    assert len(limits(system, "--name", "two").stdout.splitlines()) == 2
    refused = limits(system, "--max-batch-size", "4")
    assert refused.returncode == 2
    assert refused.stderr.strip() == "smartbatch: several models are served (one, two); select one with --name"
    assert limits(system, "--name", "two", "--max-batch-size", "4").stdout.startswith("two: MAX_BATCH_SIZE=4 for 1")


def test_limits_without_a_model_say_so(stack: Callable[..., Stack]) -> None:
    system = stack()
    assert limits(system).stdout == "no live workers\n"
    assert limits(system, "--name", "later").stdout == "no live workers of later\n"
    assert limits(system, "--reset").stderr.startswith("smartbatch: no model is served; ")
    done = limits(system, "--name", "later", "--max-wait-time", "0.5")
    assert done.stdout == "later: MAX_WAIT_TIME=0.5 for no worker now, and for workers that start later\n"
