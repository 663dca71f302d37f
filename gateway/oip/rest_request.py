"""The body of an infer request: JSON, followed by the bytes of tensors that aren't in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from smartbatch.gateway.formats.image_body import is_image
from smartbatch.gateway.formats.json_body import Fields, Shape, decode, inspect, payload_of
from smartbatch.gateway.formats.named_inputs import inputs_payload
from smartbatch.gateway.oip import inputs, signature
from smartbatch.gateway.oip.bytes_tensor import read_elements
from smartbatch.gateway.oip.datatypes import BYTES, dtype_of, split_elements
from smartbatch.gateway.oip.infer_options import (
    MAX_TOP_K,
    InferOptions,
    OutputOptions,
    check,
    refuse_unsupported,
    timeout_s,
)
from smartbatch.shared.errors import InvalidInput, MalformedBody, Unavailable
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import DTYPE_BYTES, Payload

_KNOWN = "id, parameters, inputs, outputs"
Count = Annotated[int, Meta(ge=0)]


class InputParameters(msgspec.Struct):
    """`binary_data_size`: so many bytes behind the JSON are the tensor. `content_type`: `base64` if the texts of a
    tensor of BYTES are to be decoded so."""

    binary_data_size: Count | None = None
    content_type: str = ""
    shared_memory_region: str = ""


class InferInput(msgspec.Struct):
    """A tensor. `shape` is with the rows in front; `data` is nested or flat, and absent if the bytes follow."""

    name: str
    shape: Shape
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class OutputParameters(msgspec.Struct):
    """`binary_data`: send the tensor behind the JSON. `classification`: name the likeliest classes instead."""

    binary_data: bool = False
    classification: Annotated[int, Meta(ge=0, le=MAX_TOP_K)] = 0
    shared_memory_region: str = ""


class RequestedOutput(msgspec.Struct):
    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct):
    """`timeout` is in microseconds. `priority` is read and has no effect: there is one queue, first in, first out."""

    binary_data_output: bool = False
    timeout: Count = 0
    priority: Count = 0
    sequence_id: int | str = 0


class InferRequest(msgspec.Struct):
    """What a client sends. Members and parameters that aren't known are ignored, as the protocol has it."""

    inputs: list[InferInput]
    id: str = ""
    parameters: RequestParameters | None = None
    outputs: list[RequestedOutput] | None = None


_DECODER = msgspec.json.Decoder(InferRequest)
_NO_INPUT, _NO_OUTPUT, _NO_REQUEST = InputParameters(), OutputParameters(), RequestParameters()


