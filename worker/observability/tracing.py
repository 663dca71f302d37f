"""The worker's spans: one for each batch, with links to its requests; and for each sampled request `queue`, `decode`,
`batch_wait` and `forward`, as children of the gateway's span.

A batch has a trace of its own, since it belongs to no single request. All spans are created after the batch has ended,
from times that were measured anyway, on this host's wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import ClientError, SmartBatchError
from smartbatch.shared.keys import split_model_id
from smartbatch.shared.telemetry.trace_context import TraceContext, new_span_id, new_trace_id, read_field
from smartbatch.shared.telemetry.tracing import start_spans
from smartbatch.worker.core.batch import Batch, ClaimedEntry

if TYPE_CHECKING:
    from smartbatch.shared.telemetry.spans import SpanContext, Spans

# A larger difference between two hosts' clocks is corrected. A smaller one may be the error of the measurement: the
# admission is known to a millisecond, and happens when a flush arrives.
MIN_SKEW_NS = 20_000_000
SKEW_WINDOW_S = 60.0  # a measured skew is used for one to two of these


class Tracing:
    """One per process. Any thread may call it."""

    def __init__(self, spans: Spans, model: str, worker_id: str) -> None:
        """`model` is the model's ID."""
        self._spans = spans
        self._model, self._version = split_model_id(model)
        self._worker_id = worker_id
        self._skews = ClockSkews()

    def batch(self, batch: Batch, device: str, encoding_at: float, encoded_at: float) -> None:
        """Export the spans of a batch. Its replies were encoded from `encoding_at` to `encoded_at`, monotonic."""
        sampled = _sampled(batch.claimed_entries)
        if not sampled:
            return
        spans, clock = self._spans, _Clock()
        own = spans.span_context(TraceContext(new_trace_id(), new_span_id(), True))
        links = [
            spans.link(spans.span_context(context, remote=True), {"smartbatch.request_id": claimed.entry.id})
            for claimed, context in sampled
        ]
        attributes = {
            "messaging.system": "redis_streams",
            "messaging.operation.type": "process",
            "messaging.batch.message_count": len(batch.claimed_entries),
            "smartbatch.model": self._model,
            "smartbatch.model_version": self._version,
            "smartbatch.worker": self._worker_id,
            "smartbatch.device": device,
            "smartbatch.rows_run": batch.rows_run,
            "smartbatch.deliveries": max(claimed.entry.deliveries for claimed in batch.claimed_entries),
            **_batch_attributes(batch),
        }
        claimed_at = min(claimed.claimed_at for claimed in batch.claimed_entries)
        spans.add_batch(f"batch {self._model}", own, clock.ns(claimed_at), clock.ns(encoded_at), attributes, links)
        if batch.started_at:
            begin, end = clock.ns(batch.started_at), clock.ns(batch.started_at + batch.forward_s)
            spans.add("forward", spans.child(own), own, begin, end, {"smartbatch.rows": batch.rows_run})
        spans.add("encode", spans.child(own), own, clock.ns(encoding_at), clock.ns(encoded_at), {})
        for claimed, context in sampled:
            self._add_entry_spans(claimed, context, batch, own, clock)

    def dead_letter(self, entry: Entry, claimed_at: float, admitted_at: float, error: SmartBatchError) -> None:
        """Export the span of an entry that became a dead letter without being run."""
        context = read_field(entry.trace)
        if context is not None and context.sampled:
            parent, clock = self._spans.span_context(context, remote=True), _Clock()
            self._correct(clock, context, entry.gateway, admitted_at)
            attributes = {**self._delivery(entry), "error.type": error.code}
            begin, end = clock.ns(admitted_at), clock.ns(claimed_at)
            self._spans.add("queue", self._spans.child(parent), parent, begin, end, attributes, error=error.code)

    def close(self) -> None:
        self._spans.close()

    def _delivery(self, entry: Entry) -> dict[str, Any]:
        return {"smartbatch.deliveries": entry.deliveries, "smartbatch.worker": self._worker_id}

    def _correct(self, clock: _Clock, context: TraceContext, gateway: str, admitted_at: float) -> None:
        """Set the clock to that of the gateway that sent this request, if it differs from this host's."""
        clock.skew_ns = 0
        if context.sent_us:
            skew_ns = self._skews.update(gateway, clock.ns(admitted_at) - context.sent_us * 1000)
            clock.skew_ns = skew_ns if abs(skew_ns) > MIN_SKEW_NS else 0

    def _add_entry_spans(
        self, claimed: ClaimedEntry, context: TraceContext, batch: Batch, own: SpanContext, clock: _Clock
    ) -> None:
        self._correct(clock, context, claimed.entry.gateway, claimed.admitted_at)
        stages = _stages(claimed, batch)
        spans, parent = self._spans, self._spans.span_context(context, remote=True)
        last = stages[-1][0]
        for name, begin, end in stages:
            attributes: dict[str, Any] = {}
            links, events = (), ()
            if name == "queue":
                attributes = self._delivery(claimed.entry)
                if claimed.entry.deliveries > 1:
                    events = (("redelivered", clock.ns(end), attributes),)
            elif name == "forward":
                attributes, links = _batch_attributes(batch), (spans.link(own),)
            error_type = _error_type(claimed) if name == last else ""
            if error_type:
                attributes = {**attributes, "error.type": error_type}
            at_fault = not (claimed.cancelled or isinstance(claimed.error, ClientError))
            spans.add(
                name,
                spans.child(parent),
                parent,
                clock.ns(begin),
                clock.ns(end),
                attributes,
                links=links,
                events=events,
                error=error_type if at_fault else "",
            )


