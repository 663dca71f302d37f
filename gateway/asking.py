"""One request that runs a model, step by step: its head, its body, its way to the workers, its response. Nothing here
waits; who drives it does (`endpoint.py`, `http/prompt.py`, `rpc/infer.py`). Each protocol has its own kind of it."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.access.caller import ANYONE, Anyone
from gateway.formats import answers
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
from shared.wire import Payload, Reply, pack_payload, unpack_reply

log = logging.getLogger(__name__)

REFUSED = (Unauthenticated, Forbidden, LimitReached)  # at the door: before the body is read

Headers = list[tuple[bytes, bytes]]


class Response(NamedTuple):
    """Without Content-Length, which is the length of `content`."""

    status: int
    headers: Headers
    content: bytes


class Asking(ABC):
    """Its stages in their order: `head`, `request`, `submit` (or `submit_and_tell`), `answered`. Each may raise, and
    what it raised goes to `failed`. So every request ends in exactly one response, one count and one forgetting."""

    __slots__ = (
        "_caller",
        "_gateway",
        "_hurried",
        "_lane",
        "_pending",
        "_request_id",
        "_shown_id",
        "_timeout_ms",
        "_trace",
        "started_at",
    )

    def __init__(self, gateway: Gateway) -> None:
        self.started_at = time.monotonic()
        self._gateway = gateway
        self._request_id = self._shown_id = gateway.next_request_id()
        self._lane = gateway.lane(None)
        self._caller: Anyone = ANYONE
        self._hurried = False  # its timeout is of the client's own choice
        self._timeout_ms = 0
        self._trace = ""
        self._pending: Pending | None = None

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
    def request(self, body: bytes) -> Request:
        """Check the body against what the model takes, and pack it. In any thread."""

    @abstractmethod
    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        """Make the response of a reply that holds a result."""

    # --- of all

    def _enter(self, model: str | None) -> None:
        """Count the request against its caller's limits, and find the model's lane."""
        self._caller.enter(model or self._gateway.settings.model)
        if model is not None:
            self._lane = self._gateway.lane(model)

    def _wait_at_most(self, timeout_s: float | None) -> None:
        """Set the timeout; None: the client said nothing."""
        longest_s = self._gateway.settings.request_timeout
        self._hurried = timeout_s is not None
        self._timeout_ms = max(1, int(min(timeout_s or longest_s, longest_s) * 1000))

    def _check(self) -> None:
        """Refuse what can't be taken now."""
        self._lane.check(self._timeout_ms)

    def _packed(self, payload: Payload) -> Request:
        packed = pack_payload(payload)
        return Request(self._request_id, self._timeout_ms, payload.rows, payload.kind, packed, self._trace)

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
        response = self._response(reply, timing)
        self._lane.meters.answered(timing, pending.request.rows, reply.batch)
        return response

    def failed(self, error: Exception) -> Response | None:
        """Make the response of an error; None if nobody is there to read it."""
        self.account(error)
        if isinstance(error, ClientGone):
            return None
        status, texts, content = problem(error, self._request_id)
        texts["x-request-id"] = self._shown_id
        if isinstance(error, BodyTimeout):
            texts["connection"] = "close"
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in texts.items()]
        return Response(status, headers, content)

    def account(self, error: Exception) -> None:
        """Forget, count and log a request that ended without its result."""
        self.forget()
        self._lane.meters.failed(error, time.monotonic() - self.started_at)
        _log(error, self._request_id, self._caller)
        if _our_fault(error, hurried=self._hurried):
            self._caller.give_back()

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


def _log(error: Exception, request_id: str, caller: Anyone) -> None:
    extra = {"request_id": request_id, "key": caller.name} if caller.name else {"request_id": request_id}
    if not isinstance(error, SmartBatchError):
        log.error("a request failed by an error of ours", exc_info=error, extra=extra)
    elif isinstance(error, REFUSED):
        log.debug("%s: %s", error.code, error, extra=extra)  # counted; a line for each would make a flood costly
    else:
        log.info("%s: %s", error.code, error, extra=extra)
