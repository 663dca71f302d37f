"""The methods of the protocol's gRPC service that this server implements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.grpc import messages
from smartbatch.gateway.grpc.calls import Context, abort, headers_of
from smartbatch.gateway.grpc.infer import infer
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import metadata, repository, statistics, versions
from smartbatch.shared.broker.admin.launchers import Load, Unload
from smartbatch.shared.errors import Forbidden
from smartbatch.shared.model_info import ModelInfo

SERVICE = "inference.GRPCInferenceService"


class ServiceView(RequestServices, Protocol):
    """What the methods need of the gateway process."""

    monitor: SystemMonitor


class _Method(NamedTuple):
    """A method that runs no model. It needs the same API key as `path` in REST."""

    request: type[Message]
    path: str
    respond: Callable[[ServiceView, Principal | None, Any], Awaitable[Message]]


def handlers(services: ServiceView) -> grpc.GenericRpcHandler:
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(partial(infer, services))}
    for name, method in _METHODS.items():
        methods[name] = grpc.unary_unary_rpc_method_handler(
            _handler(services, method),
            request_deserializer=method.request.FromString,
            response_serializer=_serialize,
        )
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _handler(services: ServiceView, method: _Method) -> Callable[[Any, Context], Awaitable[Message]]:
    authenticator = services.authenticator

    async def call(request: Any, context: Context) -> Message:
        headers = headers_of(context)
        principal = None
        try:
            if authenticator is not None:
                if error := authenticator.refusal(method.path, headers):
                    raise error
                if method.path not in authenticator.open_paths:
                    principal = authenticator.identify(headers)
            return await method.respond(services, principal, request)
        except Exception as error:
            await abort(context, error, None)

    return call


async def _live(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    return pb.ServerLiveResponse(live=True)


async def _ready(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    return pb.ServerReadyResponse(ready=services.monitor.ready)


async def _model_ready(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    metadata.check_access(principal, request.name)
    monitor = services.monitor
    models = versions.meant(monitor, request.name, request.version)
    return pb.ModelReadyResponse(ready=metadata.model_ready(monitor, models))


async def _server_metadata(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    with_statistics = services.settings.management_port < 0
    return messages.server_metadata(metadata.server_metadata(with_statistics=with_statistics))


async def _model_metadata(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    monitor = services.monitor
    return messages.model_metadata(metadata.model_metadata(monitor, _info(services, principal, request)))


async def _model_config(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    return messages.model_config(metadata.model_config(services.monitor, _info(services, principal, request)))


async def _statistics(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    monitor = services.monitor
    if services.settings.management_port >= 0:
        raise Forbidden("statistics are only available over HTTP, on MANAGEMENT_PORT")
    models = versions.meant(monitor, request.name, request.version) if request.name else monitor.model_names
    return messages.statistics([statistics.of(monitor, model) for model in models])


async def _index(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    return messages.index(await repository.index(services, principal, only_ready=request.ready))


async def _load(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    repository.check_may_change(principal, request.model_name, managed=False)
    repository.check_load(request.repository_name, request.parameters)
    await repository.carry_out(Load(*repository.target(request.model_name)), services, principal)
    return pb.RepositoryModelLoadResponse()


async def _unload(services: ServiceView, principal: Principal | None, request: Any) -> Message:
    repository.check_may_change(principal, request.model_name, managed=False)
    repository.check_unload(request.repository_name, request.parameters)
    await repository.carry_out(Unload(*repository.target(request.model_name)), services, principal)
    return pb.RepositoryModelUnloadResponse()


def _info(services: ServiceView, principal: Principal | None, request: Any) -> ModelInfo:
    """Return the announcement of the requested version, or of the one that requests by name go to."""
    metadata.check_access(principal, request.name)
    return metadata.info_of(services.monitor, versions.chosen(services.monitor, request.name, request.version))


_MODEL = "/v2/models/{model}"
_REPOSITORY_MODEL = "/v2/repository/models/{model}"
_METHODS = {
    "ServerLive": _Method(pb.ServerLiveRequest, "/v2/health/live", _live),
    "ServerReady": _Method(pb.ServerReadyRequest, "/v2/health/ready", _ready),
    "ServerMetadata": _Method(pb.ServerMetadataRequest, "/v2", _server_metadata),
    "ModelReady": _Method(pb.ModelReadyRequest, f"{_MODEL}/ready", _model_ready),
    "ModelMetadata": _Method(pb.ModelMetadataRequest, _MODEL, _model_metadata),
    "ModelConfig": _Method(pb.ModelConfigRequest, f"{_MODEL}/config", _model_config),
    "ModelStatistics": _Method(pb.ModelStatisticsRequest, f"{_MODEL}/stats", _statistics),
    "RepositoryIndex": _Method(pb.RepositoryIndexRequest, "/v2/repository/index", _index),
    "RepositoryModelLoad": _Method(pb.RepositoryModelLoadRequest, f"{_REPOSITORY_MODEL}/load", _load),
    "RepositoryModelUnload": _Method(pb.RepositoryModelUnloadRequest, f"{_REPOSITORY_MODEL}/unload", _unload),
}
