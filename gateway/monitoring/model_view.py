"""Converts a model's snapshot to the statistics of /stats, the live page and `smartbatch top`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from smartbatch.gateway.core.latency_window import WINDOW_S, Summary, merge, unpack
from smartbatch.gateway.core.response_types import Batches, ModelStats, PartitionStats, Queue, Report
from smartbatch.gateway.monitoring.window_stats import WindowStats, counts_by_process, sum_counts
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.model_info import ModelInfo

# Outcomes that are shown as one number. Only rejections and failures are the server's doing.
REJECTED = ("rejected",)
FAILED = ("timeout", "error")
CLIENT_ERRORS = ("denied", "invalid")

_NOT_SHOWN = ("counts", "recent", "minute", "total", "shadow")  # shown elsewhere


class ModelView(msgspec.Struct):
    """A model's data for the live page and `smartbatch top`. `info` is None until a worker has announced it."""

    stats: ModelStats
    last: WindowStats
    info: ModelInfo | None


def describe(snapshot: Snapshot) -> ModelStats:
    recent: Summary = merge(unpack(g["recent"]) for g in snapshot.gateways.values() if "recent" in g)
    batches = sum_counts(counts_by_process(snapshot).values())
    return ModelStats(
        window_s=WINDOW_S,
        throughput_rps=round(recent.answered / WINDOW_S, 2),
        latency_ms={f"p{p:g}": recent.percentile_ms(p) for p in (50, 95, 99)},
        outcomes=recent.outcomes,
        errors=recent.errors,
        queue=Queue(
            waiting=snapshot.waiting,
            running=snapshot.running,
            open=snapshot.open_requests,
            open_bytes=snapshot.open_bytes,
            oldest_wait_s=snapshot.oldest_wait_s,
            dead_letters=snapshot.dead,
        ),
        batches=Batches(batches.ints("batch_rows"), batches.ints("closed")),
        workers={name: _numbers(report) for name, report in snapshot.workers.items()},
        gateways={name: _numbers(report) for name, report in snapshot.gateways.items()},
        partitions=partition_stats(snapshot) or UNSET,
    )


def partition_stats(snapshot: Snapshot) -> dict[int, PartitionStats]:
    """Return the state of each of several partitions by number; of a single one, nothing."""
    return {
        part.partition: PartitionStats(
            part.waiting, part.running, part.oldest_wait_s, len(part.ready_workers), part.reachable
        )
        for part in (snapshot.parts if len(snapshot.parts) > 1 else ())
    }


def _numbers(report: dict[str, Any]) -> Report:
    """Return a report's fields, with numbers converted from text."""
    return {name: _number(value) for name, value in report.items() if name not in _NOT_SHOWN}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
