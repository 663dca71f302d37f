"""Exports spans through OpenTelemetry's SDK. Only a process that traces imports this module.

Each span is created after the work has ended, from times that were measured anyway. So no code of the SDK runs while a
request is in progress. The standard OTEL_ variables configure the SDK's limits, resource and exporter.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from smartbatch.shared import __version__
from smartbatch.shared.telemetry.trace_context import TraceContext

LINK_LIMIT = "OTEL_SPAN_LINK_COUNT_LIMIT"
CLOSE_TIMEOUT_S = 2.0
SDK_LOG_INTERVAL_S = 60.0  # the SDK logs the same error at every failed export

Attributes = Mapping[str, str | int | float | bool]
Event = tuple[str, int, Attributes]  # name, time in ns, attributes

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)


class _PresetIds(threading.local, IdGenerator):
    """Gives the thread's next span the IDs of `own`, because they are propagated before the span is created."""

    own: SpanContext

    def generate_trace_id(self) -> int:
        return self.own.trace_id

    def generate_span_id(self) -> int:
        return self.own.span_id


class Spans:
    """One per process. Any thread may add spans; `add` never waits and drops the span if the export queue is full."""

    def __init__(self, exporter: str, role: str, instance: str) -> None:
        for handler in logging.root.handlers:
            handler.addFilter(_SdkLogFilter())
        # A batch links to all its requests; the SDK's default limit is 128 links.
        unlimited = {} if LINK_LIMIT in os.environ else {"max_links": SpanLimits.UNSET}
        span_exporter: SpanExporter = ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter()
        self._ids = _PresetIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # the callers sample
            resource=_resource(role, instance),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=SpanLimits(**unlimited),
        )
        self._provider.add_span_processor(BatchSpanProcessor(span_exporter))
        self._tracer = self._provider.get_tracer("smartbatch", __version__)

    def span_context(self, context: TraceContext, *, remote: bool = False) -> SpanContext:
        """Convert a trace context to the SDK's type."""
        state = TraceState.from_header([context.state]) if context.state else None
        flags = _SAMPLED if context.sampled else _UNSAMPLED
        return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), remote, flags, state)

    def child(self, parent: SpanContext) -> SpanContext:
        """Return the context of a new span in the parent's trace."""
        return SpanContext(parent.trace_id, random.getrandbits(64) or 1, False, _SAMPLED, parent.trace_state)

    def link(self, context: SpanContext, attributes: Attributes | None = None) -> Link:
        return Link(context, attributes)

    def add_server(
        self,
        name: str,
        own: SpanContext,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        *,
        error: str = "",
    ) -> None:
        """Export the span of a request. `parent` is the client's span, None without one."""
        remote = None if parent is None else self.span_context(parent, remote=True)
        self.add(name, own, remote, start_ns, end_ns, attributes, kind=SpanKind.SERVER, error=error)

    def add_batch(
        self,
        name: str,
        own: SpanContext,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        links: Sequence[Link],
    ) -> None:
        """Export the span of a batch, with links to its requests."""
        self.add(name, own, None, start_ns, end_ns, attributes, kind=SpanKind.CONSUMER, links=links)

    def add(
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Link] = (),
        events: Sequence[Event] = (),
        error: str = "",
    ) -> None:
        """Export one span. Times are wall clock times. A non-empty `error` marks the span as failed."""
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(parent))
        self._ids.own = own
        span = self._tracer.start_span(name, context, kind, attributes, links, start_ns)
        for event, at_ns, event_attributes in events:
            span.add_event(event, event_attributes, at_ns)
        if error:
            span.set_status(StatusCode.ERROR, error)
        span.end(max(start_ns, end_ns))

    def close(self) -> None:
        """Export the remaining spans, waiting at most CLOSE_TIMEOUT_S for the collector."""
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)


def _resource(role: str, instance: str) -> Resource:
    """Create the resource. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    configured = OTELResourceDetector().detect().attributes
    ours = {"service.name": f"smartbatch-{role}", "service.version": __version__, "service.instance.id": instance}
    return Resource.create({name: value for name, value in ours.items() if name not in configured})


class _SdkLogFilter(logging.Filter):
    """Passes one OpenTelemetry log line per SDK_LOG_INTERVAL_S, and all lines of other loggers."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at = 0.0
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry"):
            return True
        now = time.monotonic()
        if now < self._next_at:
            self._suppressed += 1
            return False
        self._next_at = now + SDK_LOG_INTERVAL_S
        if self._suppressed:
            record.msg, record.args = f"{record.getMessage()} ({self._suppressed} similar lines suppressed)", None
        self._suppressed = 0
        return True
