"""POST /predict: read the envelope, submit, await the reply, answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from gateway import formats
from gateway.access.caller import ANYONE, Anyone
from gateway.envelope import Envelope, read_envelope
from gateway.formats import accept, answers
from gateway.formats.accept import Format, wants_outputs
from gateway.gateway import Gateway
from gateway.lane import Lane
from gateway.pending import Pending
from gateway.problems import problem
from gateway.reading import inflate, read_body
from shared.broker.admission import Request
from shared.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    DeadlineExceeded,
    Forbidden,
    LimitReached,
    SmartBatchError,
    Unauthenticated,
    Unavailable,
)
from shared.settings import Settings
from shared.wire import Payload, Reply, pack_payload, unpack_reply

log = logging.getLogger(__name__)

DEFAULT_TOP_K = 5
REFUSED = (Unauthenticated, Forbidden, LimitReached)  # at the door: before the body is read
LARGE_BYTES = 128 * 1024  # a longer body is parsed in a thread, so that others are served meanwhile
SLOW_S = 0.05  # after so long a request is worth watching for its client hanging up


class Predict:
    """The endpoint; stateless. Every request ends in exactly one response, one count and one forgetting."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_at = time.monotonic()
        gateway: Gateway = scope["app"].state.gateway
        request_id = gateway.next_request_id()
        lane = gateway.lane(None)
        shown_id = request_id
        caller = ANYONE
        envelope = None
        try:
            caller = gateway.guard.identify(scope["headers"])
            envelope = read_envelope(scope)
            shown_id = envelope.client_id or request_id
            caller.enter(envelope.model or gateway.settings.model)
            lane = gateway.lane(envelope.model)
            answer_format = accept.negotiate(envelope.accept)
            settings = gateway.settings
            timeout_ms = _timeout_ms(envelope, settings)
            lane.check(timeout_ms)
            body = await read_body(scope, receive, settings.max_body_bytes, settings.request_timeout, gateway.receiving)
            make = partial(_request, gateway, lane, request_id, envelope, timeout_ms, answer_format)
            request = await _made(gateway, make, *body, started_at + timeout_ms / 1000)
            reply, timing = await _ask(lane, request, started_at, receive)
            model = lane.keys.model
            media, content = answers.render(answer_format, reply, model=model, request_id=request_id, timing=timing)
            headers = [(b"content-type", media.encode()), *answers.response_headers(shown_id, reply.batch, timing)]
            status = 200
            lane.meters.answered(timing)
        except Exception as error:
            lane.meters.failed(error, time.monotonic() - started_at)
            _log(error, request_id, caller)
            if isinstance(error, ClientGone):
                return
            status, texts, content = problem(error, request_id)
            if _our_fault(error, hurried=envelope is not None and envelope.timeout_s is not None):
                caller.give_back()
            texts["x-request-id"] = shown_id
            if isinstance(error, BodyTimeout):
                texts["connection"] = "close"
            headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in texts.items()]
        headers.append((b"content-length", b"%d" % len(content)))
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})
        except RuntimeError as error:  # uvicorn's, when the connection closed under it
            log.debug("an answer could not be sent: %s", error, extra={"request_id": request_id})


async def _made(gateway: Gateway, make: Callable[[bytes], Request], body: bytes, coding: str, until: float) -> Request:
    """Make the request of a body: a large one in the thread, within the bound on all bodies that are held for it, and
    not once its time is up."""
    if coding:
        with contextlib.suppress(BodyTooLarge):
            body, coding = inflate(body, coding, LARGE_BYTES), ""
    if not coding and len(body) <= LARGE_BYTES:
        return make(body)
    most = gateway.settings.max_body_bytes
    size = most if coding else len(body)
    gateway.receiving.take(size)
    try:
        async with asyncio.timeout_at(until):  # on the loop's clock, which is time.monotonic()
            return await gateway.in_thread(lambda: make(inflate(body, coding, most) if coding else body))
    except TimeoutError:
        raise DeadlineExceeded("its time was up before its large body was read") from None
    finally:
        gateway.receiving.give(size)


def _request(
    gateway: Gateway,
    lane: Lane,
    request_id: str,
    envelope: Envelope,
    timeout_ms: int,
    answer_format: Format,
    body: bytes,
) -> Request:
    """Check the body against what the model takes, and pack it."""
    settings = gateway.settings
    info = gateway.info(lane.keys.model)
    max_rows = info.max_batch_size if info else settings.max_batch_size
    payload: Payload = formats.parse(body, envelope.content_type, info, max_rows=max_rows)
    top_k = envelope.top_k if envelope.top_k is not None else DEFAULT_TOP_K
    if top_k and not wants_outputs(answer_format):
        payload.options = {"top_k": top_k}
    return Request(request_id, timeout_ms, payload.rows, payload.kind, pack_payload(payload), envelope.trace)


def _our_fault(error: Exception, *, hurried: bool) -> bool:
    """Whether a request that ended so counts against nobody's quota. A poison does, and a timeout of the client's own
    choice: else either would be free."""
    if isinstance(error, DeadlineExceeded):
        return not hurried
    return isinstance(error, Unavailable) or not isinstance(error, SmartBatchError)


def _timeout_ms(envelope: Envelope, settings: Settings) -> int:
    timeout_s = min(envelope.timeout_s or settings.request_timeout, settings.request_timeout)
    return max(1, int(timeout_s * 1000))


async def _ask(lane: Lane, request: Request, started_at: float, receive: Receive) -> tuple[Reply, dict[str, float]]:
    """Submit and await the reply. Returns it with the parts of its time, in ms. Raises what the reply holds."""
    pending = lane.submit(request, started_at)
    loop = asyncio.get_running_loop()
    watch = _Watch(lane, pending, receive)
    timer = loop.call_later(min(SLOW_S, request.timeout_ms / 1000), watch.start)
    answered = False
    try:
        reply = unpack_reply(await pending.future)
        answered = True
    finally:
        timer.cancel()
        watch.stop()
        lane.finished(pending, answered=answered)
    if reply.error is not None:
        raise reply.error
    total_ms = (time.monotonic() - started_at) * 1000
    admit_ms = (pending.admitted_at - started_at) * 1000
    reply_ms = max(0.0, total_ms - admit_ms - sum(reply.ms.values()))
    return reply, answers.timing_ms(reply, admit_ms=admit_ms, reply_ms=reply_ms, total_ms=total_ms)


class _Watch:
    """Watches a request that takes long: its deadline, and whether its client is still there. Most never get one."""

    def __init__(self, lane: Lane, pending: Pending, receive: Receive) -> None:
        self._lane = lane
        self._pending = pending
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        left_s = self._pending.deadline_at - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._lane.expire, self._pending)
        self._task = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except SmartBatchError as error:  # the connection ends, and says why
            self._pending.fail(error)
        else:
            self._pending.fail(ClientGone("the client hung up"))

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()


def _log(error: Exception, request_id: str, caller: Anyone) -> None:
    extra = {"request_id": request_id, "key": caller.name} if caller.name else {"request_id": request_id}
    if not isinstance(error, SmartBatchError):
        log.exception("a request failed by an error of ours", extra=extra)
    elif isinstance(error, REFUSED):
        log.debug("%s: %s", error.code, error, extra=extra)  # counted; a line for each would make a flood costly
    else:
        log.info("%s: %s", error.code, error, extra=extra)
