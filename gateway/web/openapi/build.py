"""GET /openapi.json: the API, described from what serves it.

Schemas come from the types of the responses, statuses from the table of errors, limits from the settings, media types
from the readers of bodies: a change to one of them changes the document. Made once, with the application.
"""

from __future__ import annotations

import msgspec

from smartbatch.gateway import formats
from smartbatch.gateway.auth.key_store import KeyStore
from smartbatch.gateway.core.response_types import Answer, Health, Problem, Readiness, Stats
from smartbatch.gateway.formats.render import Format
from smartbatch.gateway.inference import predict
from smartbatch.gateway.web import metrics_page
from smartbatch.gateway.web.openapi import oip
from smartbatch.gateway.web.openapi.inputs import INPUTS, input_schemas
from smartbatch.gateway.web.openapi.parts import JSON, Json, json_content, limits, page, parameter, ref, running, schema
from smartbatch.gateway.web.paths import PROBES
from smartbatch.shared import __version__
from smartbatch.shared.keys import MODEL_NAME
from smartbatch.shared.settings import Settings

# OpenAPI says "any bytes" by the media type alone.
_BYTES: Json = {}


def document(settings: Settings) -> bytes:
    _, components = msgspec.json.schema_components(
        (Answer, Health, Problem, Readiness, Stats, *oip.TYPES), ref_template="#/components/schemas/{name}"
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
            "/healthz": _page("healthz", "This process answers", {200: json_content("Health")}),
            "/readyz": _page(
                "readyz",
                "200 if Redis answers and each model served has a worker that is ready",
                {200: json_content("Readiness"), 503: json_content("Readiness")},
            ),
            "/metrics": _page(
                "metrics", "Metrics as Prometheus reads them", {200: {metrics_page.PROMETHEUS: schema("string")}}
            ),
            "/stats": _page(
                "stats", "The last seconds, the queue, the workers and gateways", {200: json_content("Stats")}
            ),
            "/openapi.json": _page("openapi", "This document", {200: {JSON: schema("object")}}),
            **oip.paths(settings),
        },
        "components": {"schemas": {**components, **input_schemas()}},
    }
    for path, operations in described["paths"].items():
        for operation in operations.values():
            operation["tags"] = [_tag(path)]
    if KeyStore.configured(settings):
        described["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        described["security"] = [{"bearer": []}, {"key": []}]
        for path in PROBES:
            described["paths"][path]["get"]["security"] = []
    return msgspec.json.encode(described)


def _tag(path: str) -> str:
    if path == "/predict":
        return "Predict"
    return "Open Inference Protocol" if path.startswith("/v2") else "Watching"


def _page(name: str, summary: str, contents: dict[int, Json]) -> Json:
    path = "/openapi.json" if name == "openapi" else f"/{name}"
    return {"get": page(name, path, summary, contents)}


def _predict(settings: Settings) -> Json:
    answers = {
        Format.JSON.value: {"schema": ref("Answer")},
        Format.MSGPACK.value: {"schema": {"description": "The object of JSON; the data of tensors are bytes"}},
        Format.NPY.value: _BYTES,
    }
    shared_parameters, headers, refusals = running(settings)
    taken = f"{limits(settings)} A model takes some of these types; a model of kind `raw` takes any body."
    parameters = [
        parameter("query", "model", schema("string", pattern=f"^{MODEL_NAME.pattern}$"), "Default: " + settings.model),
        parameter(
            "query",
            "top_k",
            schema("integer", minimum=0, maximum=predict.MAX_TOP_K, default=predict.DEFAULT_TOP_K),
            "How many classes a classifier names per row; 0 for its outputs as they are",
        ),
        *shared_parameters,
    ]
    return {
        "operationId": "predict",
        "summary": "Run a model on one or several rows",
        "parameters": parameters,
        "requestBody": {"required": True, "description": taken, "content": _request_content()},
        "responses": {
            "200": {
                "description": "What the model makes of each row, in the order of the request",
                "headers": headers,
                "content": answers,
            },
            **refusals,
        },
    }


def _request_content() -> Json:
    return {media: INPUTS.get(media, _BYTES) for media in formats.accepted_media_types(None)}
