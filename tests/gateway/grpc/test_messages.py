"""The gRPC messages match the .proto file and the messages of Triton's client."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

from smartbatch.gateway.core.problems import STATUS as HTTP_STATUS
from smartbatch.gateway.grpc import inference_pb2, statuses
from smartbatch.shared import errors

MESSAGES = inference_pb2.DESCRIPTOR.message_types_by_name


def test_committed_messages_match_the_proto_file(tmp_path: Path) -> None:
    folder = Path(inference_pb2.__file__).parent
    out = tmp_path / "inference.descriptor"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={out}", "inference.proto"]) == 0
    (made,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert _plain(made) == _plain(descriptor_pb2.FileDescriptorProto.FromString(inference_pb2.DESCRIPTOR.serialized_pb))


def _plain(file: descriptor_pb2.FileDescriptorProto) -> bytes:
    """Remove the JSON names, which follow from the names and which not every compiler writes."""
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return file.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_has_the_number_and_type_of_tritons_client(name: str) -> None:
    theirs = service_pb2.DESCRIPTOR.message_types_by_name.get(name)
    _compare(MESSAGES[name], theirs or model_config_pb2.DESCRIPTOR.message_types_by_name[name])


def _compare(ours, theirs) -> None:
    assert ours.full_name == theirs.full_name
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type) == (other.number, other.type), field.full_name
    for nested in ours.nested_types:
        _compare(nested, theirs.nested_types_by_name[nested.name])
    for kind in ours.enum_types:
        known = theirs.enum_types_by_name[kind.name].values_by_name
        assert {value.name: value.number for value in kind.values} == {n: v.number for n, v in known.items()}


def test_every_error_has_a_grpc_code() -> None:
    assert set(HTTP_STATUS.values()) <= set(statuses.STATUS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.UnknownModel("x"), grpc.StatusCode.NOT_FOUND),
        (errors.Unauthenticated("x"), grpc.StatusCode.UNAUTHENTICATED),
        (errors.Forbidden("x"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.RateLimited("x", 3.2), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.QueueFull("x", 3.2), grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.ModelFailed("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_errors_become_statuses(error: errors.SmartBatchError, code: grpc.StatusCode) -> None:
    made, detail, metadata = statuses.status(error, "r-1")
    assert (made, detail) == (code, "x")
    assert dict(metadata)["error-code"] == error.code
    assert dict(metadata)["x-request-id"] == "r-1"
    assert dict(metadata).get("retry-after") == (
        "4" if isinstance(error, errors.QueueFull | errors.RateLimited) else None
    )


def test_internal_details_are_hidden_from_clients() -> None:
    _, detail, _ = statuses.status(RuntimeError("password=hunter2"), "r-1")
    assert "hunter2" not in detail and "r-1" in detail