class ClockSkews:
    """How far this host's clock is ahead of each gateway's: the smallest recent difference between the time of sending
    and that of admission. A slow transmission only increases the difference."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._smallest: dict[str, int] = {}  # by gateway, in the present window
        self._previous: dict[str, int] = {}  # in the window before
        self._window_end = 0.0

    def update(self, gateway: str, measured_ns: int) -> int:
        """Add a measurement and return the gateway's skew."""
        if self._clock() > self._window_end:
            self._previous, self._smallest = self._smallest, {}
            self._window_end = self._clock() + SKEW_WINDOW_S
        self._smallest[gateway] = smallest = min(measured_ns, self._smallest.get(gateway, measured_ns))
        return min(smallest, self._previous.get(gateway, smallest))


class _Clock:
    """Converts monotonic times to wall clock times of this host, or of a gateway whose clock is `skew_ns` behind."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self.skew_ns = 0

    def ns(self, at: float) -> int:
        return self._offset_ns - self.skew_ns + int(at * 1e9)


def _sampled(claimed_entries: Sequence[ClaimedEntry]) -> list[tuple[ClaimedEntry, TraceContext]]:
    contexts = [(claimed, read_field(claimed.entry.trace)) for claimed in claimed_entries]
    return [(claimed, context) for claimed, context in contexts if context is not None and context.sampled]


def _stages(claimed: ClaimedEntry, batch: Batch) -> list[tuple[str, float, float]]:
    """Return the stages that the entry passed in this worker, in order: name, begin and end, monotonic."""
    stages = [("queue", claimed.admitted_at, claimed.claimed_at)]
    if claimed.decode_s:
        stages.append(("decode", claimed.decoded_at - claimed.decode_s, claimed.decoded_at))
    if claimed.outputs:  # it reached the device
        stages.append(("batch_wait", claimed.decoded_at, max(claimed.decoded_at, batch.started_at)))
        stages.append(("forward", batch.started_at, batch.started_at + batch.forward_s))
    elif claimed.rows and batch.started_at:
        stages.append(("batch_wait", claimed.decoded_at, batch.started_at))
    return stages


def _error_type(claimed: ClaimedEntry) -> str:
    """Return why the entry has no result; empty if it has one."""
    if claimed.error is not None:
        return claimed.error.code
    if claimed.cancelled:
        return "cancelled"
    return "lost" if claimed.lost else ""


def _batch_attributes(batch: Batch) -> dict[str, Any]:
    return {
        "smartbatch.batch.id": batch.id,
        "smartbatch.batch.rows": batch.rows,
        "smartbatch.batch.requests": len(batch.claimed_entries),
        "smartbatch.batch.closed": batch.closed,
    }


def start_tracing(model: str, worker_id: str) -> Tracing | None:
    """Return None, without importing OpenTelemetry, unless tracing is configured."""
    spans = start_spans("worker", worker_id)
    return None if spans is None else Tracing(spans, model, worker_id)
