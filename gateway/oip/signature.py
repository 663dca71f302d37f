"""A model's inputs and outputs in the protocol's terms: named tensors with a datatype and a shape.

An input may have several forms: a tensor of numbers, encoded images, texts, any bytes. Each form of a model's one input
has a name of its own, and a request holds one of them. The forms of one of several inputs share its name.
"""

from __future__ import annotations

import msgspec

from smartbatch.gateway.oip.datatypes import BYTES, DATATYPES
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Kind

_IN_ORDER: tuple[Kind, ...] = ("tensor", "image", "text", "raw")


class TensorSignature(msgspec.Struct, frozen=True):
    """One form of a model's input. `shape` is with the rows in front; -1: any length."""

    name: str
    kind: Kind
    datatype: str
    shape: tuple[int, ...]


class Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs(info: ModelInfo) -> list[list[TensorSignature]]:
    """List the forms of each input."""
    return [forms(info.of_input(spec)) for spec in info.inputs] or [forms(info)]


def forms(info: ModelInfo) -> list[TensorSignature]:
    """List the forms of one input, the tensor first: tools generate data for that one."""
    spec, named = info.input, bool(info.inputs)
    return [_form(kind, spec, named) for kind in _IN_ORDER if kind in spec.kinds]


def _form(kind: Kind, spec: InputSpec, named: bool) -> TensorSignature:
    name = spec.name if named or kind == "tensor" or len(spec.kinds) == 1 else kind
    if kind == "tensor":
        row = (-1,) if spec.shape is None else spec.shape
        return TensorSignature(name, kind, DATATYPES[spec.dtype or "float32"], (-1, *row))
    return TensorSignature(name, kind, BYTES, (1,) if kind == "raw" else (-1, 1))


def batched(info: ModelInfo) -> bool:
    """Return whether a request may have several rows. A raw body is one row."""
    return all(spec.kinds != ("raw",) for spec in info.inputs or (info.input,))


def outputs(info: ModelInfo) -> list[Output]:
    """List the announced outputs. A user's model may announce none."""
    rows = -1 if batched(info) else 1
    return [Output(spec.name, DATATYPES[spec.dtype], (rows, *spec.shape)) for spec in info.outputs]


def signature_of(name: str, datatype: str, info: ModelInfo) -> TensorSignature:
    """Return the form that a tensor of this name and datatype is. Raises InvalidInput."""
    named = [form for form in forms(info) if form.name == name]
    for form in named:
        if (datatype == BYTES) == (form.datatype == BYTES):
            return form
    if named:
        raise InvalidInput(f"input {name!r} takes {' or '.join(form.datatype for form in named)}, got {datatype!r:.40}")
    known = " or ".join(f"{form.name!r} ({form.datatype})" for form in forms(info))
    raise InvalidInput(f"unknown input {name!r:.60}; the model takes {known}")
