"""The endpoints of the Open Inference Protocol in /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence

from smartbatch.gateway.oip import infer, metadata, rest_request, rest_response, statistics
from smartbatch.gateway.oip.endpoints import IndexRequest, RepositoryRequest
from smartbatch.gateway.web.openapi.examples import infer_examples
from smartbatch.gateway.web.openapi.parts import JSON, Json, json_content, limits, page, parameter, ref, running, schema
from smartbatch.shared import errors
from smartbatch.shared.keys import MAX_VERSION, MODEL_NAME
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
    RepositoryRequest,
)

_HEADER_LENGTH = infer.HEADER_LENGTH.decode().title()
_BINARY: Json = {"application/octet-stream": {}}
_NO_MODEL = (errors.UnknownModel.code,)
_NOT_YET = (errors.UnknownModel.code, errors.Unavailable.code)
_BODY = (errors.MalformedBody.code, errors.BodyTooLarge.code, errors.BodyTimeout.code, errors.UnsupportedMedia.code)
_CHOSEN = "Without a version, of the one that requests by name go to."

_LOAD = (
    "From the model repository of a launcher (`smartbatch up --models`): the version, or those that the repository's "
    "policy selects. Responds once the model is ready, or says why it isn't."
)
_UNLOAD = "The version, or all of them. Responds once what their workers held is answered and they have ended."

# path after the model's, name, summary, description, contents, codes
_OF_MODEL = (
    (
        "",
        "metadata",
        "Model metadata",
        _CHOSEN,
        {200: json_content("ModelMetadata")},
        _NOT_YET,
    ),
    (
        "/ready",
        "ready",
        "Model readiness",
        "200 if the version has a ready worker, or without a version any of them, otherwise 503.",
        {200: json_content("ModelReadiness"), 503: json_content("ModelReadiness")},
        _NO_MODEL,
    ),
    (
        "/config",
        "config",
        "Model configuration",
        "In the format of Triton's model configuration. " + _CHOSEN,
        {200: json_content("ModelConfig")},
        _NOT_YET,
    ),
    (
        "/stats",
        "statistics",
        "Model statistics",
        "In the format of Triton's statistics extension. Without a version, of each of the model's versions.",
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
    example = models[0].name if models else settings.model
    described["/v2/repository/models/{model}/load"] = _command("load", example, "Load a model", _LOAD)
    described["/v2/repository/models/{model}/unload"] = _command("unload", example, "Unload a model", _UNLOAD)
    for versioned in (False, True):
        base = "/v2/models/{model}" + "/versions/{version}" * versioned
        target = _target(example, models[0].version if models else settings.model_version, versioned)
        for path, name, summary, description, contents, codes in _OF_MODEL:
            if versioned:
                name, summary = f"{name}_of_version", f"{summary} (with version)"
            described[base + path] = _get(name, base + path, summary, contents, target, codes, description)
        described[base + "/infer"] = {"post": _infer(settings, models, target)}
    return described


def _get(name, path, summary, contents, parameters=(), codes=(), description="") -> Json:
    more = {"parameters": parameters, "codes": codes, "content_type": JSON, "description": description}
    return {"get": page(f"oip_{name}", path, summary, contents, **more)}


def _target(model: str, version: int, versioned: bool) -> list[Json]:
    """Describe the parameters of a path. `model` and `version` are their examples."""
    name = {**schema("string", pattern=f"^{MODEL_NAME.pattern}$"), "example": model}
    target = [parameter("path", "model", name, "Name of the model", required=True)]
    if versioned:
        number = {**schema("integer", minimum=1, maximum=MAX_VERSION), "example": version}
        target.append(parameter("path", "version", number, "Version of the model", required=True))
    return target


def _index() -> Json:
    entries = {JSON: {"schema": {"type": "array", "items": ref("IndexEntry")}}}
    path = "/v2/repository/index"
    described = page("oip_index", path, "Model repository index", {200: entries}, codes=_BODY, content_type=JSON)
    content = {JSON: {"schema": ref("IndexRequest"), "example": {"ready": True}}}
    return {**described, "requestBody": {"required": False, "content": content}}


def _command(verb: str, model: str, summary: str, description: str) -> Json:
    """Describe load or unload. `model` is an example."""
    codes = (*_BODY, errors.ClientError.code, errors.ModelCommandFailed.code, *_NOT_YET, errors.BrokerUnavailable.code)
    name = {**schema("string"), "example": model}
    described = page(
        f"oip_{verb}",
        f"/v2/repository/models/{{model}}/{verb}",
        summary,
        {200: {JSON: schema("object")}},
        parameters=[parameter("path", "model", name, "Name of the model, or `name@version`", required=True)],
        codes=codes,
        content_type=JSON,
        description=f"{description} Needs an API key with the role admin, or without API keys MANAGEMENT_PORT.",
    )
    content = {JSON: {"schema": ref("RepositoryRequest"), "example": {}}}
    return {"post": {**described, "requestBody": {"required": False, "content": content}}}


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
