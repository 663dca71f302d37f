"""Converts a reply to tensors of the protocol."""

from __future__ import annotations

import msgspec

from smartbatch.gateway.formats.render import finite
from smartbatch.gateway.formats.tensor_bytes import in_c_order
from smartbatch.gateway.oip.datatypes import BYTES, DATATYPES
from smartbatch.gateway.oip.infer_options import InferOptions, OutputOptions
from smartbatch.shared.errors import InvalidInput, WireError
from smartbatch.shared.wire import Reply, Result, Tensor

Data = Tensor | list[bytes]  # numbers, or elements of BYTES

_encode_json = msgspec.json.Encoder().encode


class OutputTensor(msgspec.Struct):
    """One output tensor. `binary`: REST only."""

    name: str
    shape: tuple[int, ...]
    data: Data
    binary: bool

    @property
    def datatype(self) -> str:
        return DATATYPES[self.data.dtype] if isinstance(self.data, Tensor) else BYTES


def output_tensors(reply: Reply, options: InferOptions) -> list[OutputTensor]:
    """Return the requested outputs, in that order. Raises InvalidInput for one that the model didn't return."""
    if reply.result is None:
        raise WireError("the reply has no result")
    found = _tensors(reply.result, options)
    chosen = options.outputs or [OutputOptions(name, options.binary) for name in found]
    missing = [output.name for output in chosen if output.name not in found]
    if missing:
        raise InvalidInput(f"the model returned no output {missing[0]!r:.60}, only {', '.join(found):.200}")
    return [OutputTensor(output.name, *found[output.name], output.binary) for output in chosen]


def _tensors(result: Result, options: InferOptions) -> dict[str, tuple[tuple[int, ...], Data]]:
    if result.outputs is not None:
        return {name: (tensor.shape, in_c_order(tensor)) for name, tensor in result.outputs.items()}
    if result.classes is not None:  # requested by name
        name = next((output.name for output in options.outputs), "output")
        width = max(map(len, result.classes), default=0)
        texts = [_class(*class_score) for row in result.classes for class_score in row]
        return {name: ((len(result.classes), width), texts)}
    values = result.values or []
    return {"output": ((len(values),), [_value(value) for value in values])}


def _class(index: int, label: str, probability: float) -> bytes:
    """Format a class as Triton does: value, index, label."""
    return f"{probability:f}:{index}:{label}".encode()


def _value(value: object) -> bytes:
    """Encode a string as UTF-8, and any other value of a user's model as JSON."""
    return value.encode() if isinstance(value, str) else _encode_json(finite(value))
