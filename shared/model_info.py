"""What a model takes and gives, as workers announce it and gateways check requests against it."""

from __future__ import annotations

import msgspec

from smartbatch.shared.wire import Kind


class InputSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one request may hold. `shape` and `dtype` are of one row given as a tensor; -1 means any length.

    A model that takes tensors of any shape or type leaves them None.
    """

    kinds: tuple[Kind, ...]
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    name: str = "input"


class OutputSpec(msgspec.Struct, frozen=True):
    """One output tensor; `shape` is of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The announcement of one model (JSON in the hash smartbatch:models)."""

    name: str
    path: str
    input: InputSpec
    max_batch_size: int
    outputs: tuple[OutputSpec, ...] = ()
    classifier: bool = False
    platform: str = "pytorch"


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(ModelInfo).decode
