"""One POST /predict, step by step: its head, its body, its way to the workers, its response. Nothing here waits; who
drives it does (`predict.py`, `http/prompt.py`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway import formats
from gateway.access.caller import ANYONE, Anyone
from gateway.envelope import Envelope, read_envelope
from gateway.formats import accept, answers
from gateway.formats.accept import Format, wants_outputs
from gateway.gateway import Gateway
from gateway.pending import Awaited, Outcome, Pending
from gateway.problems import problem
from shared.broker.admission import Request
from shared.errors import (
    BodyTimeout,
    ClientGone,
    DeadlineExceeded,
    Forbidden,
    LimitReached,
    SmartBatchError,
    Unauthenticated,
    Unavailable,
)
from shared.settings import Settings
from shared.wire import pack_payload, unpack_reply

log = logging.getLogger(__name__)

DEFAULT_TOP_K = 5
REFUSED = (Unauthenticated, Forbidden, LimitReached)  # at the door: before the body is read


class Response(NamedTuple):
    """Without Content-Length, which is the length of `content`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes


class Asking:
    """Its stages in their order: `head`, `request`, `submit` (or `submit_and_tell`), `answered`. Each may raise, and
    what it raised goes to `failed`. So every request ends in exactly one response, one count and one forgetting."""

    __slots__ = (
        "_answer_format",
        "_caller",
        "_envelope",
        "_gateway",
        "_lane",
        "_pending",
        "_request_id",
        "_shown_id",
        "_timeout_ms",
        "started_at",
    )

    def __init__(self, gateway: Gateway) -> None:
        self.started_at = time.monotonic()
        self._gateway = gateway
        self._request_id = self._shown_id = gateway.next_request_id()
        self._lane = gateway.lane(None)
        self._caller: Anyone = ANYONE
        self._envelope: Envelope | None = None
        self._answer_format = Format.JSON
        self._timeout_ms = 0
        self._pending: Pending | None = None

    @property
    def deadline_at(self) -> float:
        """Monotonic. Known after `head`."""
        return self.started_at + self._timeout_ms / 1000

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> None:
        """Read headers and query, and refuse what is refused before its body is read."""
        gateway = self._gateway
        self._caller = gateway.guard.identify(headers)
        self._envelope = envelope = read_envelope(headers, query)
        self._shown_id = envelope.client_id or self._request_id
        self._caller.enter(envelope.model or gateway.settings.model)
        if envelope.model:
            self._lane = gateway.lane(envelope.model)
        self._answer_format = accept.negotiate(envelope.accept)
        self._timeout_ms = _timeout_ms(envelope, gateway.settings)
        self._lane.check(self._timeout_ms)

    def request(self, body: bytes) -> Request:
        """Check the body against what the model takes, and pack it. In any thread."""
        envelope = self._envelope
        assert envelope is not None
        settings = self._gateway.settings
        info = self._gateway.info(self._lane.keys.model)
        max_rows = info.max_batch_size if info else settings.max_batch_size
        payload = formats.parse(body, envelope.content_type, info, max_rows=max_rows)
        top_k = envelope.top_k if envelope.top_k is not None else DEFAULT_TOP_K
        if top_k and not wants_outputs(self._answer_format):
            payload.options = {"top_k": top_k}
        packed = pack_payload(payload)
        return Request(self._request_id, self._timeout_ms, payload.rows, payload.kind, packed, envelope.trace)

    def submit(self, request: Request) -> Awaited:
        self._pending = pending = self._lane.submit(request, self.started_at)
        return pending

    def submit_and_tell(self, request: Request, ended: Callable[[Outcome], None]) -> Pending:
        self._pending = pending = self._lane.submit_and_tell(request, self.started_at, ended)
        return pending

    def answered(self, packed: bytes) -> Response:
        """Make the response of a reply. Raises the error that the reply holds."""
        pending = self._pending
        assert pending is not None
        reply = unpack_reply(packed)
        self._lane.finished(pending, answered=True)
        self._pending = None
        if reply.error is not None:
            raise reply.error
        total_ms = (time.monotonic() - self.started_at) * 1000
        admit_ms = (pending.admitted_at - self.started_at) * 1000
        reply_ms = max(0.0, total_ms - admit_ms - sum(reply.ms.values()))
        timing = answers.timing_ms(reply, admit_ms=admit_ms, reply_ms=reply_ms, total_ms=total_ms)
        media, content = answers.render(
            self._answer_format, reply, model=self._lane.keys.model, request_id=self._request_id, timing=timing
        )
        headers = [(b"content-type", media.encode()), *answers.response_headers(self._shown_id, reply.batch, timing)]
        self._lane.meters.answered(timing)
        return Response(200, headers, content)

    def failed(self, error: Exception) -> Response | None:
        """Make the response of an error; None if nobody is there to read it."""
        self.forget()
        self._lane.meters.failed(error, time.monotonic() - self.started_at)
        _log(error, self._request_id, self._caller)
        if isinstance(error, ClientGone):
            return None
        status, texts, content = problem(error, self._request_id)
        if _our_fault(error, hurried=self._envelope is not None and self._envelope.timeout_s is not None):
            self._caller.give_back()
        texts["x-request-id"] = self._shown_id
        if isinstance(error, BodyTimeout):
            texts["connection"] = "close"
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in texts.items()]
        return Response(status, headers, content)

    def forget(self) -> None:
        """Free the place of a request that nobody waits for any more. Harmless at any time, and to repeat."""
        if self._pending is not None:
            self._lane.finished(self._pending, answered=False)
            self._pending = None


def _our_fault(error: Exception, *, hurried: bool) -> bool:
    """Whether a request that ended so counts against nobody's quota. A poison does, and a timeout of the client's own
    choice: else either would be free."""
    if isinstance(error, DeadlineExceeded):
        return not hurried
    return isinstance(error, Unavailable) or not isinstance(error, SmartBatchError)


def _timeout_ms(envelope: Envelope, settings: Settings) -> int:
    timeout_s = min(envelope.timeout_s or settings.request_timeout, settings.request_timeout)
    return max(1, int(timeout_s * 1000))


def _log(error: Exception, request_id: str, caller: Anyone) -> None:
    extra = {"request_id": request_id, "key": caller.name} if caller.name else {"request_id": request_id}
    if not isinstance(error, SmartBatchError):
        log.error("a request failed by an error of ours", exc_info=error, extra=extra)
    elif isinstance(error, REFUSED):
        log.debug("%s: %s", error.code, error, extra=extra)  # counted; a line for each would make a flood costly
    else:
        log.info("%s: %s", error.code, error, extra=extra)
