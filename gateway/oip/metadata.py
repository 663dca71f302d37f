"""Metadata of the server and its models: inputs and outputs, configuration, readiness, the index of models."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import VERSION, signature
from smartbatch.gateway.oip.datatypes import BYTES
from smartbatch.shared import __version__
from smartbatch.shared.errors import Forbidden, Unavailable, UnknownModel
from smartbatch.shared.model_info import ModelInfo

SERVER_NAME = "smartbatch"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)


class Liveness(msgspec.Struct):
    """One body for both endpoints: clients go by the status, and implementations disagree on the member."""

    live: bool
    ready: bool


class ModelReadiness(msgspec.Struct):
    name: str
    ready: bool


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct):
    """`shape` is with the rows in front; -1: any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct):
    """`inputs` holds the model's inputs, `alternative_inputs` what may be sent in place of one: tools send all of
    `inputs`. `outputs` may be empty, since a user's model needn't declare them."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    alternative_inputs: list[TensorMetadata]


class ConfigTensor(msgspec.Struct):
    """`dims` are without the rows if `max_batch_size` isn't 0."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class InstanceGroup(msgspec.Struct):
    """The model's ready workers."""

    count: int
    kind: Literal["KIND_CPU", "KIND_GPU"]
    name: str = "workers"


class ModelConfig(msgspec.Struct):
    """Triton's model configuration, as far as it applies. `dynamic_batching` is present, as requests are always
    batched."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    instance_group: list[InstanceGroup]
    version_policy: dict[str, Any]
    dynamic_batching: dict[str, Any]


class IndexEntry(msgspec.Struct):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


def server_metadata(*, with_statistics: bool) -> ServerMetadata:
    extensions = tuple(name for name in EXTENSIONS if with_statistics or name != "statistics")
    return ServerMetadata(SERVER_NAME, __version__, extensions)


def info_of(monitor: SystemMonitor, model: str) -> ModelInfo:
    """Return what a worker announced. Raises UnknownModel, or Unavailable before the first worker is up."""
    check_model(monitor, model)
    info = monitor.models.get(model)
    if info is None:
        raise Unavailable(f"no worker of model {model!r} has announced its inputs yet")
    return info


def check_model(monitor: SystemMonitor, model: str) -> None:
    if model not in monitor.model_names:
        raise UnknownModel(f"model {model!r:.140} not found; available: {', '.join(monitor.model_names)}")


def check_access(principal: Principal | None, model: str) -> None:
    """`principal` is None where no API keys are configured. Raises Forbidden."""
    if principal is not None and not principal.may_use(model):
        raise Forbidden("this API key may not use this model")


def model_metadata(info: ModelInfo) -> ModelMetadata:
    each = [
        [TensorMetadata(form.name, form.datatype, form.shape) for form in forms] for forms in signature.inputs(info)
    ]
    others = [form for forms in each for form in forms[1:]]
    outputs = [TensorMetadata(output.name, output.datatype, output.shape) for output in signature.outputs(info)]
    return ModelMetadata(info.name, [VERSION], info.platform, [forms[0] for forms in each], outputs, others)


def model_config(monitor: SystemMonitor, info: ModelInfo) -> ModelConfig:
    batched = signature.batched(info)
    inputs, outputs = [forms[0] for forms in signature.inputs(info)], signature.outputs(info)
    return ModelConfig(
        info.name,
        info.platform,
        SERVER_NAME,
        info.max_batch_size if batched else 0,
        [ConfigTensor(form.name, _config_type(form.datatype), form.shape[batched:]) for form in inputs],
        [ConfigTensor(output.name, _config_type(output.datatype), output.shape[batched:]) for output in outputs],
        _instances(monitor, info.name),
        {"latest": {"num_versions": 1}},
        {},
    )


def model_ready(monitor: SystemMonitor, model: str) -> bool:
    snapshot = monitor.snapshots.get(model)
    return monitor.fresh and snapshot is not None and bool(snapshot.ready_workers)


def index(monitor: SystemMonitor, principal: Principal | None, *, only_ready: bool) -> list[IndexEntry]:
    """List the models that the principal may use."""
    models = [model for model in monitor.model_names if principal is None or principal.may_use(model)]
    entries = [_index_entry(monitor, model) for model in models]
    return [entry for entry in entries if entry.state == "READY" or not only_ready]


def _index_entry(monitor: SystemMonitor, model: str) -> IndexEntry:
    if model_ready(monitor, model):
        return IndexEntry(model, VERSION, "READY", "")
    return IndexEntry(model, VERSION, "UNAVAILABLE", "no worker is ready")


def _instances(monitor: SystemMonitor, model: str) -> list[InstanceGroup]:
    snapshot = monitor.snapshots.get(model)
    devices = [snapshot.workers[name].get("device", "") for name in snapshot.ready_workers] if snapshot else []
    gpus = sum(device.startswith("cuda") for device in devices)
    groups = [InstanceGroup(gpus, "KIND_GPU"), InstanceGroup(len(devices) - gpus, "KIND_CPU")]
    return [group for group in groups if group.count]


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
