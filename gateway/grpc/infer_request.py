"""Turns a ModelInferRequest into a payload and options."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from smartbatch.gateway.formats.named_inputs import inputs_payload
from smartbatch.gateway.formats.tensor_bytes import to_bytes
from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.oip import inputs
from smartbatch.gateway.oip.datatypes import BYTES, split_elements
from smartbatch.gateway.oip.infer_options import (
    InferOptions,
    OutputOptions,
    check,
    classes_of,
    refuse_unsupported,
    timeout_s,
)
from smartbatch.shared.errors import InvalidInput, MalformedBody
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload

_REGION = "shared_memory_region"


class _Typed(NamedTuple):
    """Which list of InferTensorContents holds a datatype, and the range of it where the list is wider."""

    field: str
    least: int = 0
    most: int = 0


_CONTENTS = {
    "BOOL": _Typed("bool_contents"),
    "INT8": _Typed("int_contents", -(2**7), 2**7 - 1),
    "INT16": _Typed("int_contents", -(2**15), 2**15 - 1),
    "INT32": _Typed("int_contents"),
    "INT64": _Typed("int64_contents"),
    "UINT8": _Typed("uint_contents", 0, 2**8 - 1),
    "UINT16": _Typed("uint_contents", 0, 2**16 - 1),
    "UINT32": _Typed("uint_contents"),
    "UINT64": _Typed("uint64_contents"),
    "FP32": _Typed("fp32_contents"),
    "FP64": _Typed("fp64_contents"),
}


def parse_message(content: bytes) -> pb.ModelInferRequest:
    try:
        return pb.ModelInferRequest.FromString(content)
    except DecodeError as error:
        raise MalformedBody(f"not a ModelInferRequest: {error}") from None


def read(request: pb.ModelInferRequest, info: ModelInfo | None, max_rows: int) -> tuple[Payload, InferOptions]:
    """Raises MalformedBody, InvalidInput or TooManyRows, saying what was expected and what came."""
    names, raw = [tensor.name for tensor in request.inputs], request.raw_input_contents
    if raw and len(raw) != len(names):
        raise MalformedBody(f"raw_input_contents must have one tensor per input, got {len(raw)} for {len(names)}")
    tensors = zip(request.inputs, raw or [None] * len(names), strict=True)
    if info is not None and info.inputs:
        given = inputs.by_name(names, tensors)
        options = _options(request)
        payload = inputs_payload(given, info, lambda tensor, one: _payload(*tensor, one, max_rows))
    else:
        inputs.only(names)
        options = _options(request)
        payload = _payload(*next(tensors), info, max_rows)
    check(options, payload, info)
    return payload, options


def _payload(
    tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, info: ModelInfo | None, max_rows: int
) -> Payload:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if raw is not None and tensor.HasField("contents"):
        raise MalformedBody(f"input {name!r:.60} has both contents and raw_input_contents")
    if datatype == BYTES:
        count = inputs.check_elements(name, shape, info, max_rows)
        elements = split_elements(raw, count) if raw is not None else list(tensor.contents.bytes_contents)
        if len(elements) != count:
            raise InvalidInput(f"the shape needs {count} elements, but bytes_contents has {len(elements)}")
        return inputs.elements_payload(name, elements, info, max_rows)
    if raw is not None:
        return inputs.numbers(name, datatype, shape, raw, info, max_rows)
    dtype = inputs.check_tensor(name, datatype, shape, info, max_rows)
    return inputs.numbers(name, datatype, shape, _typed(tensor, dtype), info, max_rows)


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, dtype: str) -> bytes:
    typed = _CONTENTS.get(tensor.datatype)
    if typed is None:
        raise InvalidInput(f"{tensor.datatype} has no field in contents; use raw_input_contents")
    values = getattr(tensor.contents, typed.field)
    if typed.most and values and not (typed.least <= min(values) and max(values) <= typed.most):
        raise InvalidInput(f"{tensor.datatype} values must be from {typed.least} to {typed.most}")
    return array("f", values).tobytes() if dtype == "float32" else to_bytes(list(values), dtype)


def _options(request: pb.ModelInferRequest) -> InferOptions:
    parameters = _values(request.parameters)
    tensors = [*request.inputs, *request.outputs]
    refuse_unsupported(parameters.get("sequence_id", 0), [_REGION in tensor.parameters for tensor in tensors])
    outputs = []
    for output in request.outputs:
        classes = _whole(_values(output.parameters), "classification")
        outputs.append(OutputOptions(output.name, classes=classes_of(classes)))
    return InferOptions(request.id, outputs, timeout_s=timeout_s(_whole(parameters, "timeout")))


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    chosen = {name: (value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}
    return {name: getattr(value, kind) for name, (value, kind) in chosen.items() if kind}


def _whole(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int:
        raise InvalidInput(f"{name}: expected a whole number, got {value!r:.60}")
    return value
