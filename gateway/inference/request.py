"""One request that runs a model, from its head to its response, for every protocol.

The drivers call its steps: the fast path (http/fast_path.py) and the endpoints that await (http/endpoint.py and
grpc/infer.py).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.core.problems import code_of, status_of
from smartbatch.gateway.core.tracing import ServerSpan
from smartbatch.gateway.formats.render import timing_ms
from smartbatch.gateway.inference.codec import Codec, Response
from smartbatch.gateway.inference.parts import Part, join, split
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import ClientError, ClientGone, DeadlineExceeded, SmartBatchError, Unavailable, WireError
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.telemetry.trace_context import TraceContext
from smartbatch.shared.wire import BatchInfo, Payload, pack_payload, pack_reply, unpack_reply

MAX_ID_CHARS = 128
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.001, 86400.0  # of X-Request-Timeout

# float() accepts more: 1_0, nan, 1e3, blanks and the digits of every script
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")


class InferenceRequest:
    """The steps are `parse_head`, `read_body` (if `codec.model_in_body`), `parse_body`, `submit` (or `reply`)
    and `finish`. Each may raise, and the driver passes the error to `fail`. So every request ends in exactly one
    response, and is counted and released once. A traced request ends in one span, a failed one in one log line.

    It implements QueuedRequest: the model queue contains the same object.
    """

    # Class attributes are the defaults, since one instance is created for each request.
    entry: NewEntry  # set by `parse_body`, unless it sets `_parts`
    _parts: Sequence[Part] = ()  # of a request with more rows than a batch may have
    _submitted = 0  # how many of them
    principal: Principal | None = None  # None: no API keys are configured
    admitted_at = 0.0
    partition: Any = None
    waiting = False
    answered = False  # set only for parts
    _queued = False  # in the model queue, which must release it
    _on_outcome: Callable[[Outcome], None] | None = None
    _client_timeout = False  # the client chose the timeout
    _headers: Iterable[tuple[bytes, bytes]] = ()  # if the body names the model
    _rows = 0
    _trace: TraceContext | None = None  # goes to the worker and into log lines
    _span: ServerSpan | None = None
    _batch: BatchInfo | None = None  # known once the reply has come

    def __init__(self, services: RequestServices, codec: Codec) -> None:
        self.started_at = time.monotonic()
        self.codec = codec
        self.id = self.client_id = next(services.request_ids)
        self.queue = services.default_queue
        self.timeout_ms = int(services.settings.request_timeout * 1000)
        self.deadline_at = self.started_at + self.timeout_ms / 1000
        self._services = services

    def parse_head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> None:
        """Read headers and query, and refuse what can be refused before the body is read."""
        services, codec = self._services, self.codec
        found = read_headers(headers, codec.header_names)
        # The id and the trace first: error responses and logs contain them.
        if text := found.get(b"x-request-id"):
            self.client_id = printable(text) or self.id
        self._trace = trace_context.read_headers(found)
        if services.tracing is not None:
            self._trace, self._span = services.tracing.start_span(codec.span()[0], self._trace)
            if self._span is not None:
                self._span.user_agent = next((value for name, value in headers if name == b"user-agent"), b"")
        if services.authenticator is not None:
            self.principal = services.authenticator.identify(headers)
        if b"x-request-timeout" in found:
            self._shorten_timeout(read_timeout(found[b"x-request-timeout"]))
        codec.parse_head(found, query)
        if codec.timeout_s is not None:
            self._shorten_timeout(codec.timeout_s)
        if self.principal is not None:
            self.principal.authorize(None if codec.model_in_body else codec.model or self.queue.name)
        codec.check_head()
        if codec.model_in_body:
            self._headers = headers
        else:
            self.queue = services.route(codec.model, codec.version, headers, self.timeout_ms)

    def read_body(self, body: bytes) -> None:
        """Find the model queue by the body, for protocols that name the model there. Called in the event loop."""
        codec = self.codec
        codec.read_body(body)
        if self.principal is not None:
            self.principal.check_model(codec.model or self.queue.name)
        self.queue = self._services.route(codec.model, codec.version, self._headers, self.timeout_ms)

    def parse_body(self, body: bytes) -> None:
        """Check the body against the model's input and pack it for the worker. May be called in another thread."""
        services, codec = self._services, self.codec
        info = services.model_infos.get(self.queue.model)
        payload = codec.parse_body(body, info, services.settings.max_request_rows)
        if codec.timeout_s is not None:
            self._shorten_timeout(codec.timeout_s)
        self._rows = payload.rows
        most = info.max_batch_size if info else services.settings.max_batch_size
        if self._rows > most:
            self._parts = [Part(self, self._entry(part, n)) for n, part in enumerate(split(payload, most), 1)]
        else:
            self.entry = self._entry(payload)

    def _entry(self, payload: Payload, part: int = 0) -> NewEntry:
        trace = self._trace
        if self._span is not None and trace is not None:
            trace = trace._replace(sent_us=time.time_ns() // 1000)
        trace_field = "" if trace is None else trace_context.write_field(trace)
        entry_id = f"{self.id}.{part}" if part else self.id
        return NewEntry(entry_id, self.timeout_ms, payload.rows, payload.kind, pack_payload(payload), trace_field)

    def submit(self, on_outcome: Callable[[Outcome], None]) -> None:
        """Put the request into the model queue. `on_outcome` is called once, in the event loop, and must not raise."""
        self._on_outcome = on_outcome
        if self._parts:
            self.queue.check_rows(self._rows, self.timeout_ms)
        self._queued = self.waiting = True
        if self._parts:
            for _ in range(self.queue.parts_at_once):
                self._submit_part()
        else:
            self.queue.submit(self)

    def _submit_part(self) -> None:
        """Submit the next part, if one is left. Only some are in the queue at once, so that a request of thousands of
        rows lets others in between."""
        if self._submitted == len(self._parts):
            return
        part = self._parts[self._submitted]
        self._submitted += 1
        part.queue = self.queue
        part.entry.timeout_ms = max(1, int((self.deadline_at - time.monotonic()) * 1000))
        self.queue.submit(part)

    async def reply(self) -> bytes:
        """Submit the request, and await the packed reply. Raises the error that ends it."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def resolve(outcome: Outcome) -> None:
            if future.done():  # its waiter was cancelled
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.submit(resolve)
        return await future

    def end(self, outcome: Outcome) -> None:
        """Pass the outcome on, unless the request has ended or was never submitted."""
        # The callback isn't kept: a request in a reference cycle would hold its body until a garbage collection.
        on_outcome, self._on_outcome = self._on_outcome, None
        self.waiting = False
        if on_outcome is not None:
            on_outcome(outcome)

    def move_to(self, queue: ModelQueue) -> bool:
        """Let another version answer the request, unless the client chose one or the other takes other inputs."""
        infos = self._services.model_infos
        own, other = infos.get(self.queue.model), infos.get(queue.model)
        if self.queue is not queue:
            if self.codec.version or own is None or other is None or not own.takes_the_same(other):
                return False
            self.queue = queue
        return True

    def part_answered(self, part: Part) -> None:
        """Process a part's reply. The last one, or an error, ends the request."""
        part.answered = True
        part.queue.release(part, answered=True)
        if part.reply.error is not None:
            self.end(pack_reply(part.reply))
        elif self._submitted < len(self._parts):
            self._submit_part()
        elif all(part.answered for part in self._parts):
            self.admitted_at = max(part.admitted_at for part in self._parts)
            replies = [part.reply for part in self._parts]
            for reply in replies:
                self.queue.metrics.batch(reply.batch)
            try:
                self.end(pack_reply(join(replies)))
            except WireError as error:
                self.end(error)

    def finish(self, packed: bytes) -> Response:
        """Render the response to a packed reply. Raises the reply's error, if it has one."""
        reply = unpack_reply(packed)
        self._queued = False
        if not self._parts:
            self.queue.release(self, answered=True)
        total_ms = (time.monotonic() - self.started_at) * 1000
        gateway_ms = max(0.0, total_ms - sum(reply.ms.values()))
        # A worker may start before this process has read that the request was admitted.
        admit_ms = min((self.admitted_at - self.started_at) * 1000, gateway_ms)
        reply_ms = gateway_ms - admit_ms
        if self._span is not None:
            self._span.admitted_at = self.admitted_at
            self._span.reply_s = reply_ms / 1000 if reply.ms else None  # without a forward there is no such part
        self._batch = reply.batch
        if reply.error is not None:
            raise reply.error
        timing = timing_ms(reply, admit_ms=admit_ms, reply_ms=reply_ms, total_ms=total_ms)
        response = self.codec.render_reply(
            reply,
            timing,
            model=self.queue.name,
            version=self.queue.version,
            request_id=self.id,
            client_id=self.client_id,
        )
        self.queue.metrics.answered(timing, self._rows)
        if not self._parts:
            self.queue.metrics.batch(reply.batch)
        if self._span is not None:
            self._end_span(200)
        return response

    def fail(self, error: Exception) -> Response | None:
        """Record the error and render its response; None if the client has gone."""
        self.record_failure(error)
        if isinstance(error, ClientGone):
            return None
        return self.codec.render_error(error, request_id=self.id, client_id=self.client_id)

    def record_failure(self, error: Exception) -> None:
        """Release, count and log a request that ended without a result."""
        self.release()
        self.queue.metrics.failed(error, time.monotonic() - self.started_at)
        logged = self._services.request_log.write(error, self._log_fields)
        if (span := self._span) is not None:
            span.admitted_at = self.admitted_at
            if logged or span.admitted_at:  # errors beyond the log's rate limit get no span either
                self._end_span(status_of(error), code_of(error))
        if self.principal is not None and self._is_refunded(error):
            self.principal.refund()

    def release(self) -> None:
        """Leave the model queue without a reply. May be called at any time, and repeatedly."""
        self.waiting, self._on_outcome = False, None
        if self._queued:
            self._queued = False
            for queued in self._parts or (self,):
                queued.waiting = False
                if not queued.answered and queued.queue is not None:
                    queued.queue.release(queued, answered=False)

    def _shorten_timeout(self, seconds: float) -> None:
        """Apply a timeout that the client requested. REQUEST_TIMEOUT is the maximum."""
        self._client_timeout = True
        self.timeout_ms = max(1, min(self.timeout_ms, int(seconds * 1000)))
        self.deadline_at = self.started_at + self.timeout_ms / 1000

    def _is_refunded(self, error: Exception) -> bool:
        """Return whether the request doesn't count against its key's quota because the server failed. Poison inputs and
        timeouts chosen by the client do count; otherwise they would be free."""
        if isinstance(error, DeadlineExceeded):
            return not self._client_timeout
        return isinstance(error, Unavailable) or not isinstance(error, SmartBatchError)

    def _end_span(self, status: int, error: str = "") -> None:
        span, self._span = self._span, None
        assert span is not None
        attributes = {
            **self.codec.span()[1],
            **self.codec.response_attributes(status),
            "smartbatch.request_id": self.id,
            "smartbatch.model": self.queue.model,
            "smartbatch.rows": self._rows,
        }
        span.end(self.started_at, attributes, self._batch, error=error, server_fault=status >= 500)

    def _log_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"request_id": self.id}
        if self._trace is not None:
            fields["trace_id"] = self._trace.trace_id
        if self._batch is not None:
            fields["batch_id"] = self._batch.id
        if self.principal is not None:
            fields["key"] = self.principal.name
        duration_ms = round((time.monotonic() - self.started_at) * 1000, 3)
        return {**fields, "model": self.queue.model, "rows": self._rows, "duration_ms": duration_ms}


def read_headers(headers: Iterable[tuple[bytes, bytes]], names: Container[bytes]) -> dict[bytes, str]:
    """Return the headers with these names as text."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in names:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text  # one list (RFC 9110, section 5.3)
    return found


def read_timeout(text: str) -> float:
    """Parse X-Request-Timeout, in seconds. Raises ClientError."""
    value = float(text) if _DECIMAL.fullmatch(text.strip()) else -1.0
    if not MIN_TIMEOUT_S <= value <= MAX_TIMEOUT_S:
        least, most = f"{MIN_TIMEOUT_S:g}", f"{MAX_TIMEOUT_S:g}"
        raise ClientError(f"X-Request-Timeout: expected a number of seconds from {least} to {most}, got {text[:40]!r}")
    return value


def printable(text: str) -> str:
    """Return a client's text if it is safe to echo and log, otherwise an empty one."""
    return text if len(text) <= MAX_ID_CHARS and text.isascii() and text.isprintable() else ""
