"""What a worker counts. Declared in shared/metric_names.py; exported by the worker itself on its METRICS_PORT, and
through its report on Redis by every gateway."""

from __future__ import annotations

import time
from typing import get_args

from prometheus_client import CollectorRegistry

from shared import metric_names as names
from shared.tally import Tally
from worker.batch import Batch
from worker.models.contract import Optimisation
from worker.policy import CloseReason

OUTCOMES = ("ok", "invalid", "error", "expired", "cancelled", "lost", "dead")


class Meters:
    """One worker's metrics, in a registry of their own. Any thread may count."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        label = {"model": model}
        batches = names.BATCHES.counter(self.registry)
        entries = names.ENTRIES.counter(self.registry)
        self._batches = {reason: batches.labels(model, reason) for reason in get_args(CloseReason)}
        self._entries = {outcome: entries.labels(model, outcome) for outcome in OUTCOMES}
        self.batch_rows = names.BATCH_ROWS.histogram(self.registry).labels(**label)
        self.batch_requests = names.BATCH_REQUESTS.histogram(self.registry).labels(**label)
        self.queue_wait = names.QUEUE_WAIT.histogram(self.registry).labels(**label)
        self.decode = names.DECODE.histogram(self.registry).labels(**label)
        self.batch_wait = names.BATCH_WAIT.histogram(self.registry).labels(**label)
        self.forward_s = names.FORWARD.histogram(self.registry).labels(**label)
        self.request_forward_s = names.REQUEST_FORWARD.counter(self.registry).labels(**label)
        self.rows = names.ROWS.counter(self.registry).labels(**label)
        self.redeliveries = names.REDELIVERIES.counter(self.registry).labels(**label)
        self.convictions = names.CONVICTIONS.counter(self.registry).labels(**label)
        self.bisections = names.BISECTIONS.counter(self.registry).labels(**label)
        self.out_of_memory = names.OUT_OF_MEMORY.counter(self.registry).labels(**label)
        self.ceiling = names.CEILING.gauge(self.registry).labels(**label)
        self._speedup = names.SPEEDUP.gauge(self.registry)
        self._model = model
        self.busy = names.DEVICE_BUSY.counter(self.registry).labels(**label)
        self.starved = names.DEVICE_STARVED.counter(self.registry).labels(**label)
        self.broker_errors = names.WORKER_BROKER_ERRORS.counter(self.registry).labels(**label)
        self.last_progress = names.LAST_PROGRESS.gauge(self.registry).labels(**label)
        self.totals = {"batches": 0, "rows": 0, "entries": 0, "failed": 0, "last_batch_ms": 0}

    def forward(self, seconds: float) -> None:
        self.forward_s.observe(seconds)
        self.busy.inc(seconds)

    def serves_as(self, form: Optimisation) -> None:
        """Say in which form the model serves; the one before it is no longer shown."""
        self._speedup.clear()
        self._speedup.labels(self._model, form.name).set(form.gain)

    def batch(self, batch: Batch) -> None:
        """Count a batch that has run. One of which nothing reached the device was none."""
        rows = batch.rows_run
        if not rows:
            return
        self._batches[batch.closed].inc()
        self.batch_rows.observe(rows)
        self.batch_requests.observe(len(batch.riders))
        self.request_forward_s.inc(batch.forward_s * len(batch.riders))
        self.rows.inc(rows)
        queue_wait, decode, batch_wait = tallies = Tally(self.queue_wait), Tally(self.decode), Tally(self.batch_wait)
        for rider in batch.riders:
            queue_wait.observe(rider.claimed_at - rider.admitted_at)
            decode.observe(rider.decode_s)
            batch_wait.observe(max(0.0, batch.started_at - rider.decoded_at))
        for tally in tallies:
            tally.settle()
        self.totals["batches"] += 1
        self.totals["rows"] += rows
        self.totals["last_batch_ms"] = int(time.time() * 1000)

    def outcome(self, outcome: str) -> None:
        """Count an entry by what became of it: one of OUTCOMES."""
        self._entries[outcome].inc()
        self.totals["entries"] += 1
        self.totals["failed"] += outcome in ("error", "dead")
