"""POST /v2/models/{model}[/versions/{version}]/infer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from smartbatch.gateway.core.problems import CONTENT_TYPE as PROBLEM
from smartbatch.gateway.formats.render import response_headers
from smartbatch.gateway.inference import compression
from smartbatch.gateway.inference.codec import COMMON_HEADERS, Codec, Response
from smartbatch.gateway.oip import outputs, rest_request, rest_response
from smartbatch.gateway.oip.infer_options import InferOptions
from smartbatch.shared.errors import MalformedBody
from smartbatch.shared.keys import parse_version
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Reply

PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
HEADER_LENGTH = b"inference-header-content-length"
JSON = b"application/json"
BINARY = b"application/octet-stream"

_ROUTE = "/v2/models/{model}/infer"
_VERSION_ROUTE = "/v2/models/{model}/versions/{version}/infer"


class OipCodec(Codec):
    header_names = COMMON_HEADERS | {b"accept", b"accept-encoding", HEADER_LENGTH}

    _accept = ""
    _json_length: int | None = None  # how many bytes of the body are JSON; None: all
    _options = InferOptions()

    def __init__(self, path: str) -> None:
        self._path = path
        self.model, version = _target(path)
        self._version_text = version

    def parse_head(self, headers: Mapping[bytes, str], query: bytes) -> None:
        self._accept = headers.get(b"accept", "")
        if self._version_text:
            self.version = parse_version(self._version_text)
        self.content_coding = compression.choose(headers.get(b"accept-encoding", ""))
        self._json_length = _json_length(headers.get(HEADER_LENGTH))

    def check_head(self) -> None:
        pass

    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        payload, self._options = rest_request.read(body, self._json_length, info, max_rows)
        self.timeout_s = self._options.timeout_s
        return payload

    def render_reply(
        self, reply: Reply, timing_ms: dict[str, float], *, model: str, version: int, request_id: str, client_id: str
    ) -> Response:
        tensors = outputs.output_tensors(reply, self._options)
        json_length, content = rest_response.write(model, version, self._options.id, tensors)
        headers = response_headers(client_id, reply.batch, timing_ms)
        if json_length is None:
            headers.append((b"content-type", JSON))
        else:
            headers += [(b"content-type", BINARY), (HEADER_LENGTH, b"%d" % json_length)]
        return Response(200, headers, content)

    def render_error(self, error: Exception, *, request_id: str, client_id: str) -> Response:
        """Render JSON, as clients of the protocol expect, or problem details if the client accepts them."""
        response = super().render_error(error, request_id=request_id, client_id=client_id)
        if PROBLEM in self._accept:
            return response
        headers = [(name, JSON if name == b"content-type" else value) for name, value in response.headers]
        return Response(response.status, headers, response.content)

    def span(self) -> tuple[str, Mapping[str, Any]]:
        route = _VERSION_ROUTE if "/versions/" in self._path else _ROUTE
        attributes = {
            "http.request.method": "POST",
            "url.scheme": "http",
            "url.path": self._path,
            "http.route": route,
        }
        return f"POST {route}", attributes


@lru_cache(maxsize=64)
def _target(path: str) -> tuple[str, str]:
    """Return the model and the version in the path; without a version, an empty one."""
    found = PATH.fullmatch(path)
    assert found is not None, path  # only such paths are routed here
    return found[1], found[2] or ""


def _json_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise MalformedBody(f"Inference-Header-Content-Length: expected a number of bytes, got {text[:40]!r}")
    return int(text)
