"""The protocol's endpoints in /openapi.json, described from their own types."""

from __future__ import annotations

from smartbatch.gateway.oip import infer, metadata, rest_request, rest_response, statistics
from smartbatch.gateway.oip.endpoints import IndexRequest
from smartbatch.gateway.web.openapi.parts import JSON, Json, json_content, limits, page, parameter, ref, running, schema
from smartbatch.shared import errors
from smartbatch.shared.keys import MODEL_NAME
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

# path behind that of the model, name, summary, contents, codes
_OF_MODEL = (
    ("", "metadata", "What a model takes and gives", {200: json_content("ModelMetadata")}, _NOT_YET),
    (
        "/ready",
        "ready",
        "200 if the model has a worker that is ready",
        {200: json_content("ModelReadiness"), 503: json_content("ModelReadiness")},
        _NO_MODEL,
    ),
    ("/config", "config", "In the terms of Triton's model configuration", {200: json_content("ModelConfig")}, _NOT_YET),
    ("/stats", "statistics", "What its workers counted", {200: json_content("Statistics")}, _NO_MODEL),
)


def paths(settings: Settings) -> Json:
    ready = {200: json_content("Liveness"), 503: json_content("Liveness")}
    described = {
        "/v2": _get("server", "/v2", "What the server is and can", {200: json_content("ServerMetadata")}),
        "/v2/health/live": _get("live", "/v2/health/live", "This process answers", {200: json_content("Liveness")}),
        "/v2/health/ready": _get("ready", "/v2/health/ready", "As /readyz", ready),
        "/v2/models/stats": _get(
            "all_statistics", "/v2/models/stats", "What all workers counted", {200: json_content("Statistics")}
        ),
        "/v2/repository/index": {"post": _index()},
    }
    for versioned in (False, True):
        base = "/v2/models/{model}" + "/versions/{version}" * versioned
        for path, name, summary, contents, codes in _OF_MODEL:
            name = f"{name}_of_version" if versioned else name
            described[base + path] = _get(name, base + path, summary, contents, _target(versioned), codes)
        described[base + "/infer"] = {"post": _infer(settings, versioned)}
    return described


def _get(name, path, summary, contents, parameters=(), codes=()) -> Json:
    more = {"parameters": parameters, "codes": codes, "content_type": JSON}
    return {"get": page(f"oip_{name}", path, summary, contents, **more)}


def _target(versioned: bool) -> list[Json]:
    model = schema("string", pattern=f"^{MODEL_NAME.pattern}$")
    target = [parameter("path", "model", model, "A model that is served here", required=True)]
    if versioned:
        target.append(parameter("path", "version", schema("string"), "There is one: 1", required=True))
    return target


def _index() -> Json:
    entries = {JSON: {"schema": {"type": "array", "items": ref("IndexEntry")}}}
    codes = (errors.MalformedBody.code, errors.BodyTooLarge.code, errors.BodyTimeout.code, errors.UnsupportedMedia.code)
    path = "/v2/repository/index"
    described = page("oip_index", path, "The models there are", {200: entries}, codes=codes, content_type=JSON)
    return {**described, "requestBody": {"required": False, "content": json_content("IndexRequest")}}


def _infer(settings: Settings, versioned: bool) -> Json:
    parameters, headers, refusals = running(settings, JSON)
    length = parameter(
        "header",
        _HEADER_LENGTH,
        schema("integer", minimum=0),
        "How many bytes of the body are JSON, if the bytes of tensors follow; 0: the body is the one input",
    )
    json_length = {"description": "How many bytes are JSON, if the bytes of tensors follow", **schema("integer")}
    return {
        "operationId": "oip_infer_of_version" if versioned else "oip_infer",
        "summary": "Run a model (Open Inference Protocol 2, with binary tensors)",
        "parameters": [*_target(versioned), length, *parameters],
        "requestBody": {
            "required": True,
            "description": limits(settings),
            "content": {**json_content("InferRequest"), **_BINARY},
        },
        "responses": {
            "200": {
                "description": "The outputs that were asked for",
                "headers": {**headers, _HEADER_LENGTH: json_length},
                "content": {**json_content("InferResponse"), **_BINARY},
            },
            **refusals,
        },
    }
