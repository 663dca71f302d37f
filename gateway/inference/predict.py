"""POST /predict: a body in one of several formats, a response in JSON, npy or MessagePack."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from smartbatch.gateway import formats
from smartbatch.gateway.formats import render
from smartbatch.gateway.formats.render import Format
from smartbatch.gateway.inference.codec import COMMON_HEADERS, Codec, Response
from smartbatch.shared.errors import ClientError, NotAcceptable
from smartbatch.shared.keys import parse_version, split_model_id
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Reply

PATH = "/predict"
DEFAULT_TOP_K = 5
MAX_TOP_K = 1000
MAX_QUERY_FIELDS = 16
QUERY_FIELDS = ("model", "version", "top_k", "partial")

_WHOLE = re.compile(r"[0-9]{1,9}")  # int() accepts more: 1_0, blanks and the digits of every script


class PredictCodec(Codec):
    header_names = COMMON_HEADERS | {b"content-type", b"accept"}

    _accept = ""
    _content_type = ""
    _format = Format.JSON
    _top_k = DEFAULT_TOP_K
    _partial = False

    def parse_head(self, headers: Mapping[bytes, str], query: bytes) -> None:
        self._content_type = headers.get(b"content-type", "")
        self._accept = headers.get(b"accept", "")
        if query:
            fields = read_query(query)
            if "model" in fields:
                self.model, self.version = read_model(fields["model"])
            if "version" in fields:
                self.version = _read_version(fields["version"], self.version)
            if "top_k" in fields:
                self._top_k = _read_top_k(fields["top_k"])
            if "partial" in fields:
                self._partial = _read_flag("partial", fields["partial"])

    def check_head(self) -> None:
        self._format = render.negotiate(self._accept)
        if self._partial and self._format is _NPY:
            raise NotAcceptable("partial: npy can't hold the errors of rows; use Accept: application/json")

    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        payload = formats.parse(body, self._content_type, info, max_rows=max_rows)
        if self._top_k and self._format is not _NPY:  # npy holds the output tensor, not classes
            payload.options = {"top_k": self._top_k}
        if self._partial:
            payload.options = {**payload.options, "partial": True}
        return payload

    def render_reply(
        self, reply: Reply, timing_ms: dict[str, float], *, model: str, version: int, request_id: str, client_id: str
    ) -> Response:
        content = render.render(
            self._format, reply, model=model, version=version, request_id=request_id, timing=timing_ms
        )
        headers = [self._format.header, *render.response_headers(client_id, reply.batch, timing_ms)]
        return Response(200, headers, content)

    def span(self) -> tuple[str, Mapping[str, Any]]:
        attributes = {"http.request.method": "POST", "url.scheme": "http", "url.path": PATH, "http.route": PATH}
        return f"POST {PATH}", attributes


_NPY = Format.NPY  # looking up an Enum's member costs as much as a small function call


def read_query(query: bytes) -> dict[str, str]:
    """Parse the query. Unknown parameters are ignored (proxies, load generators and caches add some), unless one looks
    like a misspelt known one. Raises ClientError."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise ClientError(f"a query may have at most {MAX_QUERY_FIELDS} parameters") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise ClientError(f"the query parameter {name} is given twice")
        if name in QUERY_FIELDS:
            found[name] = value
        elif similar := difflib.get_close_matches(name[:40].lower(), QUERY_FIELDS, n=1):
            raise ClientError(f"unknown query parameter {name[:40]!r}; did you mean {similar[0]}?")
    return found


def read_model(text: str) -> tuple[str, int]:
    """Return the name and the version of a model, 0 if there is none. Raises UnknownModel."""
    name, version = split_model_id(text)
    return name, version if "@" in text else 0


def _read_version(text: str, in_model: int) -> int:
    version = parse_version(text)
    if in_model not in (0, version):
        raise ClientError(f"version: the model is of version {in_model}, got {version}")
    return version


def _read_top_k(text: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) > MAX_TOP_K:
        raise ClientError(f"top_k: expected a whole number from 0 to {MAX_TOP_K}, got {text[:40]!r}")
    return int(text)


def _read_flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ClientError(f"{name}: expected true or false, got {text[:40]!r}")
    return text == "true"
