"""One request that runs a model, step by step: its head, its body, its way to the workers, its response. Nothing here
waits; who drives it does (`endpoint.py`, `http/prompt.py`, `rpc/infer.py`). Each protocol has its own kind of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from smartbatch.gateway.auth.principal import ANONYMOUS, Anonymous
from smartbatch.gateway.core.problems import code_of, problem, status_of
from smartbatch.gateway.core.tracing import ServerSpan
from smartbatch.gateway.formats import render
from smartbatch.gateway.inference.params import printable
from smartbatch.gateway.queue.pending import Outcome, Pending, PendingFuture
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import BodyTimeout, ClientGone, DeadlineExceeded, SmartBatchError, Unavailable
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.telemetry.trace_context import TraceContext
from smartbatch.shared.wire import BatchInfo, Payload, Reply, pack_payload, unpack_reply

Headers = list[tuple[bytes, bytes]]


class Response(NamedTuple):
    """Without Content-Length, which is the length of `content`."""

    status: int
    headers: Headers
    content: bytes


class InferenceRequest(ABC):
    """Its stages in their order: `head`, `request`, `submit` (or `submit_and_tell`), `answered`. Each may raise, and
    what it raised goes to `failed`. So every request ends in exactly one response, one count and one forgetting; in
    one span, if it is traced, and one log line, if it failed."""

    # Here for their defaults: one is made for each request.
    _principal: Anonymous = ANONYMOUS
    _hurried = False  # its timeout is of the client's own choice
    _timeout_ms = 0
    _rows = 0
    _context: TraceContext | None = None  # what goes on to the worker, and into log lines
    _span: ServerSpan | None = None  # if it is traced
    _batch_info: BatchInfo | None = None  # once its reply is there
    _pending: Pending | None = None

    def __init__(self, gateway: GatewayServices) -> None:
        self.started_at = time.monotonic()
        self._gateway = gateway
        self._request_id = self._shown_id = gateway.next_request_id()
        self._queue = gateway.queue(None)

    @property
    def deadline_at(self) -> float:
        """Monotonic. Known after `head`."""
        return self.started_at + self._timeout_ms / 1000

    @property
    def coding(self) -> str:
        """How the content of the answer is to be compressed, where that makes it shorter. Known after `head`."""
        return ""

    # --- of each protocol

    @abstractmethod
    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> None:
        """Read headers and query, and refuse what is refused before its body is read."""

    @abstractmethod
    def request(self, body: bytes) -> NewEntry:
        """Check the body against what the model takes, and pack it. In any thread."""

    @abstractmethod
    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        """Make the response of a reply that holds a result."""

    @abstractmethod
    def _traced_as(self) -> tuple[str, dict[str, Any]]:
        """Name and attributes of its span, by OpenTelemetry's conventions."""

    def _ended_as(self, status: int) -> dict[str, Any]:
        """Further attributes, once it has ended so (as HTTP has it)."""
        return {"http.response.status_code": status}

    # --- of all

    def _take_up(self, found: Mapping[bytes, str], headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Take up the client's id, and the trace that the headers name (trace_context.HEADERS, in `found`), or begin
        one. Before anything is refused: its refusal shows them too."""
        if text := found.get(b"x-request-id"):
            self._shown_id = printable(text) or self._request_id
        self._context = trace_context.read_headers(found)
        if (tracing := self._gateway.tracing) is not None:
            self._context, self._span = tracing.enter(self._traced_as()[0], self._context)
            if self._span is not None:
                self._span.user_agent = next((value for name, value in headers if name == b"user-agent"), b"")

    def _enter(self, model: str | None) -> None:
        """Count the request against its caller's limits, and find the model's lane."""
        self._principal.enter(model or self._queue.keys.model)
        if model is not None:
            self._queue = self._gateway.queue(model)

    def _wait_at_most(self, timeout_s: float | None) -> None:
        """Set the timeout; None: the client said nothing."""
        self._hurried = timeout_s is not None
        self._timeout_ms = self._gateway.timeout_ms(timeout_s)

    def _check(self) -> None:
        """Refuse what can't be taken now."""
        self._queue.check(self._timeout_ms)

    def _packed(self, payload: Payload) -> NewEntry:
        packed, rows = pack_payload(payload), payload.rows
        self._rows = rows
        context = self._context
        if self._span is not None and context is not None:
            context = context._replace(sent_us=time.time_ns() // 1000)
        trace = "" if context is None else trace_context.write_field(context)
        return NewEntry(self._request_id, self._timeout_ms, rows, payload.kind, packed, trace)

    def submit(self, request: NewEntry) -> PendingFuture:
        self._pending = pending = self._queue.submit(request, self.started_at)
        return pending

    def submit_and_tell(self, request: NewEntry, ended: Callable[[Outcome], None]) -> Pending:
        self._pending = pending = self._queue.submit_and_tell(request, self.started_at, ended)
        return pending

    def answered(self, packed: bytes) -> Response:
        """Make the response of a reply. Raises the error that the reply holds."""
        pending = self._pending
        assert pending is not None
        reply = unpack_reply(packed)
        self._queue.finished(pending, answered=True)
        self._pending = None
        total_ms = (time.monotonic() - self.started_at) * 1000
        beside_ms = max(0.0, total_ms - sum(reply.ms.values()))  # not with the worker
        # A worker may begin before this side reads that it was admitted.
        admit_ms = min((pending.admitted_at - self.started_at) * 1000, beside_ms)
        reply_ms = beside_ms - admit_ms
        if self._span is not None:
            self._span.admitted_at = pending.admitted_at
            self._span.reply_s = reply_ms / 1000 if reply.ms else 0.0  # else the rest is no reply's
        self._batch_info = reply.batch
        if reply.error is not None:
            raise reply.error
        timing = render.timing_ms(reply, admit_ms=admit_ms, reply_ms=reply_ms, total_ms=total_ms)
        response = self._response(reply, timing)
        self._queue.metrics.answered(timing, pending.request.rows, reply.batch)
        if self._span is not None:
            self._end_span(200)
        return response

    def failed(self, error: Exception) -> Response | None:
        """Make the response of an error; None if nobody is there to read it."""
        self.record_failure(error)
        if isinstance(error, ClientGone):
            return None
        status, texts, content = problem(error, self._request_id)
        texts["x-request-id"] = self._shown_id
        if isinstance(error, BodyTimeout):
            texts["connection"] = "close"
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in texts.items()]
        return Response(status, headers, content)

    def record_failure(self, error: Exception) -> None:
        """Forget, count and log a request that ended without its result."""
        pending = self._pending
        self.release()
        self._queue.metrics.failed(error, time.monotonic() - self.started_at)
        told = self._gateway.request_log.tell(error, self._log_fields)
        if (span := self._span) is not None:
            if pending is not None and pending.admitted:
                span.admitted_at = pending.admitted_at
            if told or span.admitted_at:  # what is refused in a storm has no span either
                self._end_span(status_of(error), code_of(error))
        if _our_fault(error, hurried=self._hurried):
            self._principal.give_back()

    def _end_span(self, status: int, error: str = "") -> None:
        span, self._span = self._span, None
        assert span is not None
        facts = {
            **self._traced_as()[1],
            **self._ended_as(status),
            "smartbatch.request_id": self._request_id,
            "smartbatch.model": self._queue.keys.model,
            "smartbatch.rows": self._rows,
        }
        span.end(self.started_at, facts, self._batch_info, error=error, ours=status >= 500)

    def _log_fields(self) -> dict[str, Any]:
        """What a log line says of it besides how it ended."""
        ended = {"request_id": self._request_id}
        if self._context is not None:
            ended["trace_id"] = self._context.trace_id
        if self._batch_info is not None:
            ended["batch_id"] = self._batch_info.id
        if self._principal.name:
            ended["key"] = self._principal.name
        duration_ms = round((time.monotonic() - self.started_at) * 1000, 3)
        return {**ended, "model": self._queue.keys.model, "rows": self._rows, "duration_ms": duration_ms}

    def release(self) -> None:
        """Free the place of a request that nobody waits for any more. Harmless at any time, and to repeat."""
        if self._pending is not None:
            self._queue.finished(self._pending, answered=False)
            self._pending = None


def _our_fault(error: Exception, *, hurried: bool) -> bool:
    """Whether a request that ended so counts against nobody's quota. A poison does, and a timeout of the client's own
    choice: else either would be free."""
    if isinstance(error, DeadlineExceeded):
        return not hurried
    return isinstance(error, Unavailable) or not isinstance(error, SmartBatchError)
