"""Converts the protocol's responses (gateway/oip/) to gRPC messages."""

from __future__ import annotations

from collections.abc import Sequence

from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.oip import VERSION
from smartbatch.gateway.oip.datatypes import join_elements
from smartbatch.gateway.oip.metadata import (
    ConfigTensor,
    IndexEntry,
    ModelConfig,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
)
from smartbatch.gateway.oip.outputs import OutputTensor
from smartbatch.gateway.oip.statistics import Duration, ModelStatistics
from smartbatch.shared.wire import Tensor

_PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def infer_response(model: str, request_id: str, outputs: Sequence[OutputTensor]) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model, model_version=VERSION, id=request_id)
    for output in outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        data = output.data
        response.raw_output_contents.append(bytes(data.data) if isinstance(data, Tensor) else join_elements(data))
    return response


def server_metadata(server: ServerMetadata) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name=server.name, version=server.version, extensions=server.extensions)


def model_metadata(model: ModelMetadata) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=map(_tensor, model.inputs),
        outputs=map(_tensor, model.outputs),
    )


def _tensor(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def model_config(config: ModelConfig) -> pb.ModelConfigResponse:
    message = pb.ModelConfig(
        name=config.name,
        platform=config.platform,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        input=[pb.ModelInput(**_config_tensor(tensor)) for tensor in config.input],
        output=[pb.ModelOutput(**_config_tensor(tensor)) for tensor in config.output],
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    for group in config.instance_group:
        message.instance_group.add(name=group.name, count=group.count, kind=group.kind)
    return pb.ModelConfigResponse(config=message)


def _config_tensor(tensor: ConfigTensor) -> dict:
    return {"name": tensor.name, "data_type": tensor.data_type, "dims": tensor.dims}


def statistics(models: Sequence[ModelStatistics]) -> pb.ModelStatisticsResponse:
    response = pb.ModelStatisticsResponse()
    for model in models:
        parts = {part: _duration(getattr(model.inference_stats, part)) for part in _PARTS}
        response.model_stats.add(
            name=model.name,
            version=model.version,
            last_inference=model.last_inference,
            inference_count=model.inference_count,
            execution_count=model.execution_count,
            inference_stats=pb.InferStatistics(**parts),
        )
    return response


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)


def index(entries: Sequence[IndexEntry]) -> pb.RepositoryIndexResponse:
    response = pb.RepositoryIndexResponse()
    for entry in entries:
        response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
    return response
