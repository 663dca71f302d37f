"""A request to POST /v2/models/{model}[/versions/{version}]/infer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from smartbatch.gateway.core.problems import CONTENT_TYPE as PROBLEM
from smartbatch.gateway.formats.render import response_headers
from smartbatch.gateway.inference import compression
from smartbatch.gateway.inference.params import read_headers, timeout_of
from smartbatch.gateway.inference.request import InferenceRequest, Response
from smartbatch.gateway.oip import outputs, rest_request, rest_response
from smartbatch.gateway.oip.infer_options import InferOptions, check_version, shortest
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import MalformedBody
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.wire import Reply

PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
HEADER_LENGTH = b"inference-header-content-length"
JSON = b"application/json"
BINARY = b"application/octet-stream"

_READ = frozenset(
    (b"accept", b"accept-encoding", b"x-request-id", b"x-request-timeout", HEADER_LENGTH, *trace_context.HEADERS)
)
_ROUTE = "/v2/models/{model}/infer"
_VERSION_ROUTE = "/v2/models/{model}/versions/{version}/infer"


class OipInferRequest(InferenceRequest):
    def __init__(self, gateway: GatewayServices, path: str) -> None:
        super().__init__(gateway)
        self._path = path
        self._accept = ""
        self._coding = ""
        self._json_length: int | None = None  # how many bytes of the body are JSON; None: all
        self._timeout_s: float | None = None
        self._wanted = InferOptions()

    @property
    def coding(self) -> str:
        return self._coding

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> None:
        found = read_headers(headers, _READ)
        self._take_up(found, headers)
        self._principal = self._gateway.authenticator.identify(headers)
        self._accept = found.get(b"accept", "")
        self._coding = compression.choose(found.get(b"accept-encoding", ""))
        self._timeout_s = timeout_of(found)
        self._json_length = _json_length(found.get(HEADER_LENGTH))
        self._wait_at_most(self._timeout_s)
        model, version = _target(self._path)
        self._enter(model)
        check_version(model, version)
        self._check()

    def request(self, body: bytes) -> NewEntry:
        """The shorter of the head's timeout and the body's counts."""
        model = self._queue.keys.model
        info, max_rows = self._gateway.takes(model)
        payload, self._wanted = rest_request.read(body, self._json_length, info, max_rows)
        if self._wanted.timeout_s is not None:
            self._wait_at_most(shortest(self._timeout_s, self._wanted.timeout_s))
        return self._packed(payload)

    def _traced_as(self) -> tuple[str, dict[str, Any]]:
        route = _VERSION_ROUTE if "/versions/" in self._path else _ROUTE
        facts = {"http.request.method": "POST", "url.scheme": "http", "url.path": self._path, "http.route": route}
        return f"POST {route}", facts

    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        given = outputs.output_tensors(reply, self._wanted)
        json_length, content = rest_response.write(self._queue.keys.model, self._wanted.id, given)
        headers = response_headers(self._shown_id, reply.batch, timing)
        if json_length is None:
            headers.append((b"content-type", JSON))
        else:
            headers += [(b"content-type", BINARY), (HEADER_LENGTH, b"%d" % json_length)]
        return Response(200, headers, content)

    def failed(self, error: Exception) -> Response | None:
        """As JSON, which clients of the protocol read; as problem details for who asks for them."""
        response = super().failed(error)
        if response is None or PROBLEM in self._accept:
            return response
        headers = [(name, JSON if name == b"content-type" else value) for name, value in response.headers]
        return Response(response.status, headers, response.content)


@lru_cache(maxsize=64)
def _target(path: str) -> tuple[str, str]:
    found = PATH.fullmatch(path)
    assert found is not None, path  # only such paths come here
    return found[1], found[2] or ""


def _json_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise MalformedBody(f"Inference-Header-Content-Length: expected a number of bytes, got {text[:40]!r}")
    return int(text)
