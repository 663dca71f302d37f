"""Answers an inference request that came whole in one read, and small, without a task and without ASGI.

Most requests are such. The boundary: a FastPathCycle stands where an AsgiRequestCycle stands for other requests, and
hands over to one if the body turns out to be incomplete or large, or the client reads too slowly. Through ASGI a small
request takes 1.35 to 1.5 times the CPU time (`make bench ONLY=E`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from smartbatch.gateway.http.asgi_cycle import AsgiRequestCycle
from smartbatch.gateway.http.heads import Head, Headers
from smartbatch.gateway.inference import compression
from smartbatch.gateway.inference.codec import Codec, Response
from smartbatch.gateway.inference.parsing import LARGE_BYTES
from smartbatch.gateway.inference.predict import PATH as PREDICT
from smartbatch.gateway.inference.predict import PredictCodec
from smartbatch.gateway.inference.request import InferenceRequest
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.gateway.oip.infer import PATH as INFER
from smartbatch.gateway.oip.infer import OipCodec
from smartbatch.gateway.openai.embeddings import PATH as EMBEDDINGS
from smartbatch.gateway.openai.embeddings import EmbeddingsCodec
from smartbatch.gateway.openai.rerank import PATH as RERANK
from smartbatch.gateway.openai.rerank import RerankCodec
from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.shared.errors import ClientGone

log = logging.getLogger(__name__)


# By path. The paths of the Open Inference Protocol contain the model's name.
_CODECS: dict[str, Callable[[], Codec]] = {PREDICT: PredictCodec, EMBEDDINGS: EmbeddingsCodec, RERANK: RerankCodec}


def is_inference_path(path: str) -> bool:
    """Return whether a POST to this path runs a model."""
    return path in _CODECS or INFER.fullmatch(path) is not None


def codec_for(path: str) -> Codec:
    """Return a codec for a POST to an inference path."""
    new_codec = _CODECS.get(path)
    return OipCodec(path) if new_codec is None else new_codec()


def is_eligible(head: Head) -> bool:
    """Return whether a request may take the fast path. One with a compressed body, or that waits for a 100, may not."""
    if head.method != b"POST" or not is_inference_path(head.path) or head.version != "1.1" or head.expects_100:
        return False
    return b"content-encoding" not in dict(head.headers)


class Host(Protocol):
    """What a FastPathCycle needs of its Connection."""

    flow: FlowControl

    def send(self, status: int, headers: Headers, content: bytes, *, keep_alive: bool) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def on_response_complete(self) -> None: ...
    def hand_over(self, cycle: FastPathCycle) -> AsgiRequestCycle: ...


class FastPathCycle:
    """One request and its response on a connection. Event loop only."""

    # Class attributes are the defaults, since one instance is created for each request.
    persistent = True
    more_body = True
    keep_alive = False
    started = False
    disconnected = False
    response_complete = False
    error: Exception | None = None  # answers the request in place of a result
    _request: InferenceRequest | None = None  # until it has ended

    def __init__(self, connection: Host, services: RequestServices, head: Head) -> None:
        self._connection = connection
        self._services = services
        self.head = head
        self.chunks: list[bytes] = []  # of the body

    # --- called by the connection, as of an AsgiRequestCycle

    def receive_body(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def body_complete(self, *, keep_alive: bool) -> None:
        self.more_body = False
        self.keep_alive = keep_alive

    def body_incomplete(self, *, keep_alive: bool) -> None:
        """The read has ended, and more of the body is to come."""
        self._connection.hand_over(self).body_incomplete(keep_alive=keep_alive)

    def fail(self, error: Exception) -> None:
        """Answer with `error`: at once, or when the cycle is started."""
        self.error = error
        if self._request is not None:
            self._request.end(error)

    def disconnect(self) -> None:
        self.disconnected = True
        if self._request is not None:
            self._request.end(ClientGone("the client hung up"))

    def start(self) -> None:
        """Process the request. It ends in `_on_outcome`, at once or later."""
        body = b"".join(self.chunks)  # which copies nothing if there is one
        if len(body) > min(LARGE_BYTES, self._services.settings.max_body_bytes) or self._connection.flow.write_paused:
            self._connection.hand_over(self).start()
            return
        self.started = True
        head = self.head
        self.chunks = []
        self._request = request = InferenceRequest(self._services, codec_for(head.path))
        try:
            request.parse_head(head.headers, head.query)
            if self.error is not None:
                raise self.error
            if request.codec.model_in_body:
                request.read_body(body)
            request.parse_body(body)
            request.submit(self._on_outcome)
        except Exception as error:
            self._on_outcome(error)

    # --- within

    def _on_outcome(self, outcome: Outcome) -> None:
        """Send the response. Called by whoever ended the request, so nothing is raised."""
        request, self._request = self._request, None
        assert request is not None
        try:
            response = _response(request, outcome)
            coding = request.codec.content_coding
            if response is not None and coding and compression.is_worthwhile(response):
                self._services.watch(self._send_compressed(response, coding))
            else:
                self._send(response)
        except Exception:
            self._abort()

    async def _send_compressed(self, response: Response, coding: str) -> None:
        try:
            if not self.disconnected:
                self._send(await compression.compress(self._services, response, coding))
        except Exception:
            self._abort()

    def _abort(self) -> None:
        log.exception("a request ended without a response")
        self._connection.abort()

    def _send(self, response: Response | None) -> None:
        if response is None or self.disconnected:
            return
        connection = self._connection
        connection.send(*response, keep_alive=self.keep_alive)
        self.response_complete = True
        if not self.keep_alive:
            connection.close()
        connection.on_response_complete()


def _response(request: InferenceRequest, outcome: Outcome) -> Response | None:
    if isinstance(outcome, Exception):
        return request.fail(outcome)
    try:
        return request.finish(outcome)
    except Exception as error:
        return request.fail(error)
