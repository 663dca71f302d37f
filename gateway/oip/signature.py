"""Describes a model's inputs and outputs as the protocol does: named tensors with a datatype and a shape.

A model here takes one input, but perhaps in several forms: a tensor of numbers, encoded images, texts, any bytes. Each
form is an input of its own name, of which a request holds one.
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


def forms(info: ModelInfo) -> list[TensorSignature]:
    """List the forms, the tensor first: tools generate data for that one."""
    spec = info.input
    return [_form(kind, spec) for kind in _IN_ORDER if kind in spec.kinds]


def _form(kind: Kind, spec: InputSpec) -> TensorSignature:
    name = spec.name if kind == "tensor" or len(spec.kinds) == 1 else kind
    if kind == "tensor":
        row = (-1,) if spec.shape is None else spec.shape
        return TensorSignature(name, kind, DATATYPES[spec.dtype or "float32"], (-1, *row))
    return TensorSignature(name, kind, BYTES, (1,) if kind == "raw" else (-1, 1))


def batched(info: ModelInfo) -> bool:
    """Return whether a request may have several rows. Raw bytes are always one row."""
    return info.input.kinds != ("raw",)


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
