"""GET /openapi.json: the API, described from what serves it.

Schemas come from the types of the responses, statuses from the table of errors, limits from the settings, media types
from the readers of bodies: a change to one of them changes the document. Made once, with the application.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway import asking, envelope, formats, pages
from gateway.access.guard import ALWAYS_OPEN
from gateway.access.keyring import Keyring
from gateway.formats.accept import Format
from gateway.http.heads import MAX_HEAD_BYTES, MAX_URL_BYTES
from gateway.meters import REFUSALS
from gateway.openapi_inputs import INPUTS, input_schemas
from gateway.problems import CONTENT_TYPE, DAY_S, MAX_RETRY_AFTER_S, status_of
from gateway.response_types import Answer, Health, Problem, Readiness, Stats
from shared import __version__, errors
from shared.keys import MODEL_NAME
from shared.settings import Settings

Json = dict[str, Any]

JSON = "application/json"
# No response to anybody: the client has gone, or the process never started.
_NOT_SENT = (errors.ClientGone, errors.StartupError)
_INTERNAL_ERROR = "internal_error"  # of an exception outside our tree
# OpenAPI says "any bytes" by the media type alone.
_BYTES: Json = {}


def document(settings: Settings) -> bytes:
    _, responses = msgspec.json.schema_components(
        (Answer, Health, Problem, Readiness, Stats), ref_template="#/components/schemas/{name}"
    )
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "SmartBatch",
            "version": __version__,
            "description": "Inference with PyTorch models: requests that arrive together run as one batch.",
        },
        "paths": {
            "/predict": {"post": _predict(settings)},
            "/healthz": _page("healthz", "This process answers", {200: _json("Health")}),
            "/readyz": _page(
                "readyz",
                "200 if Redis answers and each model served has a worker that is ready",
                {200: _json("Readiness"), 503: _json("Readiness")},
            ),
            "/metrics": _page(
                "metrics", "Metrics as Prometheus reads them", {200: {pages.PROMETHEUS: _schema("string")}}
            ),
            "/stats": _page("stats", "The last seconds, the queue, the workers and gateways", {200: _json("Stats")}),
            "/openapi.json": _page("openapi", "This document", {200: {JSON: _schema("object")}}),
        },
        "components": {"schemas": {**responses, **input_schemas()}},
    }
    if Keyring.wanted(settings):
        described["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        described["security"] = [{"bearer": []}, {"key": []}]
        for path in ALWAYS_OPEN:
            described["paths"][path]["get"]["security"] = []
    return msgspec.json.encode(described)


def _predict(settings: Settings) -> Json:
    answers = {
        Format.JSON.value: {"schema": _ref("Answer")},
        Format.MSGPACK.value: {"schema": {"description": "The object of JSON; the data of tensors are bytes"}},
        Format.NPY.value: _BYTES,
    }
    limits = (
        f"At most {settings.max_body_bytes} bytes (MAX_BODY_BYTES), and {settings.max_batch_size} rows "
        "(the worker's MAX_BATCH_SIZE). Content-Encoding may be gzip or deflate. A model takes some of these types; a "
        "model of kind `raw` takes any body."
    )
    return {
        "operationId": "predict",
        "summary": "Run a model on one or several rows",
        "parameters": _parameters(settings),
        "requestBody": {"required": True, "description": limits, "content": _request_content()},
        "responses": {
            "200": {
                "description": "What the model makes of each row, in the order of the request",
                "headers": {
                    "X-Request-Id": _header("string", "The client's own id if it sent one, else the server's"),
                    "Server-Timing": _header("string", "Where the time went, in ms"),
                    "X-Batch-Rows": _header("integer", "Rows in the batch that the request rode in"),
                    "X-Batch-Closed": _header("string", "Why that batch was closed"),
                },
                "content": answers,
            },
            **_problems(_all_codes(), {"X-Request-Id": _header("string", "By which the server's log can be searched")}),
        },
    }


def _parameters(settings: Settings) -> list[Json]:
    timeout = {"type": "number", "minimum": envelope.MIN_TIMEOUT_S, "maximum": envelope.MAX_TIMEOUT_S}
    return [
        _parameter(
            "query", "model", _schema("string", pattern=f"^{MODEL_NAME.pattern}$"), "Default: " + settings.model
        ),
        _parameter(
            "query",
            "top_k",
            _schema("integer", minimum=0, maximum=envelope.MAX_TOP_K, default=asking.DEFAULT_TOP_K),
            "How many classes a classifier names per row; 0 for its outputs as they are",
        ),
        _parameter(
            "header",
            "X-Request-Timeout",
            {"schema": timeout},
            f"Seconds after which the answer is of no use any more; {settings.request_timeout:g} at the most",
        ),
        _parameter("header", "X-Request-Id", _schema("string"), "Echoed if it is printable and not too long"),
        _parameter("header", "Traceparent", _schema("string"), "W3C trace context, handed on to the worker"),
    ]


def _request_content() -> Json:
    return {media: INPUTS.get(media, _BYTES) for media in formats.taken_media_types(None)}


def _page(name: str, summary: str, contents: dict[int, Json]) -> Json:
    """A GET without parameters. It may be refused for what any request may be refused for."""
    access = [] if f"/{name}" in ALWAYS_OPEN else [errors.Unauthenticated.code, errors.Forbidden.code]
    refusals = [code for code in REFUSALS if code in errors.by_code()]
    responses = _problems([*access, *refusals, _INTERNAL_ERROR], {})
    for status, content in contents.items():
        known = responses.get(str(status), {"description": summary, "content": {}})
        responses[str(status)] = {**known, "content": {**content, **known["content"]}}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _all_codes() -> list[str]:
    tree = errors.by_code().items()
    return [code for code, cls in tree if not issubclass(cls, _NOT_SENT)] + [_INTERNAL_ERROR]


def _problems(codes: Iterable[str], headers: Json) -> Json:
    """The responses of errors, by status."""
    tree = errors.by_code()
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[status_of(tree[code](code)) if code in tree else 500].append(code)
    more = {
        401: {"WWW-Authenticate": _header("string", "How to show who asks")},
        429: _retry_after(DAY_S),
        503: _retry_after(MAX_RETRY_AFTER_S),
    }
    return {
        str(status): {
            "description": _HINTS.get(status, "") + "`code` is one of: " + ", ".join(sorted(found)),
            "headers": {**headers, **more.get(status, {})},
            "content": {CONTENT_TYPE: {"schema": _ref("Problem")}},
        }
        for status, found in sorted(by_status.items())
    }


_HINTS = {
    414: f"The URL is at most {MAX_URL_BYTES} bytes. ",
    431: f"Request line and headers are at most {MAX_HEAD_BYTES} bytes. ",
}


def _retry_after(most_s: int) -> Json:
    return {"Retry-After": _header("integer", "Seconds after which to come back", minimum=1, maximum=most_s)}


def _json(name: str) -> Json:
    return {JSON: {"schema": _ref(name)}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schema(kind: str, **more: Any) -> Json:
    return {"schema": {"type": kind, **more}}


def _header(kind: str, description: str, **more: Any) -> Json:
    return {"description": description, **_schema(kind, **more)}


def _parameter(where: str, name: str, schema: Json, description: str) -> Json:
    return {"in": where, "name": name, "required": False, "description": description, **schema}
