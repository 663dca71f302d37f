"""TRITON_METRICS=on: Triton's names on /metrics, with the numbers that /v2 has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.brokers import eventually
from tests.system.stack import Stack
from tests.system.test_batching import ask_all, bodies

STATISTICS = "v2/models/simulated/stats"


async def test_the_aliases_agree_with_the_statistics_of_v2_over_two_gateways(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=5,row_ms=0.2", TRITON_METRICS="on")
    gateways = [system.gateway().url, system.gateway(GATEWAY_PROCESSES=2).url]
    system.worker()
    system.ready()
    for url in gateways:
        await ask_all(url, bodies(100), 10)

    def statistics() -> dict | None:
        found = system.client.get(f"{system.url}/{STATISTICS}").json()["model_stats"][0]
        return found if found["inference_stats"]["success"]["count"] == 200 else None

    theirs = eventually(statistics)

    def ours(name: str) -> float:
        found = 0.0
        for url in gateways:
            lines = system.client.get(f"{url}/metrics").text.splitlines()
            found += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))
        return found

    eventually(lambda: ours("nv_inference_count") == theirs["inference_count"] == 200)
    assert ours("nv_inference_request_success") == 200
    assert ours("nv_inference_request_failure") == 0
    assert ours("nv_inference_exec_count") == theirs["execution_count"] < 200
    times = theirs["inference_stats"]
    for name, field in (("queue", "queue"), ("compute_input", "compute_input"), ("compute_infer", "compute_infer")):
        microseconds = ours(f"nv_inference_{name}_duration_us")
        assert microseconds == pytest.approx(times[field]["ns"] / 1000, rel=0.05, abs=1000), name
    assert ours("nv_inference_request_duration_us") > times["success"]["ns"] / 1000
    assert ours("nv_inference_pending_request_count") == 0
    assert system.predict(b"x", params={"top_k": "many"}).status_code == 400
    eventually(lambda: ours("nv_inference_request_failure") == 1)


def test_without_the_setting_there_are_none(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    system.gateway()
    assert "nv_inference" not in system.client.get(f"{system.url}/metrics").text
