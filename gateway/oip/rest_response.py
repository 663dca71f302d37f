"""Renders the body of an infer response: JSON, followed by the bytes of outputs that were requested as binary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from smartbatch.gateway.formats.render import finite
from smartbatch.gateway.formats.tensor_bytes import to_lists
from smartbatch.gateway.oip.datatypes import Buffer, join_elements
from smartbatch.gateway.oip.outputs import OutputTensor
from smartbatch.shared.errors import NotAcceptable
from smartbatch.shared.wire import Tensor

_encode = msgspec.json.Encoder().encode


class BinarySize(msgspec.Struct):
    binary_data_size: int


class InferOutput(msgspec.Struct):
    """A tensor. `data` is flat, in C order, and absent if the bytes follow the JSON. NaN and infinities are the strings
    "NaN", "Infinity" and "-Infinity"."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinarySize | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferResponse(msgspec.Struct):
    """`id` is the request's, if the client set one."""

    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str | UnsetType = UNSET


def write(model: str, version: int, request_id: str, outputs: Sequence[OutputTensor]) -> tuple[int | None, bytes]:
    """Return the content, and before it the length of its JSON, or None if it is JSON only.

    Raises NotAcceptable for a BYTES output that isn't UTF-8 and was requested as JSON.
    """
    binary: list[Buffer] = []
    described = [_describe(output, binary) for output in outputs]
    response = InferResponse(model, str(version), described, request_id or UNSET)
    text = _encode(response)
    if b"null" in text:  # which msgspec writes for numbers that JSON can't express
        for output in described:
            output.data = finite(output.data)
        text = _encode(response)
    if not binary:
        return None, text
    return len(text), b"".join([text, *binary])


def _describe(output: OutputTensor, binary: list[Buffer]) -> InferOutput:
    described = InferOutput(output.name, output.datatype, output.shape)
    data = output.data
    if output.binary:
        content = data.data if isinstance(data, Tensor) else join_elements(data)
        described.parameters = BinarySize(len(content))
        binary.append(content)
    elif isinstance(data, Tensor):
        described.data = to_lists(Tensor(data.dtype, (math.prod(data.shape),), data.data))
    else:
        described.data = [_text(output.name, element) for element in data]
    return described


def _text(name: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise NotAcceptable(f"output {name!r:.60} is not UTF-8, so it can't be JSON; request binary_data") from None
