"""The endpoints of the Open Inference Protocol in /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence

from smartbatch.gateway.oip import VERSION, infer, metadata, rest_request, rest_response, statistics
from smartbatch.gateway.oip.endpoints import IndexRequest
from smartbatch.gateway.web.openapi.examples import infer_examples
from smartbatch.gateway.web.openapi.parts import JSON, Json, json_content, limits, page, parameter, ref, running, schema
from smartbatch.shared import errors
from smartbatch.shared.keys import MODEL_NAME
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings

TYPES = (
    rest_request.InferRequest,
    rest_response.InferResponse,
    metadata.Liveness,
    metadata.ModelReadiness,
    metadata.ServerMetadata,
    metadata.ModelMetadata,
    metadata.ModelConfig,
    metadata.IndexEntry,
    statistics.Statistics,
    IndexRequest,
)

_HEADER_LENGTH = infer.HEADER_LENGTH.decode().title()
_BINARY: Json = {"application/octet-stream": {}}
_NO_MODEL = (errors.UnknownModel.code,)
_NOT_YET = (errors.UnknownModel.code, errors.Unavailable.code)

# path after the model's, name, summary, description, contents, codes
_OF_MODEL = (
    ("", "metadata", "Model metadata", "", {200: json_content("ModelMetadata")}, _NOT_YET),
    (
        "/ready",
        "ready",
        "Model readiness",
        "200 if the model has a ready worker, otherwise 503.",
        {200: json_content("ModelReadiness"), 503: json_content("ModelReadiness")},
        _NO_MODEL,
    ),
    (
        "/config",
        "config",
        "Model configuration",
        "In the format of Triton's model configuration.",
        {200: json_content("ModelConfig")},
        _NOT_YET,
    ),
    (
        "/stats",
        "statistics",
        "Model statistics",
        "In the format of Triton's statistics extension.",
        {200: json_content("Statistics")},
        _NO_MODEL,
    ),
)


def paths(settings: Settings, models: Sequence[ModelInfo] = ()) -> Json:
    ready = {200: json_content("Liveness"), 503: json_content("Liveness")}
    described = {
        "/v2": _get("server", "/v2", "Server metadata", {200: json_content("ServerMetadata")}),
        "/v2/health/live": _get("live", "/v2/health/live", "Server liveness", {200: json_content("Liveness")}),
        "/v2/health/ready": _get("ready", "/v2/health/ready", "Server readiness", ready),
        "/v2/models/stats": _get(
            "all_statistics", "/v2/models/stats", "Statistics of all models", {200: json_content("Statistics")}
        ),
        "/v2/repository/index": {"post": _index()},
    }
    for versioned in (False, True):
        base = "/v2/models/{model}" + "/versions/{version}" * versioned
        target = _target(models[0].name if models else settings.model, versioned)
        for path, name, summary, description, contents, codes in _OF_MODEL:
            if versioned:
                name, summary = f"{name}_of_version", f"{summary} (with version)"
            described[base + path] = _get(name, base + path, summary, contents, target, codes, description)
        described[base + "/infer"] = {"post": _infer(settings, models, target)}
    return described


def _get(name, path, summary, contents, parameters=(), codes=(), description="") -> Json:
    more = {"parameters": parameters, "codes": codes, "content_type": JSON, "description": description}
    return {"get": page(f"oip_{name}", path, summary, contents, **more)}


def _target(model: str, versioned: bool) -> list[Json]:
    """Describe the parameters of a path. `model` is their example."""
    name = {**schema("string", pattern=f"^{MODEL_NAME.pattern}$"), "example": model}
    target = [parameter("path", "model", name, "Name of the model", required=True)]
    if versioned:
        version = {**schema("string"), "example": VERSION}
        target.append(parameter("path", "version", version, "Version of the model; always 1", required=True))
    return target


def _index() -> Json:
    entries = {JSON: {"schema": {"type": "array", "items": ref("IndexEntry")}}}
    codes = (errors.MalformedBody.code, errors.BodyTooLarge.code, errors.BodyTimeout.code, errors.UnsupportedMedia.code)
    path = "/v2/repository/index"
    described = page("oip_index", path, "Model repository index", {200: entries}, codes=codes, content_type=JSON)
    content = {JSON: {"schema": ref("IndexRequest"), "example": {"ready": True}}}
    return {**described, "requestBody": {"required": False, "content": content}}


def _infer(settings: Settings, models: Sequence[ModelInfo], target: list[Json]) -> Json:
    versioned = len(target) > 1
    request = json_content("InferRequest")
    if examples := infer_examples(models):
        request[JSON]["examples"] = examples
    parameters, headers, refusals = running(settings, JSON)
    length = parameter(
        "header",
        _HEADER_LENGTH,
        schema("integer", minimum=0),
        "Length of the JSON in bytes, if binary tensor data follows; 0: the whole body is the one input of the model",
    )
    json_length = {"description": "Length of the JSON in bytes, if binary tensor data follows", **schema("integer")}
    return {
        "operationId": "oip_infer_of_version" if versioned else "oip_infer",
        "summary": "Run a model" + " (with version)" * versioned,
        "description": "Open Inference Protocol 2, with the binary tensor data extension.",
        "parameters": [*target, length, *parameters],
        "requestBody": {
            "required": True,
            "description": limits(settings),
            "content": {**request, **_BINARY},
        },
        "responses": {
            "200": {
                "description": "The requested outputs",
                "headers": {**headers, _HEADER_LENGTH: json_length},
                "content": {**json_content("InferResponse"), **_BINARY},
            },
            **refusals,
        },
    }
