"""A request to POST /predict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smartbatch.gateway import formats
from smartbatch.gateway.formats import accept, render
from smartbatch.gateway.formats.accept import Format, wants_outputs
from smartbatch.gateway.inference.params import READ_HEADERS, read_headers, read_params
from smartbatch.gateway.inference.request import InferenceRequest, Response
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.wire import Reply

PATH = "/predict"
DEFAULT_TOP_K = 5

_READ = READ_HEADERS.union(trace_context.HEADERS)
_SPAN = f"POST {PATH}"
_ATTRIBUTES = {"http.request.method": "POST", "url.scheme": "http", "url.path": PATH, "http.route": PATH}


class PredictRequest(InferenceRequest):
    _answer_format = Format.JSON
    _content_type = ""
    _top_k = DEFAULT_TOP_K

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> None:
        found = read_headers(headers, _READ)
        self._take_up(found, headers)
        self._principal = self._gateway.authenticator.identify(headers)
        params = read_params(found, query)
        self._content_type = params.content_type
        if params.top_k is not None:
            self._top_k = params.top_k
        self._wait_at_most(params.timeout_s)
        self._enter(params.model)
        self._answer_format = accept.negotiate(params.accept)
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
