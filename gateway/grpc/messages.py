"""Converts the protocol's responses (gateway/oip/) to gRPC messages."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.oip.datatypes import join_elements
from smartbatch.gateway.oip.metadata import IndexEntry, ModelConfig, ModelMetadata, ServerMetadata
from smartbatch.gateway.oip.outputs import OutputTensor
from smartbatch.gateway.oip.statistics import ModelStatistics
from smartbatch.shared.wire import Tensor

_fields = msgspec.to_builtins  # nested messages may be given as dicts of their fields


def infer_response(model: str, version: int, request_id: str, outputs: Sequence[OutputTensor]) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model, model_version=str(version), id=request_id)
    for output in outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        data = output.data
        response.raw_output_contents.append(bytes(data.data) if isinstance(data, Tensor) else join_elements(data))
    return response


def server_metadata(server: ServerMetadata) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(**_fields(server))


def model_metadata(model: ModelMetadata) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=_fields(model.inputs),
        outputs=_fields(model.outputs),
    )


def model_config(config: ModelConfig) -> pb.ModelConfigResponse:
    message = pb.ModelConfig(
        name=config.name,
        platform=config.platform,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        input=_fields(config.input),
        output=_fields(config.output),
        instance_group=_fields(config.instance_group),
        version_policy=pb.ModelVersionPolicy(**config.version_policy),
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    return pb.ModelConfigResponse(config=message)


def statistics(models: Sequence[ModelStatistics]) -> pb.ModelStatisticsResponse:
    response = pb.ModelStatisticsResponse()
    for model in models:
        response.model_stats.add(
            name=model.name,
            version=model.version,
            last_inference=model.last_inference,
            inference_count=model.inference_count,
            execution_count=model.execution_count,
            inference_stats=pb.InferStatistics(**_fields(model.inference_stats)),
        )
    return response


def index(entries: Sequence[IndexEntry]) -> pb.RepositoryIndexResponse:
    return pb.RepositoryIndexResponse(models=_fields(entries))
