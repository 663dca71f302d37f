"""The body of an infer response: JSON, followed by the bytes of outputs that were requested as binary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from smartbatch.gateway.formats.render import finite
from smartbatch.gateway.formats.tensor_bytes import to_lists
from smartbatch.gateway.oip import VERSION
from smartbatch.gateway.oip.datatypes import Buffer, join_elements
from smartbatch.gateway.oip.outputs import OutputTensor, flat
from smartbatch.shared.errors import NotAcceptable
from smartbatch.shared.wire import Tensor

_encode = msgspec.json.Encoder().encode


class BinarySize(msgspec.Struct):
    binary_data_size: int


class InferOutput(msgspec.Struct):
    """A tensor. `data` is flat, in C order; "NaN", "Infinity" and "-Infinity" are text. Absent if the bytes follow."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinarySize | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferResponse(msgspec.Struct):
    """`id` is the client's own."""

    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str | UnsetType = UNSET


def write(model: str, request_id: str, outputs: Sequence[OutputTensor]) -> tuple[int | None, bytes]:
    """Return the length of the JSON, or None if the content is JSON only, and the content.

    Raises NotAcceptable for an output of BYTES that isn't text and was requested as JSON.
    """
    behind: list[Buffer] = []
    described = [_describe(output, behind) for output in outputs]
    response = InferResponse(model, VERSION, described, request_id or UNSET)
    text = _encode(response)
    if b"null" in text:  # which msgspec writes for numbers that JSON can't express
        for output in described:
            output.data = finite(output.data)
        text = _encode(response)
    if not behind:
        return None, text
    return len(text), b"".join([text, *behind])


def _describe(output: OutputTensor, behind: list[Buffer]) -> InferOutput:
    described = InferOutput(output.name, output.datatype, output.shape)
    data = output.data
    if output.binary:
        content = data.data if isinstance(data, Tensor) else join_elements(data)
        described.parameters = BinarySize(len(content))
        behind.append(content)
    elif isinstance(data, Tensor):
        described.data = to_lists(flat(data))
    else:
        described.data = [_text(output.name, element) for element in data]
    return described


def _text(name: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise NotAcceptable(f"output {name!r:.60} is not UTF-8, so it can't be JSON; request binary_data") from None
