"""The worker's spans: one for each batch, which links its requests; and for each sampled request
`queue`, `decode`, `batch_wait` and `forward`, below the span that its gateway makes.

A batch belongs to no request's trace, so it has one of its own. All spans are made when a batch is through, from the
times that entries carry anyway; they stand on this host's wall clock.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import ClientError, SmartBatchError
from smartbatch.shared.telemetry.trace_context import TraceContext, new_span_id, new_trace_id, read_field
from smartbatch.shared.telemetry.tracing import started
from smartbatch.worker.core.batch import Batch, ClaimedEntry

if TYPE_CHECKING:
    from smartbatch.shared.telemetry.spans import SpanContext, Spans

# Clocks of two hosts that differ by more are taken to be wrong, and not an entry's time on Redis to be imprecise (it is
# known to a millisecond, and taken when a flush arrives).
CLOCKS_DIFFER_NS = 20_000_000
SKEW_S = 60.0  # for so long, to twice as long, a difference counts


class Tracing:
    """One per process. Any thread may call it."""

    def __init__(self, spans: Spans, model: str, worker_id: str) -> None:
        self._spans = spans
        self._model = model
        self._worker_id = worker_id
        self._skews = Skews()

    def batch(self, batch: Batch, device: str, encoding_at: float, encoded_at: float) -> None:
        """Make the spans of a batch that is through. `encoding_at` and `encoded_at`, monotonic: when its replies were
        being made."""
        sampled = _sampled(batch.claimed_entries)
        if not sampled:
            return
        spans, clock = self._spans, _Clock()
        own = spans.place(TraceContext(new_trace_id(), new_span_id(), True))
        links = [spans.link(context, {"smartbatch.request_id": claimed.entry.id}) for claimed, context in sampled]
        facts = {
            "messaging.system": "redis_streams",
            "messaging.operation.type": "process",
            "messaging.batch.message_count": len(batch.claimed_entries),
            "smartbatch.model": self._model,
            "smartbatch.worker": self._worker_id,
            "smartbatch.device": device,
            "smartbatch.rows_run": batch.rows_run,
            "smartbatch.deliveries": max(claimed.entry.deliveries for claimed in batch.claimed_entries),
            **_facts(batch),
        }
        claimed_at = min(claimed.claimed_at for claimed in batch.claimed_entries)
        spans.add_batch(f"batch {self._model}", own, clock.ns(claimed_at), clock.ns(encoded_at), facts, links)
        if batch.started_at:
            begin, end = clock.ns(batch.started_at), clock.ns(batch.started_at + batch.forward_s)
            spans.add("forward", spans.below(own), own, begin, end, {"smartbatch.rows": batch.rows_run})
        spans.add("encode", spans.below(own), own, clock.ns(encoding_at), clock.ns(encoded_at), {})
        for claimed, context in sampled:
            self._add_entry_spans(claimed, context, batch, own, clock)

    def put_aside(self, entry: Entry, claimed_at: float, admitted_at: float, error: SmartBatchError) -> None:
        """Make the span of an entry that became a dead letter without being run."""
        context = read_field(entry.trace)
        if context is not None and context.sampled:
            parent, clock = self._spans.place(context, remote=True), _Clock()
            clock.follow(context, admitted_at, self._skews.of(entry.gateway))
            facts = {**self._delivery(entry), "error.type": error.code}
            begin, end = clock.ns(admitted_at), clock.ns(claimed_at)
            self._spans.add("queue", self._spans.below(parent), parent, begin, end, facts, error=error.code)

    def close(self) -> None:
        self._spans.close()

    def _delivery(self, entry: Entry) -> dict[str, Any]:
        return {"smartbatch.deliveries": entry.deliveries, "smartbatch.worker": self._worker_id}

    def _add_entry_spans(
        self, claimed: ClaimedEntry, context: TraceContext, batch: Batch, own: SpanContext, clock: _Clock
    ) -> None:
        clock.follow(context, claimed.admitted_at, self._skews.of(claimed.entry.gateway))
        stages = _stages(claimed, batch)
        spans, parent = self._spans, self._spans.place(context, remote=True)
        last = stages[-1][0]
        for name, begin, end in stages:
            facts: dict[str, Any] = {}
            links, events = (), ()
            if name == "queue":
                facts = self._delivery(claimed.entry)
                if claimed.entry.deliveries > 1:
                    events = (("redelivered", clock.ns(end), facts),)
            elif name == "forward":
                facts, links = _facts(batch), (spans.to(own),)
            ended = _ended(claimed) if name == last else ""
            if ended:
                facts = {**facts, "error.type": ended}
            ours = "" if claimed.cancelled or isinstance(claimed.error, ClientError) else ended
            spans.add(
                name,
                spans.below(parent),
                parent,
                clock.ns(begin),
                clock.ns(end),
                facts,
                links=links,
                events=events,
                error=ours,
            )


class Skews:
    """How far this host's clock is ahead of each gateway's: the least that was seen lately between a request's sending
    and its admission, since being slow on the way only adds to it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._least: dict[str, int] = {}
        self._before: dict[str, int] = {}  # of the minute before
        self._until = 0.0

    def of(self, gateway: str) -> Callable[[int], int]:
        return functools.partial(self._take, gateway)

    def _take(self, gateway: str, seen_ns: int) -> int:
        if self._clock() > self._until:
            self._before, self._least, self._until = self._least, {}, self._clock() + SKEW_S
        self._least[gateway] = least = min(seen_ns, self._least.get(gateway, seen_ns))
        return min(least, self._before.get(gateway, least))


