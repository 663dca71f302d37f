"""A worker's metrics: for Prometheus (declared in shared/telemetry/metric_names.py), and the few counts that its
heartbeat carries (shared/telemetry/counts.py)."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from smartbatch.shared import __version__
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names
from smartbatch.shared.telemetry.counts import FIELD, Counts, encode
from smartbatch.shared.telemetry.process_usage import CpuTime, resident_bytes
from smartbatch.worker.core.batch import Batch, Limits
from smartbatch.worker.core.model import Model

_BOUNDS = (*names.ROWS_BUCKETS, math.inf)


class WorkerMetrics:
    """One per process, with a registry of its own. Any thread may call it."""

    def __init__(self, model: str, worker_id: str) -> None:
        """`model` is the model's ID."""
        self.registry = CollectorRegistry()
        self._label = label = {**dict(zip(names.MODEL, names.model_labels(model), strict=True)), "worker": worker_id}
        batches = names.BATCHES.counter(self.registry)
        entries = names.ENTRIES.counter(self.registry)
        self._batches = {reason: batches.labels(closed=reason, **label) for reason in names.BATCHES.values}
        self._entries = {outcome: entries.labels(outcome=outcome, **label) for outcome in names.ENTRIES.values}
        self._batch_rows = names.BATCH_ROWS.histogram(self.registry).labels(**label)
        self._batch_requests = names.BATCH_REQUESTS.histogram(self.registry).labels(**label)
        self._queue_wait = names.QUEUE_WAIT.histogram(self.registry).labels(**label)
        self._decode = names.DECODE.histogram(self.registry).labels(**label)
        self._batch_wait = names.BATCH_WAIT.histogram(self.registry).labels(**label)
        self._forward_s = names.FORWARD.histogram(self.registry).labels(**label)
        self.device_wait = names.DEVICE_WAIT.histogram(self.registry).labels(**label)
        self.paused_turns = names.PAUSED_TURNS.counter(self.registry).labels(**label)
        self._predicted_s = names.PREDICTED_FORWARD.counter(self.registry).labels(**label)
        self._padding = names.PADDING.histogram(self.registry).labels(**label)
        self._request_forward_s = names.REQUEST_FORWARD.counter(self.registry).labels(**label)
        self._rows = names.ROWS.counter(self.registry).labels(**label)
        self.redeliveries = names.REDELIVERIES.counter(self.registry).labels(**label)
        self.dead_workers_found = names.DEAD_WORKERS_FOUND.counter(self.registry).labels(**label)
        self.bisections = names.BISECTIONS.counter(self.registry).labels(**label)
        self.out_of_memory = names.OUT_OF_MEMORY.counter(self.registry).labels(**label)
        self.memory_limit = names.MEMORY_BATCH_LIMIT.gauge(self.registry).labels(**label)
        self._speedup = names.SPEEDUP.gauge(self.registry)
        self._info = names.WORKER_INFO.gauge(self.registry)
        self._batch_limit = names.BATCH_LIMIT.gauge(self.registry).labels(**label)
        self._window = names.WINDOW.gauge(self.registry).labels(**label)
        self._capacity = names.CAPACITY.gauge(self.registry).labels(**label)
        self._device_memory = names.DEVICE_MEMORY.gauge(self.registry)
        self._cpu_time = CpuTime()
        self._cpu = names.WORKER_CPU.counter(self.registry).labels(**label)
        self._memory = names.WORKER_MEMORY.gauge(self.registry).labels(**label)
        names.WORKER_START.gauge(self.registry).labels(**label).set(time.time())
        self._busy = names.DEVICE_BUSY.counter(self.registry).labels(**label)
        self.starved = names.DEVICE_STARVED.counter(self.registry).labels(**label)
        self.broker_errors = names.WORKER_BROKER_ERRORS.counter(self.registry).labels(**label)
        self.last_progress = names.LAST_PROGRESS.gauge(self.registry).labels(**label)
        self._last_batch_ms = 0
        self._counts: Counts = {
            "total": {"requests": 0, "rows": 0},
            "batch_rows": {f"{bound:g}": 0 for bound in _BOUNDS},
            "closed": dict.fromkeys(names.BATCHES.values, 0),
            "entries": dict.fromkeys(names.ENTRIES.values, 0),
            "seconds": dict.fromkeys(("queue", "decode", "batch_wait", "forward", "busy", "predicted"), 0.0),
            "size": {"real": 0, "padded": 0},
        }

    def report(self) -> dict[str, Any]:
        """Return the fields for the heartbeat: a few readable totals, and all counts packed."""
        entries = self._counts["entries"]
        return {
            "batches": sum(self._counts["closed"].values()),
            "rows": self._counts["total"]["rows"],
            "entries": sum(entries.values()),
            "failed": entries["error"] + entries["dead"],
            "last_batch_ms": self._last_batch_ms,
            FIELD: encode(self._counts),
        }

    def forward(self, seconds: float) -> None:
        self._forward_s.observe(seconds)
        self._busy.inc(seconds)
        self._counts["seconds"]["busy"] += seconds

    def sample(self, model: Model, settings: Settings, limits: Limits, rows_per_s: float) -> None:
        """Update the gauges: variant, limits, capacity, and use of CPU and memory."""
        variant = model.variant
        for gauge in (self._speedup, self._info):
            gauge.clear()  # drops the series of labels that no longer apply
        self._speedup.labels(variant=variant.name, **self._label).set(variant.gain)
        labels = {"model_path": settings.model_path, "device": model.device_name, "dtype": settings.dtype}
        self._info.labels(release=__version__, **labels, **self._label).set(1)
        self._batch_limit.set(limits.max_rows)
        self._window.set(limits.window_s)
        self._capacity.set(rows_per_s)
        for state, size in model.device_memory().items():
            self._device_memory.labels(state=state, **self._label).set(size)
        self._cpu.inc(self._cpu_time.delta_s())
        self._memory.set(resident_bytes())

    def batch(self, batch: Batch, outcomes: Mapping[str, int]) -> None:
        """Record a finished batch and the outcomes of its entries.

        A batch of which no row reached the device is not counted, but the queue wait of its entries is.
        """
        for outcome, entries in outcomes.items():
            self.outcome(outcome, entries)
        total, seconds = self._counts["total"], self._counts["seconds"]
        for claimed in batch.ended_entries:
            waited_s = claimed.claimed_at - claimed.admitted_at
            self._queue_wait.observe(waited_s)
            seconds["queue"] += waited_s
        total["requests"] += len(batch.ended_entries)
        rows = batch.rows_run
        if not rows:
            return
        ran = [claimed for claimed in batch.ended_entries if claimed.outputs]
        self._batches[batch.closed].inc()
        self._counts["closed"][batch.closed] += 1
        self._batch_rows.observe(rows)
        self._counts["batch_rows"][f"{_BOUNDS[bisect_left(_BOUNDS, rows)]:g}"] += 1
        self._batch_requests.observe(len(ran))
        self._request_forward_s.inc(batch.forward_s * len(ran))
        seconds["forward"] += batch.forward_s * len(ran)
        self._predicted_s.inc(batch.predicted_s)
        seconds["predicted"] += batch.predicted_s
        if batch.real_size:
            self._padding.observe(batch.padded_size / batch.real_size)
            self._counts["size"]["real"] += batch.real_size
            self._counts["size"]["padded"] += batch.padded_size
        self._rows.inc(rows)
        total["rows"] += rows
        for claimed in ran:
            waited_s = max(0.0, batch.started_at - claimed.claimed_at - claimed.decode_s)
            self._decode.observe(claimed.decode_s)
            self._batch_wait.observe(waited_s)
            seconds["decode"] += claimed.decode_s
            seconds["batch_wait"] += waited_s
        self._last_batch_ms = int(time.time() * 1000)

    def outcome(self, outcome: str, entries: int = 1) -> None:
        """Count entries with this outcome, one of ENTRIES.values."""
        self._entries[outcome].inc(entries)
        self._counts["entries"][outcome] += entries
