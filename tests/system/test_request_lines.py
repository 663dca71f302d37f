"""One log line for each request that was rejected, failed or redelivered, with the ids to find it by."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.brokers import eventually
from tests.load import Load
from tests.otlp import Collector
from tests.system.hostile_stack import Supervised, hostile
from tests.system.stack import Process, Stack


def parent() -> tuple[str, dict[str, str]]:
    """Return a new trace's id and the headers that name it."""
    trace_id = uuid.uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}


def json_lines(process: Process) -> list[dict[str, Any]]:
    """Every line of a log; one that isn't JSON fails."""
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def about(process: Process, request_id: str) -> list[dict[str, Any]]:
    return [line for line in json_lines(process) if line.get("request_id") == request_id]


def test_rejected_and_failed_requests_have_one_log_line_each(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=400,row_ms=0", LOG_FORMAT="json")
    gateway, worker = system.up().processes
    cases = {
        "unknown_model": ({"params": {"model": "none"}}, 404, "warning"),
        "bad_request": ({"params": {"top_k": "a secret"}}, 400, "warning"),
        "deadline_exceeded": ({"headers": {"x-request-timeout": "0.1"}}, 504, "warning"),
    }
    for code, (how, status, level) in cases.items():
        trace_id, headers = parent()
        response = system.predict(b"another secret", **{**how, "headers": {**how.get("headers", {}), **headers}})
        assert response.status_code == status
        (line,) = about(gateway, response.json()["request_id"])
        assert (
            line.items()
            >= {
                "level": level,
                "trace_id": trace_id,
                "model": "simulated",
                "version": 1,
                "code": code,
                "status": status,
                "rows": 1 if status == 504 else 0,
            }.items()
        )
        assert 0 < line["duration_ms"] < (400 if status == 504 else 100)
    answered = system.predict(b"x", headers=parent()[1]).json()
    assert about(gateway, answered["request_id"]) == []
    assert "secret" not in gateway.log.read_text() + worker.log.read_text()


def test_a_row_that_fails_is_found_on_both_sides_by_the_same_ids(stack: Callable[..., Stack]) -> None:
    system = hostile(stack, LOG_FORMAT="json")
    with Supervised(system, 1):
        trace_id, headers = parent()
        headers["content-type"] = "text/plain"
        response = system.predict(b"quit", headers=headers)
        assert response.status_code == 500
        request_id = response.json()["request_id"]
        gateway = next(process for process in system.processes if process.url)
        (line,) = about(gateway, request_id)
        assert line["message"].startswith("model_failed: ")
        workers = [process for process in system.processes if process is not gateway]
        (there,) = [found for process in workers for found in about(process, request_id)]
        assert line["trace_id"] == there["trace_id"] == trace_id
        assert line["batch_id"] == there["batch_id"]
        assert there["message"] == "the model failed on this input"
        assert "exception" in there


async def test_a_redelivered_request_has_one_line_on_the_worker_that_runs_it_again(
    stack: Callable[..., Stack],
) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1500,row_ms=0", MAX_BATCH_SIZE=1, LOG_FORMAT="json")
    _, victim = (await asyncio.to_thread(system.up)).processes
    trace_id, headers = parent()
    async with httpx.AsyncClient(timeout=30) as client:
        sending = asyncio.create_task(client.post(f"{system.url}/predict", content=b"x", headers=headers))
        await asyncio.to_thread(eventually, lambda: system.held_by(victim))
        victim.kill()
        second = await asyncio.to_thread(system.worker)
        response = await sending
    (line,) = about(second, response.json()["request_id"])
    assert line["level"] == "warning"
    assert line["message"].startswith("redelivered")
    assert (line["trace_id"], line["deliveries"], line["rows"]) == (trace_id, 2, 1)
    assert line["waited_ms"] > 1000


def test_text_log_format_has_the_same_fields(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    gateway = system.gateway()
    trace_id, headers = parent()
    response = system.predict(b"x", params={"model": "none"}, headers=headers)
    (line,) = [line for line in gateway.log.read_text().splitlines() if "request_id=" in line]
    request_id = response.json()["request_id"]
    wanted = rf"\d\d:\d\d:\d\d gateway WARNING unknown_model  \[request_id={request_id} trace_id={trace_id} "
    assert re.fullmatch(
        rf"{wanted}model=simulated version=1 rows=0 duration_ms=[\d.]+ code=unknown_model status=404\]", line
    )


@pytest.mark.parametrize("header", ["", "00-1-2-3", "x\\n00:00:00 gateway CRITICAL forged", "é" * 300])
def test_invalid_trace_id_is_never_logged(shared: Callable[..., Stack], header: str) -> None:
    system = shared(workers=0, MODEL_PATH="simulated", LOG_FORMAT="json")
    [gateway] = system.processes
    headers = {"traceparent": header.encode("latin-1")}
    response = system.predict(b"x", params={"model": "none"}, headers=headers)
    (line,) = about(gateway, response.json()["request_id"])
    assert "trace_id" not in line
    assert "forged" not in gateway.log.read_text()


def test_request_line_has_the_span_id_while_tracing(stack: Callable[..., Stack]) -> None:
    with Collector() as collector:
        system = stack(MODEL_PATH="simulated", LOG_FORMAT="json", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        gateway = system.gateway(OTEL_BSP_SCHEDULE_DELAY=100)
        response = system.predict(b"x", params={"model": "none"})
        (line,) = about(gateway, response.json()["request_id"])
        (span,) = eventually(lambda: collector.named("POST /predict"))
        assert line["trace_id"] == span.trace_id


async def test_overload_at_five_times_capacity_leaves_the_log_small(stack: Callable[..., Stack]) -> None:
    system = stack(
        MODEL_PATH="simulated:base_ms=80,row_ms=5", MAX_BATCH_SIZE=16, MAX_QUEUE=8, REQUEST_TIMEOUT=2, LOG_FORMAT="json"
    )
    gateway, _ = (await asyncio.to_thread(system.up)).processes
    async with Load(lambda: [system.url]) as load:
        began = time.monotonic()
        await load.open_loop(500, 4.0)
        seconds = time.monotonic() - began
    rejected = load.statuses()[503]
    assert rejected > 800
    # The current second has not been summarized yet.
    await asyncio.to_thread(
        eventually, lambda: sum(line.get("suppressed", 1) for line in request_lines(gateway)) == rejected
    )
    lines = request_lines(gateway)
    codes = {line["code"] for line in lines}
    assert codes <= {"queue_full", "deadline_unattainable"}
    assert len(lines) <= (seconds + 2) * 11 * len(codes)


def request_lines(gateway: Process) -> list[dict[str, Any]]:
    return [line for line in json_lines(gateway) if line.get("status", 503) == 503 and "code" in line]