class _Clock:
    """Monotonic times as those of a wall clock: this host's, or that of a request's gateway if the two differ."""

    def __init__(self) -> None:
        self._here_ns = time.time_ns() - time.monotonic_ns()
        self._offset_ns = self._here_ns

    def follow(self, context: TraceContext, admitted_at: float, least: Callable[[int], int]) -> None:
        """Stand by the clock of the gateway that sent this request."""
        self._offset_ns = self._here_ns
        if context.sent_us:
            skew_ns = least(self.ns(admitted_at) - context.sent_us * 1000)
            if abs(skew_ns) > CLOCKS_DIFFER_NS:
                self._offset_ns -= skew_ns

    def ns(self, at: float) -> int:
        return self._offset_ns + int(at * 1e9)


def _sampled(claimed_entries: Sequence[ClaimedEntry]) -> list[tuple[ClaimedEntry, TraceContext]]:
    contexts = [(claimed, read_field(claimed.entry.trace)) for claimed in claimed_entries]
    return [(claimed, context) for claimed, context in contexts if context is not None and context.sampled]


def _stages(claimed: ClaimedEntry, batch: Batch) -> list[tuple[str, float, float]]:
    """What became of it here, one after the other: name, begin and end, monotonic."""
    stages = [("queue", claimed.admitted_at, claimed.claimed_at)]
    if claimed.decode_s:
        stages.append(("decode", claimed.decoded_at - claimed.decode_s, claimed.decoded_at))
    if claimed.outputs:  # it reached the device
        stages.append(("batch_wait", claimed.decoded_at, max(claimed.decoded_at, batch.started_at)))
        stages.append(("forward", batch.started_at, batch.started_at + batch.forward_s))
    elif claimed.rows and batch.started_at:
        stages.append(("batch_wait", claimed.decoded_at, batch.started_at))
    return stages


def _ended(claimed: ClaimedEntry) -> str:
    """Why it has no result of this batch; empty if it has."""
    if claimed.error is not None:
        return claimed.error.code
    if claimed.cancelled:
        return "cancelled"
    return "lost" if claimed.lost else ""


def _facts(batch: Batch) -> dict[str, Any]:
    return {
        "smartbatch.batch.id": batch.id,
        "smartbatch.batch.rows": batch.rows,
        "smartbatch.batch.requests": len(batch.claimed_entries),
        "smartbatch.batch.closed": batch.closed,
    }


def tracing_of(model: str, worker_id: str) -> Tracing | None:
    """None, and at no cost, unless tracing is asked for."""
    spans = started("worker", worker_id)
    return None if spans is None else Tracing(spans, model, worker_id)
