"""Cumulative statistics of a model, in the protocol's terms: what its live workers counted since they started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec

from gateway.gateway import Gateway
from gateway.oip import VERSION
from shared import metric_names as names

Sums = Mapping[str, float]


class Duration(msgspec.Struct):
    """`ns` is the sum over `count` events."""

    count: int
    ns: int


class InferStatistics(msgspec.Struct):
    """`success.ns` is all time in `queue`, `compute_input` and `compute_infer`; a forward counts once for all requests
    that shared it, as `compute_infer.count` does. What failed isn't timed, encoding answers isn't either."""

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


def of(gateway: Gateway, model: str) -> ModelStatistics:
    snapshot = gateway.observer.snapshots.get(model)
    reports = list(snapshot.workers.values()) if snapshot else []
    sums = _sums(reports)
    queue = _duration(sums, names.QUEUE_WAIT)
    decode = _duration(sums, names.DECODE)
    forward = _duration(sums, names.FORWARD)
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
            compute_output=Duration(0, 0),
            cache_hit=Duration(0, 0),
            cache_miss=Duration(0, 0),
        ),
        [],
        [],
    )


def _duration(sums: Sums, metric: names.Metric) -> Duration:
    return Duration(int(sums[f"{metric.name}_count"]), int(sums[f"{metric.name}_sum"] * 1e9))


def _sums(reports: list[dict[str, Any]]) -> Sums:
    """Add the samples up over all workers, by name, and by name:label where there is a second label."""
    sums: Counter[str] = Counter()
    for report in reports:
        for _, _, _, samples in msgpack.unpackb(report["metrics"]) if report.get("metrics") else ():
            for name, labels, value in samples:
                second = next((text for label, text in labels.items() if label != "model"), "")
                sums[f"{name}:{second}" if second else name] += value
    return sums
