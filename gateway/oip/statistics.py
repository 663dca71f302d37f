"""Cumulative statistics of a model, in the protocol's terms: what its live workers counted since they started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec

from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import VERSION
from smartbatch.shared.telemetry import metric_names as names

Sums = Mapping[str, float]


class Duration(msgspec.Struct):
    """`ns` is the sum over `count` events."""

    count: int
    ns: int


class InferStatistics(msgspec.Struct):
    """By request: `queue` is waiting, to be claimed and then for the batch to start; `compute_input` is decoding;
    `compute_infer` is the forward, whole for each request that shared it. Encoding answers isn't timed."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(msgspec.Struct):
    """`inference_count`: rows that ran. `execution_count`: batches. `last_inference`: ms since the epoch."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[Any]
    memory_usage: list[Any]


class Statistics(msgspec.Struct):
    model_stats: list[ModelStatistics]


def of(monitor: SystemMonitor, model: str) -> ModelStatistics:
    snapshot = monitor.snapshots.get(model)
    reports = list(snapshot.workers.values()) if snapshot else []
    sums = _sums(reports)
    requests = int(sums[f"{names.QUEUE_WAIT.name}_count"])
    queue_s = sums[f"{names.QUEUE_WAIT.name}_sum"] + sums[f"{names.BATCH_WAIT.name}_sum"]
    queue = Duration(requests, int(queue_s * 1e9))
    decode = Duration(requests, int(sums[f"{names.DECODE.name}_sum"] * 1e9))
    forward = Duration(requests, int(sums[names.REQUEST_FORWARD.name] * 1e9))
    entries = f"{names.ENTRIES.name}:"
    failures = sum(int(sums[entries + outcome]) for outcome in ("invalid", "error", "expired", "dead"))
    return ModelStatistics(
        model,
        VERSION,
        max((int(report.get("last_batch_ms", 0)) for report in reports), default=0),
        int(sums[names.ROWS.name]),
        sum(int(count) for name, count in sums.items() if name.startswith(f"{names.BATCHES.name}:")),
        InferStatistics(
            success=Duration(int(sums[entries + "ok"]), queue.ns + decode.ns + forward.ns),
            fail=Duration(failures, 0),
            queue=queue,
            compute_input=decode,
            compute_infer=forward,
            compute_output=Duration(requests, 0),
            cache_hit=Duration(0, 0),
            cache_miss=Duration(0, 0),
        ),
        [],
        [],
    )


def _sums(reports: list[dict[str, Any]]) -> Sums:
    """Add the samples up over all workers, by name, and by name:label where there is a second label."""
    sums: Counter[str] = Counter()
    for report in reports:
        for _, _, _, samples in msgpack.unpackb(report["metrics"]) if report.get("metrics") else ():
            for name, labels, value in samples:
                second = next((text for label, text in labels.items() if label != "model"), "")
                sums[f"{name}:{second}" if second else name] += value
    return sums
