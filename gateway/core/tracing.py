"""Creates the gateway's spans: one for each sampled request, with the children `admit` and `reply`. The worker creates
the children between those, under the span id in the queue entry.

Sampling is decided once, when a request's headers are read. The client's trace context of an unsampled request is
passed on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smartbatch.shared.telemetry.trace_context import TraceContext, new_span_id
from smartbatch.shared.telemetry.tracing import Sampling, sampling, start_spans
from smartbatch.shared.wire import BatchInfo

if TYPE_CHECKING:
    from smartbatch.shared.telemetry.spans import Spans

MAX_USER_AGENT_CHARS = 200


class Tracing:
    """One per process, in its event loop."""

    def __init__(self, spans: Spans, sampling: Sampling) -> None:
        self._spans = spans
        self._sampling = sampling

    def start_span(self, name: str, parent: TraceContext | None) -> tuple[TraceContext | None, ServerSpan | None]:
        """Return the trace context that a new request propagates, and its span if it is sampled."""
        if parent is None:
            number = random.getrandbits(128) or 1
            if not self._sampling.samples(number, None):
                return None, None
            context = TraceContext(f"{number:032x}", new_span_id(), True)
        elif self._sampling.samples(int(parent.trace_id, 16), parent):
            context = TraceContext(parent.trace_id, new_span_id(), True, parent.state)
        else:
            return parent._replace(sampled=False), None
        return context, ServerSpan(self._spans, name, context, parent)

    def close(self) -> None:
        self._spans.close()


class ServerSpan:
    """The span of one request in progress. Created by `Tracing`, ended once, by its InferenceRequest."""

    __slots__ = ("_context", "_name", "_parent", "_spans", "admitted_at", "reply_s", "user_agent")

    def __init__(self, spans: Spans, name: str, context: TraceContext, parent: TraceContext | None) -> None:
        self._spans = spans
        self._name = name
        self._context = context
        self._parent = parent
        self.user_agent = b""
        self.admitted_at = 0.0  # monotonic; 0: not admitted
        self.reply_s: float | None = None  # from the end of the forward to the response; None: no forward

    def end(
        self,
        started_at: float,
        attributes: Mapping[str, Any],
        batch_info: BatchInfo | None,
        *,
        error: str = "",
        server_fault: bool = False,
    ) -> None:
        """End the span now and export it. `error` is an error code; `server_fault`: the server caused it."""
        spans = self._spans
        now, now_ns = time.monotonic(), time.time_ns()
        start_ns = now_ns - int((now - started_at) * 1e9)
        attributes = {**attributes, **_batch_attributes(batch_info)}
        if self.user_agent:
            attributes["user_agent.original"] = self.user_agent[:MAX_USER_AGENT_CHARS].decode("latin-1")
        if error:
            attributes["error.type"] = error
        own = spans.span_context(self._context)
        spans.add_server(
            self._name, own, self._parent, start_ns, now_ns, attributes, error=error if server_fault else ""
        )
        if self.admitted_at:
            spans.add(
                "admit", spans.child(own), own, start_ns, start_ns + int((self.admitted_at - started_at) * 1e9), {}
            )
        if self.reply_s is not None:
            spans.add("reply", spans.child(own), own, now_ns - int(self.reply_s * 1e9), now_ns, {})


def _batch_attributes(batch_info: BatchInfo | None) -> dict[str, Any]:
    if batch_info is None:
        return {}
    return {
        "smartbatch.batch.id": batch_info.id,
        "smartbatch.batch.rows": batch_info.rows,
        "smartbatch.batch.requests": batch_info.requests,
        "smartbatch.batch.closed": batch_info.closed,
        "smartbatch.worker": batch_info.worker,
        "smartbatch.deliveries": batch_info.deliveries,
    }


def start_tracing(gateway_id: str) -> Tracing | None:
    """Return None unless tracing is configured."""
    spans = start_spans("gateway", gateway_id)
    return None if spans is None else Tracing(spans, sampling())
