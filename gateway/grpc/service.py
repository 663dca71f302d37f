"""The methods of the protocol's service that this server has, on one gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from smartbatch.gateway.auth.authenticator import ALWAYS_OPEN
from smartbatch.gateway.auth.principal import ANONYMOUS, Anonymous
from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.grpc import messages
from smartbatch.gateway.grpc.calls import Context, abort, headers_of
from smartbatch.gateway.grpc.infer import infer
from smartbatch.gateway.oip import metadata, statistics
from smartbatch.gateway.oip.infer_options import check_version
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import Forbidden

SERVICE = "inference.GRPCInferenceService"


class _Page(NamedTuple):
    """A method that runs no model, and the path under which REST has the same: the same keys open both."""

    request: type[Message]
    path: str
    answer: Callable[[GatewayServices, Anonymous, Any], Message]


def handlers(gateway: GatewayServices) -> grpc.GenericRpcHandler:
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(partial(infer, gateway))}
    for name, page in _PAGES.items():
        methods[name] = grpc.unary_unary_rpc_method_handler(
            _handler(gateway, page),
            request_deserializer=page.request.FromString,
            response_serializer=_serialize,
        )
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _handler(gateway: GatewayServices, page: _Page) -> Callable[[Any, Context], Awaitable[Message]]:
    async def call(request: Any, context: Context) -> Message:
        headers = headers_of(context)
        try:
            if error := gateway.authenticator.refusal(page.path, headers):
                raise error
            principal = ANONYMOUS if page.path in ALWAYS_OPEN else gateway.authenticator.identify(headers)
            return page.answer(gateway, principal, request)
        except Exception as error:
            await abort(context, error, None)

    return call


def _live(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    return pb.ServerLiveResponse(live=True)


def _ready(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    return pb.ServerReadyResponse(ready=gateway.ready)


def _model_ready(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    _check(gateway, principal, request)
    return pb.ModelReadyResponse(ready=metadata.model_ready(gateway, request.name))


def _server_metadata(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    return messages.server_metadata(metadata.server_metadata(gateway))


def _model_metadata(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    _check(gateway, principal, request)
    return messages.model_metadata(metadata.model_metadata(metadata.info_of(gateway, request.name)))


def _model_config(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    _check(gateway, principal, request)
    return messages.model_config(metadata.model_config(gateway, metadata.info_of(gateway, request.name)))


def _statistics(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    if gateway.settings.management_port >= 0:
        raise Forbidden("statistics are only available over HTTP, on MANAGEMENT_PORT")
    if request.name:
        metadata.check_model(gateway, request.name)
        check_version(request.name, request.version)
    models = [request.name] if request.name else gateway.models
    return messages.statistics([statistics.of(gateway, model) for model in models])


def _index(gateway: GatewayServices, principal: Anonymous, request: Any) -> Message:
    entries = metadata.index(gateway, only_ready=request.ready)
    return messages.index([entry for entry in entries if principal.may_use(entry.name)])


def _check(gateway: GatewayServices, principal: Anonymous, request: Any) -> None:
    metadata.check_access(principal, request.name)
    metadata.check_model(gateway, request.name)
    check_version(request.name, request.version)


_MODEL = "/v2/models/{model}"
_PAGES = {
    "ServerLive": _Page(pb.ServerLiveRequest, "/v2/health/live", _live),
    "ServerReady": _Page(pb.ServerReadyRequest, "/v2/health/ready", _ready),
    "ServerMetadata": _Page(pb.ServerMetadataRequest, "/v2", _server_metadata),
    "ModelReady": _Page(pb.ModelReadyRequest, f"{_MODEL}/ready", _model_ready),
    "ModelMetadata": _Page(pb.ModelMetadataRequest, _MODEL, _model_metadata),
    "ModelConfig": _Page(pb.ModelConfigRequest, f"{_MODEL}/config", _model_config),
    "ModelStatistics": _Page(pb.ModelStatisticsRequest, f"{_MODEL}/stats", _statistics),
    "RepositoryIndex": _Page(pb.RepositoryIndexRequest, "/v2/repository/index", _index),
}
