"""Describes a model's inputs and outputs as the protocol does: named tensors with a datatype and a shape.

An input may have several forms: a tensor of numbers, encoded images, texts, any bytes. If the model has one input, each
form has a name of its own, and a request contains one of them. If it has several, an input's forms share its name.
"""

from __future__ import annotations

import msgspec

from smartbatch.gateway.oip.datatypes import BYTES, DATATYPES
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Kind

_IN_ORDER: tuple[Kind, ...] = ("tensor", "image", "text", "raw")


class TensorSignature(msgspec.Struct, frozen=True):
    """One form of a model's input. `shape` includes the number of rows; -1: any length."""

    name: str
    kind: Kind
    datatype: str
    shape: tuple[int, ...]


class Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs(info: ModelInfo) -> list[list[TensorSignature]]:
    """Return the forms of each input."""
    return [forms(info.of_input(spec)) for spec in info.inputs] or [forms(info)]


def forms(info: ModelInfo) -> list[TensorSignature]:
    """Return the forms of the model's one input, the tensor first, for which tools generate data."""
    spec, named = info.input, bool(info.inputs)
    return [_form(kind, spec, named) for kind in _IN_ORDER if kind in spec.kinds]


def _form(kind: Kind, spec: InputSpec, named: bool) -> TensorSignature:
    name = spec.name if named or kind == "tensor" or len(spec.kinds) == 1 else kind
    if kind == "tensor":
        row = (-1,) if spec.shape is None else spec.shape
        return TensorSignature(name, kind, DATATYPES[spec.dtype or "float32"], (-1, *row))
    return TensorSignature(name, kind, BYTES, (1,) if kind == "raw" else (-1, 1))


def batched(info: ModelInfo) -> bool:
    """Return whether a request may have several rows. Raw bytes are always one row."""
    return all(spec.kinds != ("raw",) for spec in info.inputs or (info.input,))


def outputs(info: ModelInfo) -> list[Output]:
    """Return the announced outputs. A user's model may announce none."""
    rows = -1 if batched(info) else 1
    return [Output(spec.name, DATATYPES[spec.dtype], (rows, *spec.shape)) for spec in info.outputs]


def signature_of(name: str, datatype: str, info: ModelInfo) -> TensorSignature:
    """Return the form of the input with this name and datatype. Raises InvalidInput if there is none."""
    named = [form for form in forms(info) if form.name == name]
    for form in named:
        if (datatype == BYTES) == (form.datatype == BYTES):
            return form
    if named:
        raise InvalidInput(f"input {name!r} takes {' or '.join(form.datatype for form in named)}, got {datatype!r:.40}")
    known = " or ".join(f"{form.name!r} ({form.datatype})" for form in forms(info))
    raise InvalidInput(f"unknown input {name!r:.60}; the model takes {known}")
