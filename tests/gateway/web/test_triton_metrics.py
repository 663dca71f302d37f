"""Triton's names: what each of them is made of."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.gateway.web.triton_metrics import ALIASES, FAILURE, PENDING, aliases
from smartbatch.shared import errors
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.wire import BatchInfo

NO_TIMES = {"queue": 0.0, "decode": 0.0, "batch_wait": 0.0, "forward": 0.0, "total": 0.0}


def shown(metrics: GatewayMetrics, *snapshots: Snapshot) -> dict[tuple[str, str], float]:
    """(name, reason) → value."""
    metrics.settle()
    text = aliases(list(metrics.registry.collect()), snapshots).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {(sample.labels["model"], sample.labels["version"]) for sample in samples} <= {("m", "1")}
    # the parser gives every counter's name an end that Triton's don't have
    return {(s.name.removesuffix("_total"), s.labels.get("reason", "")): s.value for s in samples}


def test_rows_batches_and_microseconds_of_what_was_answered() -> None:
    metrics = GatewayMetrics()
    queue = metrics.of("m")
    timing = {"admit": 1.0, "queue": 2.0, "decode": 3.0, "batch_wait": 4.0, "forward": 5.0, "reply": 6.0, "total": 21.0}
    for position in (1, 2):
        queue.answered(timing, 8, BatchInfo("b-1", 16, 2, "full", "w", position=position))
    found = shown(metrics)
    assert found["nv_inference_request_success", ""] == 2
    assert found["nv_inference_count", ""] == 16
    assert found["nv_inference_exec_count", ""] == 1
    assert found["nv_inference_request_duration_us", ""] == 42_000
    assert found["nv_inference_queue_duration_us", ""] == 12_000
    assert found["nv_inference_compute_input_duration_us", ""] == 6_000
    assert found["nv_inference_compute_infer_duration_us", ""] == 10_000
    assert found["nv_inference_compute_output_duration_us", ""] == 0


def test_each_failure_has_one_reason() -> None:
    metrics = GatewayMetrics()
    queue = metrics.of("m")
    queue.answered(NO_TIMES, 1, None)
    ended = {
        "REJECTED": [errors.QueueFull(""), errors.DeadlineExceeded(""), errors.RateLimited("")],
        "CANCELED": [errors.ClientGone("")],
        "BACKEND": [errors.ModelFailed(""), errors.DeadLettered("")],
        "OTHER": [errors.InvalidInput(""), ValueError(""), errors.WireError("")],
        "": [errors.Unauthenticated("")],  # it never got as far as the model
    }
    for each in ended.values():
        for error in each:
            queue.failed(error, 0.0)
    found = shown(metrics)
    del ended[""]
    assert {reason: found[FAILURE.name, reason] for reason in ended} == {
        reason: len(each) for reason, each in ended.items()
    }
    assert found["nv_inference_request_success", ""] == 1


def test_pending_is_what_is_not_on_a_device() -> None:
    workers = {"a": {"batch_requests": "4"}, "b": {"batch_requests": "0"}, "c": {}}
    assert shown(GatewayMetrics(), Snapshot("m", waiting=10, running=7, workers=workers)) == {(PENDING, ""): 13}


def test_triton_has_these_names() -> None:
    assert [alias.name for alias in ALIASES] == [
        "nv_inference_request_success",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_compute_output_duration_us",
    ]
