"""What a worker counts. Declared in shared/telemetry/metric_names.py; exported by the worker on its METRICS_PORT,
and through its report on Redis by every gateway."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Histogram

from smartbatch.shared import __version__
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names
from smartbatch.shared.telemetry.buffered_histogram import BufferedHistogram
from smartbatch.shared.telemetry.process_usage import CpuTime, resident_bytes
from smartbatch.worker.core.batch import Batch, Limits
from smartbatch.worker.core.model import Model


class WorkerMetrics:
    """One worker's metrics, in a registry of their own. Any thread may count."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        label = {"model": model}
        batches = names.BATCHES.counter(self.registry)
        entries = names.ENTRIES.counter(self.registry)
        self._batches = {reason: batches.labels(model, reason) for reason in names.BATCHES.values}
        self._entries = {outcome: entries.labels(model, outcome) for outcome in names.ENTRIES.values}
        self.batch_rows = names.BATCH_ROWS.histogram(self.registry).labels(**label)
        self.batch_requests = names.BATCH_REQUESTS.histogram(self.registry).labels(**label)
        self.queue_wait = names.QUEUE_WAIT.histogram(self.registry).labels(**label)
        self.decode = names.DECODE.histogram(self.registry).labels(**label)
        self.batch_wait = names.BATCH_WAIT.histogram(self.registry).labels(**label)
        self.forward_s = names.FORWARD.histogram(self.registry).labels(**label)
        self.request_forward_s = names.REQUEST_FORWARD.counter(self.registry).labels(**label)
        self.rows = names.ROWS.counter(self.registry).labels(**label)
        self.redeliveries = names.REDELIVERIES.counter(self.registry).labels(**label)
        self.failure_detector = names.CONVICTIONS.counter(self.registry).labels(**label)
        self.bisections = names.BISECTIONS.counter(self.registry).labels(**label)
        self.out_of_memory = names.OUT_OF_MEMORY.counter(self.registry).labels(**label)
        self.memory_limit = names.CEILING.gauge(self.registry).labels(**label)
        self._speedup = names.SPEEDUP.gauge(self.registry)
        self._info = names.WORKER_INFO.gauge(self.registry)
        self._batch_limit = names.BATCH_LIMIT.gauge(self.registry).labels(**label)
        self._window = names.WINDOW.gauge(self.registry).labels(**label)
        self._capacity = names.CAPACITY.gauge(self.registry).labels(**label)
        self._device_memory = names.DEVICE_MEMORY.gauge(self.registry)
        self._used = CpuTime()
        self._cpu = names.WORKER_CPU.counter(self.registry).labels(**label)
        self._memory = names.WORKER_MEMORY.gauge(self.registry).labels(**label)
        names.WORKER_START.gauge(self.registry).labels(**label).set(time.time())
        self._model = model
        self.busy = names.DEVICE_BUSY.counter(self.registry).labels(**label)
        self.starved = names.DEVICE_STARVED.counter(self.registry).labels(**label)
        self.broker_errors = names.WORKER_BROKER_ERRORS.counter(self.registry).labels(**label)
        self.last_progress = names.LAST_PROGRESS.gauge(self.registry).labels(**label)
        self.totals = {"batches": 0, "rows": 0, "entries": 0, "failed": 0, "last_batch_ms": 0}

    def forward(self, seconds: float) -> None:
        self.forward_s.observe(seconds)
        self.busy.inc(seconds)

    def look(self, model: Model, settings: Settings, limits: Limits, rows_per_s: float) -> None:
        """Take in what isn't counted: how the worker serves just now, and what it uses of its machine."""
        variant = model.variant
        for replaced in (self._speedup, self._info):
            replaced.clear()  # what was so before is no longer shown
        self._speedup.labels(self._model, variant.name).set(variant.gain)
        self._info.labels(self._model, settings.model_path, model.device_name, settings.dtype, __version__).set(1)
        self._batch_limit.set(limits.max_rows)
        self._window.set(limits.window_s)
        self._capacity.set(rows_per_s)
        for state, size in model.device_memory().items():
            self._device_memory.labels(self._model, state).set(size)
        self._cpu.inc(self._used.more_s())
        self._memory.set(resident_bytes())

    def batch(self, batch: Batch, counts: Mapping[str, int]) -> None:
        """Count a batch that is through, and how its entries ended. One of which nothing reached the device was none,
        but they have waited all the same."""
        for outcome, entries in counts.items():
            self.outcome(outcome, entries)
        _observe(self.queue_wait, [claimed.claimed_at - claimed.admitted_at for claimed in batch.claimed_entries])
        rows = batch.rows_run
        if not rows:
            return
        ran = [claimed for claimed in batch.claimed_entries if claimed.outputs]
        self._batches[batch.closed].inc()
        self.batch_rows.observe(rows)
        self.batch_requests.observe(len(ran))
        self.request_forward_s.inc(batch.forward_s * len(ran))
        self.rows.inc(rows)
        _observe(self.decode, [claimed.decode_s for claimed in ran])
        _observe(self.batch_wait, [max(0.0, batch.started_at - claimed.decoded_at) for claimed in ran])
        self.totals["batches"] += 1
        self.totals["rows"] += rows
        self.totals["last_batch_ms"] = int(time.time() * 1000)

    def outcome(self, outcome: str, entries: int = 1) -> None:
        """Count entries by what became of them: one of ENTRIES'."""
        self._entries[outcome].inc(entries)
        self.totals["entries"] += entries
        self.totals["failed"] += entries * (outcome in ("error", "dead"))


def _observe(histogram: Histogram, values: Iterable[float]) -> None:
    tally = BufferedHistogram(histogram)
    tally.observe_all(values)
    tally.settle()
