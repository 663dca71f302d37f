"""Cumulative statistics of a model's version in the protocol's format: sums over its live workers."""

from __future__ import annotations

from typing import Any

import msgspec

from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.monitoring.window_stats import counts_by_process, sum_counts
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.keys import split_model_id


class Duration(msgspec.Struct):
    """`ns` is the sum over `count` events."""

    count: int
    ns: int


class InferStatistics(msgspec.Struct):
    """Sums over requests. `queue`: waiting to be claimed, and then for the batch to start. `compute_input`: decoding.
    `compute_infer`: the forward of the batch, counted in full for each request. Encoding isn't measured."""

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
    """Return the statistics of the version with this ID."""
    name, version = split_model_id(model)
    snapshot = monitor.snapshots.get(model) or Snapshot(model)
    last_ms = (int(number(report.get("last_batch_ms"))) for report in snapshot.workers.values())
    counted = sum_counts(counts_by_process(snapshot).values())
    requests = int(counted.value("total", "requests"))
    seconds = counted.of("seconds")
    queue, decode, forward = (
        Duration(requests, int(sum(seconds.get(part, 0.0) for part in parts) * 1e9))
        for parts in (("queue", "batch_wait"), ("decode",), ("forward",))
    )
    entries = counted.ints("entries")
    failures = sum(entries.get(outcome, 0) for outcome in ("invalid", "error", "expired", "dead"))
    return ModelStatistics(
        name,
        str(version),
        max(last_ms, default=0),
        int(counted.value("total", "rows")),
        sum(counted.ints("closed").values()),
        InferStatistics(
            success=Duration(entries.get("ok", 0), queue.ns + decode.ns + forward.ns),
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
