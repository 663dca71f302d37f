"""The paths under /v1 in /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence

from smartbatch.gateway.openai import embeddings, endpoints, rerank, types
from smartbatch.gateway.web.openapi.parts import JSON, Json, json_content, limits, page, parameter, ref, running, schema
from smartbatch.shared import errors
from smartbatch.shared.keys import MODEL_NAME
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings

TYPES = (
    types.EmbeddingsResponse,
    types.RerankRequest,
    types.RerankResponse,
    types.ModelEntry,
    types.ModelList,
    types.ErrorResponse,
)

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "minItems": 1}
_TEXT = {"type": "string"}


def request_schemas() -> Json:
    """Describe what msgspec decodes in two steps."""
    given = [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
    return {
        "EmbeddingsRequest": {
            "type": "object",
            "description": "Other fields are ignored",
            "required": ["input"],
            "properties": {
                "input": {"description": "A text, texts, the token ids of a text, or those of several", "anyOf": given},
                "model": {"type": "string", "description": "Name of the model. Default: the first of the server"},
                "encoding_format": {"enum": ["float", "base64", None], "default": "float"},
                "dimensions": {
                    "type": ["integer", "null"],
                    "minimum": 1,
                    "description": "Keep this many numbers of each embedding",
                },
            },
        }
    }


def paths(settings: Settings, models: Sequence[ModelInfo] = ()) -> Json:
    """Describe the paths. The example of each is for the first of `models` that takes it, if one does."""
    embeds = next((info.name for info in models if embeddings.embeds(info)), None)
    reranks = next((info.name for info in models if {spec.name for spec in info.inputs} == rerank.INPUTS), None)
    texts = {"model": embeds, "input": ["a cat", "a kitten"]} if embeds else None
    documents = {"model": reranks, "query": "a cat", "documents": ["a kitten", "a train"]} if reranks else None
    name = {
        **schema("string", pattern=f"^{MODEL_NAME.pattern}$"),
        "example": models[0].name if models else settings.model,
    }
    model = parameter("path", "model", name, "Name of the model", required=True)
    of_model = page(
        "openai_model",
        endpoints.MODELS,
        "One model",
        {200: json_content("ModelEntry")},
        parameters=[model],
        codes=(errors.UnknownModel.code,),
    )
    listed = page(
        "openai_models", endpoints.MODELS, "Models that the API key may use", {200: json_content("ModelList")}
    )
    return {
        embeddings.PATH: {"post": _runs(settings, "openai_embeddings", "Embed texts", "Embeddings", texts)},
        rerank.PATH: {
            "post": _runs(settings, "rerank", "Sort documents by their relevance to a query", "Rerank", documents)
        },
        endpoints.MODELS: {"get": _with_errors(listed)},
        endpoints.MODELS + "/{model}": {"get": _with_errors(of_model)},
    }


def _runs(settings: Settings, name: str, summary: str, types_name: str, example: Json | None) -> Json:
    parameters, headers, refusals = running(settings, JSON)
    request = json_content(f"{types_name}Request")
    if example:
        request[JSON]["example"] = example
    described: Json = {
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "description": limits(settings),
            "content": request,
        },
        "responses": {
            "200": {"description": summary, "headers": headers, "content": json_content(f"{types_name}Response")},
            **refusals,
        },
    }
    return _with_errors(described)


def _with_errors(operation: Json) -> Json:
    for status, described in operation["responses"].items():
        if status != "200":
            described["content"] = {JSON: {"schema": ref("ErrorResponse")}}
    return operation
