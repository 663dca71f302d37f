"""What a gateway process counts, per version of a model: as Prometheus metrics, and over the last seconds.

prometheus_client takes a lock for each number, and two for each observation of a histogram. So a request adds to plain
numbers, which are published before a scrape, and is observed once, in the histogram of its latency.
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram

from smartbatch.gateway.core.latency_window import LatencyWindow
from smartbatch.gateway.core.problems import code_of
from smartbatch.shared.errors import (
    CancelledByOperator,
    ClientError,
    ClientGone,
    DeadlineExceeded,
    Forbidden,
    LimitReached,
    SmartBatchError,
    Unauthenticated,
    Unavailable,
)
from smartbatch.shared.telemetry import metric_names as names
from smartbatch.shared.telemetry.counts import Counts
from smartbatch.shared.wire import BatchInfo

_OUTCOMES = (  # the first match counts
    ((ClientGone, CancelledByOperator), "cancelled"),
    ((Unauthenticated, Forbidden), "denied"),
    (LimitReached, "rejected"),
    (ClientError, "invalid"),
    (Unavailable, "rejected"),
    (DeadlineExceeded, "timeout"),
)


class GatewayMetrics:
    """One gateway process's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = names.REQUESTS.counter(self.registry)
        self._seconds = names.REQUEST_SECONDS.histogram(self.registry)
        self._parts = names.PART_SECONDS.counter(self.registry)
        self._errors = names.REQUEST_ERRORS.counter(self.registry)
        self._rows = names.ANSWERED_ROWS.counter(self.registry)
        self._batches = names.ANSWERED_BATCHES.counter(self.registry)
        self._copies = names.SHADOW_COPIES.counter(self.registry)
        self._readmissions = names.READMISSIONS.counter(self.registry)
        self._flushes = names.FLUSHES.counter(self.registry)
        self._broker_errors = names.GATEWAY_BROKER_ERRORS.counter(self.registry)
        closed = names.CONNECTIONS_CLOSED.counter(self.registry)
        self._closed = {reason: closed.labels(reason) for reason in names.CONNECTIONS_CLOSED.values}
        self._of_models: dict[names.Metric, Counter | Histogram] = {
            names.REQUESTS: self._requests,
            names.REQUEST_SECONDS: self._seconds,
            names.PART_SECONDS: self._parts,
            names.REQUEST_ERRORS: self._errors,
            names.ANSWERED_ROWS: self._rows,
            names.ANSWERED_BATCHES: self._batches,
            names.SHADOW_COPIES: self._copies,
            names.READMISSIONS: self._readmissions,
            names.FLUSHES: self._flushes,
            names.GATEWAY_BROKER_ERRORS: self._broker_errors,
        }
        self._queues: dict[str, ModelMetrics] = {}

    def connection_closed(self, reason: str) -> None:
        """Count a connection that the gateway closed; `reason` is one of CONNECTIONS_CLOSED.values."""
        self._closed[reason].inc()

    def of(self, model: str) -> ModelMetrics:
        """Return new metrics of a model's ID, with series from zero. Call `remove` before it is called again."""
        queue = self._queues[model] = ModelMetrics(self, *names.model_labels(model))
        return queue

    def remove(self, model: str) -> None:
        """Drop the series of a model's ID, whose metrics are not used any more.

        Several gateway processes share files from which no series can be removed: there it stays, and continues if the
        model returns.
        """
        if (queue := self._queues.pop(model, None)) is None:
            return
        queue.removed = True
        if _in_files():
            return
        labels = names.model_labels(model)
        for declared, metric in self._of_models.items():
            for last in [(value,) for value in declared.values] or [()]:
                metric.remove(*labels, *last)

    def publish(self) -> None:
        """Publish the counts of all models to Prometheus, before a scrape."""
        for queue in self._queues.values():
            queue.publish()


