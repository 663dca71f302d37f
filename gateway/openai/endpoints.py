"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from smartbatch.gateway.oip import metadata, versions
from smartbatch.gateway.openai import embeddings, rerank
from smartbatch.gateway.openai.errors import JSON, openai_error
from smartbatch.gateway.openai.types import ModelEntry, ModelList
from smartbatch.shared.errors import SmartBatchError

MODELS = "/v1/models"


def routes(public: Callable[..., Route], inference: Any) -> list[Route]:
    return [
        public(MODELS, models),
        public(MODELS + "/{model}", model),
        *(public(path, inference, methods=["POST"]) for path in (embeddings.PATH, rerank.PATH)),
    ]


async def models(request: Request) -> Response:
    """List the models that the API key may use."""
    try:
        view = request.app.state.gateway
        principal = view.authenticator.identify(request.scope["headers"]) if view.authenticator else None
        names = dict.fromkeys(entry.name for entry in metadata.index(view.monitor, principal, {}, only_ready=False))
        return _json(ModelList([ModelEntry(name) for name in names]))
    except SmartBatchError as error:
        return _refused(error)


async def model(request: Request) -> Response:
    try:
        view, name = request.app.state.gateway, request.path_params["model"]
        principal = view.authenticator.identify(request.scope["headers"]) if view.authenticator else None
        metadata.check_access(principal, name)
        versions.of(view.monitor, name)
        return _json(ModelEntry(name))
    except SmartBatchError as error:
        return _refused(error)


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=JSON)


def _refused(error: SmartBatchError) -> Response:
    status, headers, body = openai_error(error, None)
    return Response(body, status, headers)
