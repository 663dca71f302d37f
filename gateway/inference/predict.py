"""A request to POST /predict."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from smartbatch.gateway import formats
from smartbatch.gateway.formats import accept, render
from smartbatch.gateway.formats.accept import Format, wants_outputs
from smartbatch.gateway.http.heads import Head
from smartbatch.gateway.inference.params import READ_HEADERS, RequestParams, printable, read_headers, read_params
from smartbatch.gateway.inference.request import InferenceRequest, Response, response_of
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.wire import Reply

PATH = "/predict"
DEFAULT_TOP_K = 5

_READ = READ_HEADERS.union(trace_context.HEADERS)
_SPAN = f"POST {PATH}"
_ATTRIBUTES = {"http.request.method": "POST", "url.scheme": "http", "url.path": PATH, "http.route": PATH}


class ParsedHead(NamedTuple):
    """What a head says. Nothing in it depends on who asks or when, so it holds for every request with this head."""

    found: Mapping[bytes, str]
    params: RequestParams
    answer_format: Format

    @property
    def plain(self) -> bool:
        """Whether it names neither a model nor a trace."""
        return self.params.model is None and trace_context.HEADERS[0] not in self.found


class PredictRequest(InferenceRequest):
    _answer_format = Format.JSON
    _content_type = ""
    _top_k = DEFAULT_TOP_K

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes, kept: Head | None = None) -> None:
        """`kept` keeps what was read, for other requests with the same head."""
        parsed: ParsedHead | None = kept.parsed if kept is not None else None
        found = parsed.found if parsed else read_headers(headers, _READ)
        self._take_up(found, headers)
        self._principal = self._gateway.authenticator.identify(headers)
        params = parsed.params if parsed else read_params(found, query)
        self._content_type = params.content_type
        if params.top_k is not None:
            self._top_k = params.top_k
        self._wait_at_most(params.timeout_s)
        self._enter(params.model)
        self._answer_format = parsed.answer_format if parsed else accept.negotiate(params.accept)
        if kept is not None and parsed is None:
            kept.parsed = ParsedHead(found, params, self._answer_format)
        self._check()

    def request(self, body: bytes) -> NewEntry:
        info, max_rows = self._gateway.takes(self._queue.keys.model)
        payload = formats.parse(body, self._content_type, info, max_rows=max_rows)
        if self._top_k and not wants_outputs(self._answer_format):
            payload.options = {"top_k": self._top_k}
        return self._packed(payload)

    def _traced_as(self) -> tuple[str, dict[str, Any]]:
        return _SPAN, _ATTRIBUTES

    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        chosen = self._answer_format
        content = render.render(chosen, reply, model=self._queue.keys.model, request_id=self._request_id, timing=timing)
        headers = [chosen.header, *render.response_headers(self._shown_id, reply.batch, timing)]
        return Response(200, headers, content)


def refused_at_once(gateway: GatewayServices, head: Head) -> Response | None:
    """Return the refusal that a request with this head comes to for want of room, without making a request of it.

    Under overload most requests end here, on the same processor as those that are taken. None if there is room, or if
    more belongs to the request than a head that was read before: a caller's key, a trace, a model of its own. Nor if
    it is of another protocol.
    """
    queue, parsed = gateway.queue(None), head.parsed
    if not queue.closed or not isinstance(parsed, ParsedHead) or not parsed.plain:
        return None
    if not gateway.authenticator.open or gateway.tracing is not None:
        return None
    started_at = time.monotonic()
    error = queue.would_refuse(gateway.timeout_ms(parsed.params.timeout_s))
    if error is None:
        return None
    request_id = gateway.next_request_id()
    total_s = time.monotonic() - started_at
    queue.metrics.failed(error, total_s)
    model, duration_ms = queue.keys.model, round(total_s * 1000, 3)
    gateway.request_log.tell(
        error, lambda: {"request_id": request_id, "model": model, "rows": 0, "duration_ms": duration_ms}
    )
    return response_of(error, request_id, printable(parsed.found.get(b"x-request-id", "")) or request_id)
