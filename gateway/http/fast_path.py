"""A request that runs a model and came in one piece, as nearly all do: asked without a task, answered in one write.

It stands where an `Exchange` stands for every other request, and gives way to one when it turns out not to be prompt:
then it goes through ASGI to `gateway/http/endpoint.py`. Both drive the same `InferenceRequest`.
"""

from __future__ import annotations

import logging
from typing import Protocol

from smartbatch.gateway.http import heads
from smartbatch.gateway.http.dispatch import create_request, is_inference_path
from smartbatch.gateway.inference import compression
from smartbatch.gateway.inference.request import InferenceRequest, Response
from smartbatch.gateway.queue.pending import Outcome, Pending
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import ClientGone

log = logging.getLogger(__name__)


class Host(Protocol):
    """What it needs of its connection."""

    def send(self, status: int, headers: heads.Headers, content: bytes, *, keep_alive: bool) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def on_response_complete(self) -> None: ...


class FastPathCycle:
    """Event loop only. `ask` is called once: when it is this request's turn, and it has come whole."""

    persists = True
    # What most requests end with; set on the others.
    more_body = True
    keep_alive = False
    started = False
    gone = False
    response_complete = False
    fault: Exception | None = None
    _inference: InferenceRequest | None = None
    _pending: Pending | None = None

    def __init__(self, host: Host, gateway: GatewayServices, head: heads.Head) -> None:
        self._host = host
        self._gateway = gateway
        self.head = head
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """What has come of it; nothing any more once it was asked."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    @property
    def small(self) -> bool:
        """Whether its body may be read here and now, in the event loop."""
        return sum(map(len, self._pieces)) <= self._gateway.prompt_bytes

    # --- the connection's side, as an Exchange has it

    def received(self, body: bytes) -> None:
        self._pieces.append(body)

    def came_whole(self, *, keep_alive: bool) -> None:
        self.more_body = False
        self.keep_alive = keep_alive

    def fail(self, error: Exception) -> None:
        """Answer with `error`: at once, or when it is asked."""
        self.fault = error
        if self._pending is not None:
            self._pending.end(error)

    def hang_up(self) -> None:
        self.gone = True
        if self._pending is not None:
            self._pending.end(ClientGone("the client hung up"))

    def ask(self) -> None:
        self.started = True
        head = self.head
        self._inference = inference = create_request(self._gateway, head.path)
        try:
            inference.head(head.headers, head.query)
            if self.fault is not None:
                raise self.fault
            self._pending = inference.submit_and_tell(inference.request(self.body), self._ended)
        except Exception as error:
            self._ended(error)
        self._pieces = []

    # --- within

    def _ended(self, outcome: Outcome) -> None:
        """Called by whoever ended the request, and nothing that goes wrong here may disturb them."""
        inference, self._pending = self._inference, None
        assert inference is not None
        try:
            response = _response(inference, outcome)
            if response is not None and compression.wanted(response, inference.coding):
                self._gateway.watch(self._answer_compressed(response, inference.coding))
            else:
                self._answer(response)
        except Exception:
            self._give_up()

    async def _answer_compressed(self, response: Response, coding: str) -> None:
        try:
            if not self.gone:
                self._answer(await compression.compressed(self._gateway, response, coding))
        except Exception:
            self._give_up()

    def _give_up(self) -> None:
        log.exception("a request ended without an answer")
        self._host.abort()

    def _answer(self, response: Response | None) -> None:
        if response is None or self.gone:
            return
        host = self._host
        host.send(*response, keep_alive=self.keep_alive)
        self.response_complete = True
        if not self.keep_alive:
            host.close()
        host.on_response_complete()


def _response(inference: InferenceRequest, outcome: Outcome) -> Response | None:
    if isinstance(outcome, Exception):
        return inference.failed(outcome)
    try:
        return inference.answered(outcome)
    except Exception as error:
        return inference.failed(error)


def is_eligible(head: heads.Head) -> bool:
    """Whether it can be a prompt request's. A compressed body, or one that waits for a 100, never is."""
    if head.method != b"POST" or not is_inference_path(head.path) or head.version != "1.1" or head.expects_100:
        return False
    return b"content-encoding" not in dict(head.headers)