def _in_files() -> bool:
    """Return whether prometheus_client keeps values in files that several processes share."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


class ModelMetrics:
    """The metrics of one version of a model. Called from the event loop only."""

    def __init__(self, metrics: GatewayMetrics, *model: str) -> None:
        """`model` are the values of the labels MODEL."""
        self.removed = False
        self._outcomes = {
            outcome: _Total(metrics._requests.labels(*model, outcome)) for outcome in names.REQUESTS.values
        }
        of_codes = {code: _Total(metrics._errors.labels(*model, code)) for code in names.REQUEST_ERRORS.values}
        # A worker of another version may write a code into a reply that no request ends with here.
        self._errors = defaultdict(lambda: of_codes[SmartBatchError.code], of_codes)
        # An outcome's thirty series appear when it first happens, since most never do. Those of `ok` are there from
        # the start: a rate needs a sample from before the first answer.
        self._seconds = functools.cache(functools.partial(metrics._seconds.labels, *model))
        self._seconds("ok")
        self._parts = {part: _Total(metrics._parts.labels(*model, part)) for part in names.PART_SECONDS.values}
        self._rows = _Total(metrics._rows.labels(*model))
        self._batches = _Total(metrics._batches.labels(*model))
        self.readmissions = metrics._readmissions.labels(*model)
        self.flushes = metrics._flushes.labels(*model)
        self.broker_errors = metrics._broker_errors.labels(*model)
        self.recent = LatencyWindow()
        self.shadow = ShadowCounts()
        self._copies = {
            outcome: _Total(metrics._copies.labels(*model, outcome)) for outcome in names.SHADOW_COPIES.values
        }

    def answered(self, timing_ms: dict[str, float], rows: int) -> None:
        """Count an answered request by its parts and their total, and its rows."""
        total_s = timing_ms["total"] / 1000
        self._outcomes["ok"].value += 1
        self._seconds("ok").observe(total_s)
        for part, total in self._parts.items():
            total.value += timing_ms.get(part, 0.0) / 1000
        self._rows.value += rows
        self.recent.answered(total_s)

    def batch(self, batch_info: BatchInfo | None) -> None:
        """Count the batch of an entry that has a result, unless another entry of the batch counts it."""
        if batch_info is not None and batch_info.position == 1:
            self._batches.value += 1

    def failed(self, error: BaseException, total_s: float) -> None:
        if self.removed:  # a request may end after its version: its series must not come back
            return
        outcome, code = _outcome_of(type(error)), code_of(error)
        self._outcomes[outcome].value += 1
        self._errors[code].value += 1
        self._seconds(outcome).observe(total_s)
        self.recent.failed(outcome, code)

    def counts(self) -> Counts:
        """Return what the gateway reports about the model."""
        part_s = {part: total.value for part, total in self._parts.items()}
        return {"total": {"answered": self._outcomes["ok"].value}, "part": part_s}

    def publish(self) -> None:
        for total in (*self._outcomes.values(), *self._errors.values(), *self._parts.values()):
            total.publish()
        self._rows.publish()
        self._batches.publish()
        for outcome, value in self.shadow.by_outcome().items():
            self._copies[outcome].value = value
            self._copies[outcome].publish()


class ShadowCounts(msgspec.Struct):
    """Copies of requests for a shadow version (gateway/routing/shadow.py). `skipped`: requests that were not copied,
    as too many copies were in the queue. `failed`: copies that got no answer where the request got one. `largest`: the
    largest difference of two numbers."""

    compared: int = 0
    different: int = 0
    failed: int = 0
    skipped: int = 0
    largest: float = 0.0

    def by_outcome(self) -> dict[str, int]:
        same = self.compared - self.different
        return {"same": same, "different": self.different, "failed": self.failed, "skipped": self.skipped}


class _Total:
    """A counter for the hot path: a plain number that only grows."""

    __slots__ = ("_child", "_published", "value")

    def __init__(self, child: Counter) -> None:
        self._child = child
        self._published = 0.0
        self.value = 0.0

    def publish(self) -> None:
        self._child.inc(self.value - self._published)
        self._published = self.value


@functools.cache
def _outcome_of(kind: type[BaseException]) -> str:
    for kinds, outcome in _OUTCOMES:
        if issubclass(kind, kinds):
            return outcome
    return "error"
