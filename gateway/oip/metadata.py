"""Metadata of the server and its models: inputs and outputs, configuration, readiness, the index of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import signature
from smartbatch.gateway.oip.datatypes import BYTES
from smartbatch.shared import __version__
from smartbatch.shared.errors import Forbidden, Unavailable
from smartbatch.shared.keys import model_id, split_model_id
from smartbatch.shared.model_info import ModelInfo

SERVER_NAME = "smartbatch"
_LOADING = {"starting", "loading", "warming"}  # states of workers
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)


class Liveness(msgspec.Struct):
    """The body of both health endpoints. Clients rely on the status; implementations disagree about the field."""

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
    """`shape` includes the number of rows; -1: any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct):
    """`versions`: all that are known. `inputs`: one form of each input, since tools send all of them.
    `alternative_inputs`: further forms. `outputs` is empty if a user's model doesn't declare them."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    alternative_inputs: list[TensorMetadata]


class ConfigTensor(msgspec.Struct):
    """`dims` excludes the number of rows unless `max_batch_size` is 0."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class InstanceGroup(msgspec.Struct):
    """The model's ready workers."""

    count: int
    kind: Literal["KIND_CPU", "KIND_GPU"]
    name: str = "workers"


class ModelConfig(msgspec.Struct):
    """Triton's model configuration, as far as it applies. `version_policy` lists the known versions. `dynamic_batching`
    is always present."""

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
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


def server_metadata(*, with_statistics: bool) -> ServerMetadata:
    extensions = tuple(name for name in EXTENSIONS if with_statistics or name != "statistics")
    return ServerMetadata(SERVER_NAME, __version__, extensions)


def info_of(monitor: SystemMonitor, model: str) -> ModelInfo:
    """Return what one version's workers announced, by its ID. Raises Unavailable before the first of them is up."""
    info = monitor.models.get(model)
    if info is None:
        raise Unavailable(f"no worker of model {model!r} has announced its inputs yet")
    return info


def check_access(principal: Principal | None, model: str) -> None:
    """Raise Forbidden if the principal may not use the model. It is None if no API keys are configured."""
    if principal is not None and not principal.may_use(model):
        raise Forbidden("this API key may not use this model")


def model_metadata(monitor: SystemMonitor, info: ModelInfo) -> ModelMetadata:
    versions = [str(version) for version in monitor.versions(info.name)]
    each = [
        [TensorMetadata(form.name, form.datatype, form.shape) for form in forms] for forms in signature.inputs(info)
    ]
    others = [form for forms in each for form in forms[1:]]
    outputs = [TensorMetadata(output.name, output.datatype, output.shape) for output in signature.outputs(info)]
    return ModelMetadata(info.name, versions, info.platform, [forms[0] for forms in each], outputs, others)


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
        _instances(monitor, info.id),
        {"specific": {"versions": monitor.versions(info.name)}},
        {},
    )


def model_ready(monitor: SystemMonitor, models: Iterable[str]) -> bool:
    """Return whether any of these IDs has a ready worker."""
    workers = monitor.ready_workers
    return monitor.fresh and any(workers.get(model) for model in models)


def index(
    monitor: SystemMonitor, principal: Principal | None, not_loaded: Mapping[str, str], *, only_ready: bool
) -> list[IndexEntry]:
    """List the versions of the models that the principal may use. `not_loaded`: by model ID, why there is no worker."""
    versions = sorted(map(split_model_id, {*monitor.model_names, *not_loaded}))
    allowed = [each for each in versions if principal is None or principal.may_use(each[0])]
    entries = [_index_entry(monitor, name, version, not_loaded) for name, version in allowed]
    return [entry for entry in entries if entry.state == "READY" or not only_ready]


def _index_entry(monitor: SystemMonitor, name: str, version: int, not_loaded: Mapping[str, str]) -> IndexEntry:
    model = model_id(name, version)
    if model_ready(monitor, [model]):
        return IndexEntry(name, str(version), "READY", "")
    snapshot = monitor.snapshots.get(model) if monitor.fresh else None
    states = {report.get("state") for report in snapshot.workers.values()} if snapshot else set()
    if states & _LOADING:
        return IndexEntry(name, str(version), "LOADING", "its worker is loading")
    if "draining" in states:
        return IndexEntry(name, str(version), "UNLOADING", "its worker is draining")
    return IndexEntry(name, str(version), "UNAVAILABLE", not_loaded.get(model, "it has no worker"))


def _instances(monitor: SystemMonitor, model: str) -> list[InstanceGroup]:
    snapshot = monitor.snapshots.get(model)
    devices = [snapshot.workers[name].get("device", "") for name in snapshot.ready_workers] if snapshot else []
    gpus = sum(device.startswith("cuda") for device in devices)
    groups = [InstanceGroup(gpus, "KIND_GPU"), InstanceGroup(len(devices) - gpus, "KIND_CPU")]
    return [group for group in groups if group.count]


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
