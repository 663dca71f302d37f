"""A request to POST /predict."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gateway import formats
from gateway.asking import Asking, Response, response_of
from gateway.envelope import READ, Envelope, printable, read_envelope, read_headers
from gateway.formats import accept, answers
from gateway.formats.accept import Format, wants_outputs
from gateway.gateway import Gateway
from gateway.http.heads import Head
from shared import trace_context
from shared.broker.admission import Request
from shared.wire import Reply

PATH = "/predict"
DEFAULT_TOP_K = 5

_READ = READ.union(trace_context.HEADERS)
_SPAN = f"POST {PATH}"
_ATTRIBUTES = {"http.request.method": "POST", "url.scheme": "http", "url.path": PATH, "http.route": PATH}


class Said(NamedTuple):
    """What a head says. Nothing in it depends on who asks or when, so it holds for every request with this head."""

    found: Mapping[bytes, str]
    envelope: Envelope
    answer_format: Format

    @property
    def plain(self) -> bool:
        """Whether it names neither a model nor a trace."""
        return self.envelope.model is None and trace_context.HEADERS[0] not in self.found


class Prediction(Asking):
    _answer_format = Format.JSON
    _content_type = ""
    _top_k = DEFAULT_TOP_K

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes, kept: Head | None = None) -> None:
        """`kept` keeps what was read, for other requests with the same head."""
        said: Said | None = kept.said if kept is not None else None
        found = said.found if said else read_headers(headers, _READ)
        self._take_up(found, headers)
        self._caller = self._gateway.guard.identify(headers)
        envelope = said.envelope if said else read_envelope(found, query)
        self._content_type = envelope.content_type
        if envelope.top_k is not None:
            self._top_k = envelope.top_k
        self._wait_at_most(envelope.timeout_s)
        self._enter(envelope.model)
        self._answer_format = said.answer_format if said else accept.negotiate(envelope.accept)
        if kept is not None and said is None:
            kept.said = Said(found, envelope, self._answer_format)
        self._check()

    def request(self, body: bytes) -> Request:
        info, max_rows = self._gateway.takes(self._lane.keys.model)
        payload = formats.parse(body, self._content_type, info, max_rows=max_rows)
        if self._top_k and not wants_outputs(self._answer_format):
            payload.options = {"top_k": self._top_k}
        return self._packed(payload)

    def _traced_as(self) -> tuple[str, dict[str, Any]]:
        return _SPAN, _ATTRIBUTES

    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        chosen = self._answer_format
        content = answers.render(chosen, reply, model=self._lane.keys.model, request_id=self._request_id, timing=timing)
        headers = [chosen.header, *answers.response_headers(self._shown_id, reply.batch, timing)]
        return Response(200, headers, content)


def refused_at_once(gateway: Gateway, head: Head) -> Response | None:
    """Return the refusal that a request with this head comes to for want of room, without making a Prediction of it.

    Under overload most requests end here, on the same processor as those that are taken. None if there is room, or if
    more belongs to the request than a head that was read before: a caller's key, a trace, a model of its own. Nor if
    it is of another protocol.
    """
    lane, said = gateway.lane(None), head.said
    if not lane.closed or not isinstance(said, Said) or not said.plain:
        return None
    if not gateway.guard.open or gateway.tracing is not None:
        return None
    started_at = time.monotonic()
    error = lane.would_refuse(gateway.timeout_ms(said.envelope.timeout_s))
    if error is None:
        return None
    request_id = gateway.next_request_id()
    total_s = time.monotonic() - started_at
    lane.meters.failed(error, total_s)
    model, duration_ms = lane.keys.model, round(total_s * 1000, 3)
    gateway.request_log.tell(
        error, lambda: {"request_id": request_id, "model": model, "rows": 0, "duration_ms": duration_ms}
    )
    return response_of(error, request_id, printable(said.found.get(b"x-request-id", "")) or request_id)
