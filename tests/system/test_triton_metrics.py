"""Triton's metric names, as a real Prometheus records them, agree with the statistics of /v2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers import eventually
from tests.prometheus import Prometheus
from tests.system.stack import Stack
from tests.system.test_batching import bodies, send_all

STATISTICS = "v2/models/simulated/stats"


@pytest.mark.extended
def test_recorded_triton_metrics_agree_with_v2_statistics(stack: Callable[..., Stack], tmp_path: Path) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=5,row_ms=0.2")
    gateways = [system.gateway().url, system.gateway(GATEWAY_PROCESSES=2).url]
    system.worker()
    system.ready()
    for url in gateways:
        asyncio.run(send_all(url, bodies(100), 10))

    def statistics() -> dict | None:
        found = system.client.get(f"{system.url}/{STATISTICS}").json()["model_stats"][0]
        return found if found["inference_stats"]["success"]["count"] == 200 else None

    theirs = eventually(statistics)
    prometheus = Prometheus(tmp_path, gateways)

    def ours(name: str) -> float | None:
        return prometheus.value(f'sum({name}{{model="simulated",version="1"}})')

    try:
        eventually(lambda: ours("nv_inference_count") == theirs["inference_count"] == 200, 20)
        assert ours("nv_inference_request_success") == 200
        assert ours("nv_inference_request_failure") == 0
        batches = ours("nv_inference_exec_count")
        assert batches == theirs["execution_count"] < 200
        times = theirs["inference_stats"]
        for name, field in (("queue", "queue"), ("compute_input", "compute_input"), ("compute_infer", "compute_infer")):
            microseconds = ours(f"nv_inference_{name}_duration_us")
            assert microseconds == pytest.approx(times[field]["ns"] / 1000, rel=0.05, abs=1000), name
        total_us = ours("nv_inference_request_duration_us")
        assert total_us is not None and total_us > times["success"]["ns"] / 1000
        assert ours("nv_inference_pending_request_count") == 0
        assert system.predict(b"x", params={"top_k": "many"}).status_code == 400
        eventually(lambda: ours("nv_inference_request_failure") == 1, 20)
    finally:
        prometheus.close()
