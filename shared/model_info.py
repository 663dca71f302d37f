"""Inputs and outputs of a model: announced by workers, used by gateways to validate requests."""

from __future__ import annotations

import msgspec

from smartbatch.shared.wire import Kind


class InputSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model accepts. `shape` and `dtype` describe one row as a tensor; -1 means any length.

    They are None for a model that accepts tensors of any shape or dtype.
    """

    kinds: tuple[Kind, ...]
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    name: str = "input"


class OutputSpec(msgspec.Struct, frozen=True):
    """One output tensor; `shape` is that of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Announcement of one model: JSON in the hash smartbatch:models."""

    name: str
    path: str
    input: InputSpec
    max_batch_size: int
    outputs: tuple[OutputSpec, ...] = ()
    classifier: bool = False
    platform: str = "pytorch"
    fingerprint: str = ""  # equal for workers that give the same answers: a hash of code, weights, input and outputs


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(ModelInfo).decode
