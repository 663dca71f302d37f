"""REST endpoints about the server and its models. All respond from the system monitor's last read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.auth.authenticator import Authenticator
from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.inference.body_reader import read_body
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import metadata, statistics
from smartbatch.gateway.oip.infer_options import check_version
from smartbatch.gateway.oip.metadata import Liveness, ModelReadiness
from smartbatch.gateway.oip.statistics import Statistics
from smartbatch.shared.errors import ClientError, MalformedBody, SmartBatchError
from smartbatch.shared.settings import Settings

JSON = "application/json"
MAX_INDEX_BODY_BYTES = 4096

Endpoint = Callable[[Request], Awaitable[Response]]


class SystemView(Protocol):
    """What the endpoints need of the gateway process: the application's `state.gateway`."""

    settings: Settings
    monitor: SystemMonitor
    authenticator: Authenticator | None


class IndexRequest(msgspec.Struct):
    ready: bool = False


def with_json_errors(endpoint: Endpoint) -> Endpoint:
    """Render errors as JSON, as clients of the protocol expect."""

    async def respond(request: Request) -> Response:
        try:
            return await endpoint(request)
        except SmartBatchError as error:
            status, headers, body = problem(error, None)
            return Response(body, status, {**headers, "content-type": JSON})

    return respond


@with_json_errors
async def live(request: Request) -> Response:
    return _json(Liveness(True, _monitor(request).ready))


@with_json_errors
async def ready(request: Request) -> Response:
    """Respond like /readyz."""
    is_ready = _monitor(request).ready
    return _json(Liveness(True, is_ready), 200 if is_ready else 503)


@with_json_errors
async def server(request: Request) -> Response:
    return _json(metadata.server_metadata(with_statistics=_view(request).settings.management_port < 0))


@with_json_errors
async def model_metadata(request: Request) -> Response:
    return _json(metadata.model_metadata(metadata.info_of(_monitor(request), _model(request))))


@with_json_errors
async def model_ready(request: Request) -> Response:
    """Respond with 200 if the model has a ready worker, otherwise 503."""
    monitor, model = _monitor(request), _model(request)
    metadata.check_model(monitor, model)
    is_ready = metadata.model_ready(monitor, model)
    return _json(ModelReadiness(model, is_ready), 200 if is_ready else 503)


@with_json_errors
async def model_config(request: Request) -> Response:
    monitor = _monitor(request)
    return _json(metadata.model_config(monitor, metadata.info_of(monitor, _model(request))))


@with_json_errors
async def model_statistics(request: Request) -> Response:
    """Return one model's statistics. The path authorizes the key (auth/authenticator.py), for any model."""
    monitor, model = _monitor(request), request.path_params["model"]
    metadata.check_model(monitor, model)
    check_version(model, request.path_params.get("version", ""))
    return _json(Statistics([statistics.of(monitor, model)]))


@with_json_errors
async def all_statistics(request: Request) -> Response:
    monitor = _monitor(request)
    return _json(Statistics([statistics.of(monitor, model) for model in monitor.model_names]))


@with_json_errors
async def index(request: Request) -> Response:
    body, _ = await read_body(request.scope, request.receive, MAX_INDEX_BODY_BYTES)
    principal = _principal(request)
    return _json(metadata.index(_monitor(request), principal, only_ready=_index_request(body).ready))


@with_json_errors
async def load_or_unload(request: Request) -> Response:
    raise ClientError("models can't be loaded or unloaded by request: start or stop `smartbatch worker` instead")


def _index_request(body: bytes) -> IndexRequest:
    try:
        return msgspec.json.decode(body, type=IndexRequest) if body.strip() else IndexRequest()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedBody(f'expected {{"ready": true or false}} or an empty body: {error}') from None


def _view(request: Request) -> SystemView:
    return request.app.state.gateway


def _monitor(request: Request) -> SystemMonitor:
    return _view(request).monitor


def _principal(request: Request) -> Principal | None:
    authenticator = _view(request).authenticator
    return None if authenticator is None else authenticator.identify(request.scope["headers"])


def _model(request: Request) -> str:
    """Return the model in the path. Raises Forbidden if the key may not use it, UnknownModel for an unknown version."""
    model = request.path_params["model"]
    metadata.check_access(_principal(request), model)
    check_version(model, request.path_params.get("version", ""))
    return model


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
