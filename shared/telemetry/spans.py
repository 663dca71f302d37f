"""Spans, made after the fact from times that were measured anyway, and exported by a thread of OpenTelemetry's SDK.

Imported only by a process that traces. A span is started and ended at once, with both its times, so nothing of the SDK
runs while a request does. Limits, resource, exporter and the thread that feeds it are the SDK's, configured by the
standard OTEL_ variables.
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
CLOSE_S = 2.0  # how long the end of a process may wait for its last spans to leave
SAY_EVERY_S = 60.0  # what the SDK has to say is the same for as long as a collector is away

Attributes = Mapping[str, str | int | float | bool]
Event = tuple[str, int, Attributes]  # name, when in ns, attributes

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)


class _GivenIds(threading.local, IdGenerator):
    """Gives the next span of this thread the ids of `own`: ids travel before their span is made."""

    own: SpanContext

    def generate_trace_id(self) -> int:
        return self.own.trace_id

    def generate_span_id(self) -> int:
        return self.own.span_id


class Spans:
    """One per process. `add` may be called by any thread and never waits; what there is no room for is dropped."""

    def __init__(self, exporter: str, role: str, instance: str) -> None:
        _say_rarely()
        # A batch links all its requests; the SDK's default would be 128 of them.
        unlimited = {} if LINK_LIMIT in os.environ else {"max_links": SpanLimits.UNSET}
        exporting: SpanExporter = ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter()
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # who gets here was sampled
            resource=_resource(role, instance),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=SpanLimits(**unlimited),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporting))
        self._tracer = self._provider.get_tracer("smartbatch", __version__)

    def place(self, context: TraceContext, *, remote: bool = False) -> SpanContext:
        """Return a context as the SDK has it."""
        state = TraceState.from_header([context.state]) if context.state else None
        flags = _SAMPLED if context.sampled else _UNSAMPLED
        return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), remote, flags, state)

    def below(self, parent: SpanContext) -> SpanContext:
        """Return the context of a new span of the same trace."""
        return SpanContext(parent.trace_id, random.getrandbits(64) or 1, False, _SAMPLED, parent.trace_state)

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
        """Export the span of a request that a client, or nobody, made part of its trace."""
        above = None if parent is None else self.place(parent, remote=True)
        self.add(name, own, above, start_ns, end_ns, attributes, kind=SpanKind.SERVER, error=error)

    def add_batch(
        self,
        name: str,
        own: SpanContext,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        links: Sequence[Link],
    ) -> None:
        """Export the span of what was done for several requests at once, which it links."""
        self.add(name, own, None, start_ns, end_ns, attributes, kind=SpanKind.CONSUMER, links=links)

    def link(self, context: TraceContext, attributes: Attributes) -> Link:
        """Return a link to a span of another process."""
        return Link(self.place(context, remote=True), attributes)

    def to(self, own: SpanContext) -> Link:
        """Return a link to a span of this process."""
        return Link(own)

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
        """Make and export a span. Times are of the wall clock. `error` makes it a failed one."""
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(parent))
        self._ids.own = own
        span = self._tracer.start_span(name, context, kind, attributes, links, start_ns)
        for event, at_ns, said in events:
            span.add_event(event, said, at_ns)
        if error:
            span.set_status(StatusCode.ERROR, error)
        span.end(max(start_ns, end_ns))

    def close(self) -> None:
        """Export what is left, within CLOSE_S: a collector that is away keeps no process from ending."""
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def _resource(role: str, instance: str) -> Resource:
    """What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins."""
    given = OTELResourceDetector().detect().attributes
    ours = {"service.name": f"smartbatch-{role}", "service.version": __version__, "service.instance.id": instance}
    return Resource.create({name: value for name, value in ours.items() if name not in given})


def _say_rarely() -> None:
    """The SDK's own lines: at each export that fails there is one or more."""
    for handler in logging.root.handlers:
        handler.addFilter(_Rarely())


class _Rarely(logging.Filter):
    """Lets one line of OpenTelemetry's pass each minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry"):
            return True
        now = time.monotonic()
        if now < self._next_at:
            self._left_out += 1
            return False
        self._next_at = now + SAY_EVERY_S
        if self._left_out:
            record.msg, record.args = f"{record.getMessage()} ({self._left_out} such lines were left out)", None
        self._left_out = 0
        return True