def read(body: bytes, header_length: int | None, info: ModelInfo | None, max_rows: int) -> tuple[Payload, InferOptions]:
    """Read a body whose first `header_length` bytes are JSON; all of it if that is None; none of it if that is 0.

    Raises MalformedBody, InvalidInput or TooManyRows, saying what was expected and what came.
    """
    if header_length == 0:
        return _raw(body, info, max_rows)
    if header_length is None:
        header_length = len(body)
    if header_length > len(body):
        raise MalformedBody(f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes")
    view = memoryview(body)
    request: InferRequest = decode(_DECODER, view[:header_length], known=_KNOWN)
    names, behind = [each.name for each in request.inputs], view[header_length:]
    if info is not None and info.inputs:
        tensors = inputs.by_name(names, zip(request.inputs, _split_behind(request.inputs, behind), strict=True))
        options = _options(request)
        payload = inputs_payload(tensors, info, lambda given, one: _payload(*given, one, max_rows))
    else:
        inputs.only(names)
        (tensor,) = request.inputs
        options = _options(request)
        payload = _payload(tensor, _behind(tensor, behind), info, max_rows)
    check(options, payload, info)
    return payload, options


def _payload(tensor: InferInput, binary: memoryview | None, info: ModelInfo | None, max_rows: int) -> Payload:
    name, datatype, shape = tensor.name, tensor.datatype, tensor.shape
    if datatype == BYTES:
        count = inputs.check_elements(name, shape, info, max_rows)
        if binary is not None:
            elements = split_elements(binary, count)
        else:
            content_type = (tensor.parameters or _NO_INPUT).content_type
            elements = read_elements(tensor.data, count, base64=content_type == "base64")
        return inputs.elements_payload(name, elements, info, max_rows)
    if binary is not None:
        return inputs.numbers(name, datatype, shape, binary, info, max_rows)
    dtype = inputs.check_tensor(name, datatype, shape, info, max_rows)
    depth, leaf = inspect(memoryview(tensor.data))
    if leaf == "text" or depth == 0:
        raise InvalidInput(f"data of input {name!r:.60} must be a list of {datatype} numbers")
    return payload_of(Fields(tensor.data, shape, dtype), msgspec.json.Decoder, inspect, info, max_rows)


def _split_behind(tensors: Iterable[InferInput], behind: memoryview) -> list[memoryview | None]:
    """Split the bytes behind the JSON into those of each tensor, which follow in order."""
    parts = []
    for tensor in tensors:
        size = (tensor.parameters or _NO_INPUT).binary_data_size or 0
        parts.append(_behind(tensor, behind[:size]))
        behind = behind[size:]
    if len(behind):
        raise MalformedBody(f"{len(behind)} bytes follow those of the last input")
    return parts


def _behind(tensor: InferInput, behind: memoryview) -> memoryview | None:
    """Return the tensor's bytes behind the JSON, or None if its data are in it."""
    size = (tensor.parameters or _NO_INPUT).binary_data_size
    in_json = len(memoryview(tensor.data)) > 0
    if size is None:
        if not in_json:
            raise InvalidInput(f"input {tensor.name!r:.60} has neither data nor binary_data_size")
        if len(behind):
            raise MalformedBody(f"{len(behind)} bytes follow the JSON, but no input has a binary_data_size")
        return None
    if in_json:
        raise InvalidInput(f"input {tensor.name!r:.60} has both data and binary_data_size")
    if size != len(behind):
        raise MalformedBody(
            f"input {tensor.name!r:.60} has a binary_data_size of {size}, but {len(behind)} bytes follow the JSON "
            "(whose length is in the header Inference-Header-Content-Length)"
        )
    return behind


def _options(request: InferRequest) -> InferOptions:
    parameters = request.parameters or _NO_REQUEST
    outputs = [(each.name, each.parameters or _NO_OUTPUT) for each in request.outputs or ()]
    regions = [(each.parameters or _NO_INPUT).shared_memory_region for each in request.inputs]
    refuse_unsupported(parameters.sequence_id, [*regions, *(started.shared_memory_region for _, started in outputs)])
    return InferOptions(
        request.id,
        [OutputOptions(name, started.binary_data, started.classification) for name, started in outputs],
        parameters.binary_data_output,
        timeout_s(parameters.timeout),
    )


def _raw(body: bytes, info: ModelInfo | None, max_rows: int) -> tuple[Payload, InferOptions]:
    """No JSON at all: the body is the one input, all outputs come as bytes."""
    if info is None:
        raise Unavailable("no worker has announced the model's inputs yet, so a body of raw bytes can't be interpreted")
    if not body:
        raise MalformedBody("the body is empty")
    if info.inputs:
        raise InvalidInput("the model takes several inputs, so a body of raw bytes can't be interpreted")
    forms = {form.kind: form for form in signature.forms(info)}
    bytes_form = forms.get("image") if is_image(body) else None
    bytes_form = bytes_form or (None if "tensor" in forms else next(iter(forms.values())))
    if bytes_form is not None:  # one element, without its length
        payload = inputs.elements_payload(bytes_form.name, [body], info, max_rows)
    else:
        form = forms["tensor"]
        shape = inputs.deduced_shape(form, DTYPE_BYTES[dtype_of(form.datatype)], len(body))
        payload = inputs.numbers(form.name, form.datatype, shape, body, info, max_rows)
    return payload, InferOptions(binary=True)
