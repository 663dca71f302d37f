"""GET /openapi.json: the description of the API, generated from the code that serves it.

Schemas come from the response types, statuses from the error table, limits from the settings, media types from the body
formats, examples from the announcements of the models.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec

from smartbatch.gateway import formats
from smartbatch.gateway.auth.key_store import KeyStore
from smartbatch.gateway.core.response_types import Health, PredictResponse, Problem, Readiness, Stats
from smartbatch.gateway.formats.render import Format
from smartbatch.gateway.inference import predict
from smartbatch.gateway.web import metrics_page
from smartbatch.gateway.web.health import PROBES
from smartbatch.gateway.web.openapi import oip, openai
from smartbatch.gateway.web.openapi.examples import IMAGE, request_content
from smartbatch.gateway.web.openapi.inputs import INPUTS, input_schemas
from smartbatch.gateway.web.openapi.parts import JSON, Json, json_content, limits, page, parameter, ref, running, schema
from smartbatch.shared import __version__
from smartbatch.shared.keys import MAX_VERSION, MODEL_NAME
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings

# In OpenAPI a media type without a schema means any bytes.
_BYTES: Json = {}


@functools.lru_cache(maxsize=8)
def document(settings: Settings, models: tuple[ModelInfo, ...] = ()) -> bytes:
    """Return the document with an example for each of `models`. Without models it has all that any model may take."""
    models = tuple(sorted(models, key=lambda info: (info.name != settings.model, info.name, info.version)))
    _, components = msgspec.json.schema_components(
        (PredictResponse, Health, Problem, Readiness, Stats, *oip.TYPES, *openai.TYPES),
        ref_template="#/components/schemas/{name}",
    )
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "SmartBatch",
            "version": __version__,
            "description": "Inference server for PyTorch models. Requests that arrive close together run as one batch.",
        },
        "paths": {
            "/predict": {"post": _predict(settings, models)},
            "/healthz": _page("healthz", "Liveness", {200: json_content("Health")}, "200 while the process responds."),
            "/readyz": _page(
                "readyz",
                "Readiness",
                {200: json_content("Readiness"), 503: json_content("Readiness")},
                "200 if Redis is reachable and every served model has a ready worker, otherwise 503.",
            ),
            "/metrics": _page("metrics", "Prometheus metrics", {200: {metrics_page.PROMETHEUS: schema("string")}}),
            "/stats": _page(
                "stats",
                "Statistics",
                {200: json_content("Stats")},
                "Rates, latencies, queue, workers and gateways of every model.",
            ),
            "/openapi.json": _page("openapi", "OpenAPI document", {200: {JSON: schema("object")}}),
            **oip.paths(settings, models),
            **openai.paths(settings, models),
        },
        "components": {"schemas": {**components, **input_schemas(), **openai.request_schemas()}},
    }
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            operation["tags"] = [_tag(path)]
            described_in_words = [operation["summary"] + ".", operation.get("description", "")]
            operation["description"] = " ".join(filter(None, described_in_words))
            operation["summary"] = f"{method.upper()} {path}"  # which viewers show as the title
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
        return "Inference"
    if path.startswith("/v1"):
        return "OpenAI's and Cohere's clients"
    return "Open Inference Protocol" if path.startswith("/v2") else "Monitoring"


def _page(name: str, summary: str, contents: dict[int, Json], description: str = "") -> Json:
    path = "/openapi.json" if name == "openapi" else f"/{name}"
    return {"get": page(name, path, summary, contents, description=description)}


def _predict(settings: Settings, models: Sequence[ModelInfo]) -> Json:
    contents = {
        Format.JSON.value: {"schema": ref("PredictResponse")},
        Format.MSGPACK.value: {"schema": {"description": "The same object as in JSON, with tensor data as bytes"}},
        Format.NPY.value: _BYTES,
    }
    shared_parameters, headers, refusals = running(settings)
    accepted = request_content(models) or {
        media: INPUTS.get(media, _BYTES) for media in formats.accepted_media_types(None)
    }
    body = f"{limits(settings)} Each model accepts some of these types; a model of kind `raw` accepts any body."
    if models and "image/png" in accepted:
        body += f" An image to try: [{IMAGE}]({IMAGE})."
    parameters = [
        parameter(
            "query",
            "model",
            schema("string", pattern=f"^{MODEL_NAME.pattern}$"),
            "Name of the model. Default: " + settings.model,
        ),
        parameter(
            "query",
            "version",
            schema("integer", minimum=1, maximum=MAX_VERSION),
            "Version of the model. Default: the one that the model's routing table chooses",
        ),
        parameter(
            "query",
            "top_k",
            schema("integer", minimum=0, maximum=predict.MAX_TOP_K, default=predict.DEFAULT_TOP_K),
            "Number of classes per row that a classifier returns; 0 for the raw outputs",
        ),
        parameter(
            "query",
            "partial",
            schema("boolean", default=False),
            "Whether to return the other rows, and `errors`, if some rows fail",
        ),
        *shared_parameters,
    ]
    return {
        "operationId": "predict",
        "summary": "Run a model on one or more rows",
        "parameters": parameters,
        "requestBody": {"required": True, "description": body, "content": accepted},
        "responses": {
            "200": {
                "description": "The result of each row, in the order of the request",
                "headers": headers,
                "content": contents,
            },
            **refusals,
        },
    }
