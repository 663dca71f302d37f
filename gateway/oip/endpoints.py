"""REST endpoints about the server and its models.

All but the repository's respond from the system monitor's last read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.auth.authenticator import Authenticator
from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.inference.body_reader import read_body
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import metadata, repository, statistics, versions
from smartbatch.gateway.oip.metadata import Liveness, ModelReadiness
from smartbatch.gateway.oip.statistics import Statistics
from smartbatch.shared.broker.admin.launchers import Load, Unload
from smartbatch.shared.errors import Forbidden, MalformedBody, SmartBatchError
from smartbatch.shared.settings import Settings

JSON = "application/json"
MAX_INDEX_BODY_BYTES = 4096
MAX_COMMAND_BODY_BYTES = 64 * 1024

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]


class SystemView(Protocol):
    """What the endpoints need of the gateway process: the application's `state.gateway`."""

    settings: Settings
    monitor: SystemMonitor
    authenticator: Authenticator | None


class IndexRequest(msgspec.Struct):
    ready: bool = False


class RepositoryRequest(msgspec.Struct):
    """The body of load and unload. Load knows no parameter; unload ignores `unload_dependents`."""

    parameters: dict[str, Any] = {}


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
    monitor = _monitor(request)
    return _json(metadata.model_metadata(monitor, metadata.info_of(monitor, _chosen(request))))


@with_json_errors
async def model_ready(request: Request) -> Response:
    """Respond with 200 if the version has a ready worker, or without a version any of them, otherwise 503."""
    monitor, (model, version) = _monitor(request), _target(request)
    is_ready = metadata.model_ready(monitor, versions.meant(monitor, model, version))
    return _json(ModelReadiness(model, is_ready), 200 if is_ready else 503)


@with_json_errors
async def model_config(request: Request) -> Response:
    monitor = _monitor(request)
    return _json(metadata.model_config(monitor, metadata.info_of(monitor, _chosen(request))))


@with_json_errors
async def model_statistics(request: Request) -> Response:
    """Return the statistics of one version of a model, or of each. The path authorizes the key
    (auth/authenticator.py), for any model."""
    monitor, path = _monitor(request), request.path_params
    models = versions.meant(monitor, path["model"], path.get("version", ""))
    return _json(Statistics([statistics.of(monitor, model) for model in models]))


@with_json_errors
async def all_statistics(request: Request) -> Response:
    monitor = _monitor(request)
    return _json(Statistics([statistics.of(monitor, model) for model in monitor.model_names]))


@with_json_errors
async def index(request: Request) -> Response:
    body, _ = await read_body(request.scope, request.receive, MAX_INDEX_BODY_BYTES)
    principal, wanted = _principal(request), _decoded(body, IndexRequest, '{"ready": true or false}')
    return _json(await repository.index(_view(request), principal, only_ready=wanted.ready))


@with_json_errors
async def load(request: Request) -> Response:
    """Load a model, and respond once it is ready."""
    principal, name, parameters = await _command(request)
    repository.check_load("", parameters)
    await repository.carry_out(Load(*repository.target(name)), _view(request), principal)
    return _json({})


@with_json_errors
async def unload(request: Request) -> Response:
    """Unload a model, and respond once its workers have ended."""
    principal, name, parameters = await _command(request)
    repository.check_unload("", parameters)
    await repository.carry_out(Unload(*repository.target(name)), _view(request), principal)
    return _json({})


async def _command(request: Request) -> tuple[Principal | None, str, Iterable[str]]:
    """Return who may load or unload the model in the path, its name, and the names of the parameters."""
    if "origin" in request.headers:  # a page of any site could send it to a port that its reader reaches
        raise Forbidden("models can't be loaded or unloaded from a web page")
    principal, name = _principal(request), request.path_params["model"]
    managed = request.scope["server"][1] == _view(request).settings.management_port
    repository.check_may_change(principal, name, managed=managed)
    body, _ = await read_body(request.scope, request.receive, MAX_COMMAND_BODY_BYTES)
    return principal, name, _decoded(body, RepositoryRequest, '{"parameters": {…}}').parameters


def _decoded(body: bytes, kind: type[T], expected: str) -> T:
    """Decode a JSON body, which may be empty. Raises MalformedBody."""
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedBody(f"expected {expected} or an empty body: {error}") from None


def _view(request: Request) -> SystemView:
    return request.app.state.gateway


def _monitor(request: Request) -> SystemMonitor:
    return _view(request).monitor


def _principal(request: Request) -> Principal | None:
    authenticator = _view(request).authenticator
    return None if authenticator is None else authenticator.identify(request.scope["headers"])


def _target(request: Request) -> tuple[str, str]:
    """Return the model and the version in the path; without a version, an empty one. Raises Forbidden if the key may
    not use the model."""
    model = request.path_params["model"]
    metadata.check_access(_principal(request), model)
    return model, request.path_params.get("version", "")


def _chosen(request: Request) -> str:
    """Return the ID of the version in the path, or of the one that requests by name go to."""
    return versions.chosen(_monitor(request), *_target(request))


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
