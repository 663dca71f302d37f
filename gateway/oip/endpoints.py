"""The protocol's questions about the server and its models, all answered from the observer's last look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.auth.principal import Anonymous
from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.inference.body_reader import read_body
from smartbatch.gateway.oip import metadata, statistics
from smartbatch.gateway.oip.infer_options import check_version
from smartbatch.gateway.oip.metadata import Liveness, ModelReadiness
from smartbatch.gateway.oip.statistics import Statistics
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import ClientError, MalformedBody, SmartBatchError

JSON = "application/json"
MAX_INDEX_BODY_BYTES = 4096

Page = Callable[[Request], Awaitable[Response]]


class IndexRequest(msgspec.Struct):
    ready: bool = False


def page(make: Page) -> Page:
    """Let a page's errors be JSON, as clients of the protocol read them."""

    async def answer(request: Request) -> Response:
        try:
            return await make(request)
        except SmartBatchError as error:
            status, headers, body = problem(error, None)
            return Response(body, status, {**headers, "content-type": JSON})

    return answer


@page
async def live(request: Request) -> Response:
    """The process answers."""
    return _json(Liveness(True, _gateway(request).ready))


@page
async def ready(request: Request) -> Response:
    """Redis is reachable and every model served has a worker that is ready."""
    is_ready = _gateway(request).ready
    return _json(Liveness(True, is_ready), 200 if is_ready else 503)


@page
async def server(request: Request) -> Response:
    return _json(metadata.server_metadata(_gateway(request)))


@page
async def model_metadata(request: Request) -> Response:
    return _json(metadata.model_metadata(metadata.info_of(_gateway(request), _model(request))))


@page
async def model_ready(request: Request) -> Response:
    """The model has a worker that is ready."""
    gateway, model = _gateway(request), _model(request)
    metadata.check_model(gateway, model)
    is_ready = metadata.model_ready(gateway, model)
    return _json(ModelReadiness(model, is_ready), 200 if is_ready else 503)


@page
async def model_config(request: Request) -> Response:
    gateway = _gateway(request)
    return _json(metadata.model_config(gateway, metadata.info_of(gateway, _model(request))))


@page
async def model_statistics(request: Request) -> Response:
    """For who may see statistics (gateway/auth/authenticator.py), of any model."""
    gateway, model = _gateway(request), request.path_params["model"]
    metadata.check_model(gateway, model)
    check_version(model, request.path_params.get("version", ""))
    return _json(Statistics([statistics.of(gateway, model)]))


@page
async def all_statistics(request: Request) -> Response:
    gateway = _gateway(request)
    return _json(Statistics([statistics.of(gateway, model) for model in gateway.models]))


@page
async def index(request: Request) -> Response:
    """The models that the caller may use."""
    gateway = _gateway(request)
    body, _ = await read_body(request.scope, request.receive, MAX_INDEX_BODY_BYTES)
    principal = _principal(request)
    entries = metadata.index(gateway, only_ready=_index_request(body).ready)
    return _json([entry for entry in entries if principal.may_use(entry.name)])


@page
async def load_or_unload(request: Request) -> Response:
    raise ClientError("models can't be loaded or unloaded by request: start or stop `smartbatch worker` instead")


def _index_request(body: bytes) -> IndexRequest:
    try:
        return msgspec.json.decode(body, type=IndexRequest) if body.strip() else IndexRequest()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedBody(f'expected {{"ready": true or false}} or an empty body: {error}') from None


def _gateway(request: Request) -> GatewayServices:
    return request.app.state.gateway


def _principal(request: Request) -> Anonymous:
    return _gateway(request).authenticator.identify(request.scope["headers"])


def _model(request: Request) -> str:
    """The model that the path names. Raises Forbidden if the caller's key isn't for it, UnknownModel for a version
    that isn't there."""
    model = request.path_params["model"]
    metadata.check_access(_principal(request), model)
    check_version(model, request.path_params.get("version", ""))
    return model


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
