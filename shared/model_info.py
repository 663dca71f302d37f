"""Inputs and outputs of a model: announced by workers, used by gateways to validate requests."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.keys import model_id
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
    """Announcement of one version of a model: JSON in the hash smartbatch:models."""

    name: str
    path: str
    input: InputSpec
    max_batch_size: int
    outputs: tuple[OutputSpec, ...] = ()
    classifier: bool = False
    platform: str = "pytorch"
    fingerprint: str = ""  # hash of code, weights, input and outputs; equal for workers that give the same results
    inputs: tuple[InputSpec, ...] = ()  # of a model with several inputs; `input` then has the kind "inputs"
    partitions: tuple[int, ...] = (0,)
    version: int = 1
    start_s: float = 0.0  # from the start of the announcing worker's process until it was ready

    @property
    def id(self) -> str:
        return model_id(self.name, self.version)

    def takes_the_same(self, other: ModelInfo) -> bool:
        """Whether a request that was checked against this model is one for the other model too."""
        same_inputs = (self.input, self.inputs) == (other.input, other.inputs)
        return same_inputs and self.max_batch_size <= other.max_batch_size

    def of_input(self, spec: InputSpec) -> ModelInfo:
        """Return the announcement of a model that has only this input, for validating one input of several."""
        return msgspec.structs.replace(self, input=spec)


def check_names(names: Iterable[str], inputs: Iterable[InputSpec]) -> None:
    """Check that a request names each of the model's inputs and no other. Raises InvalidInput."""
    known, sent = [spec.name for spec in inputs], list(names)
    takes = f"the model takes {', '.join(known)}"
    for name in sent:
        if name not in known:
            raise InvalidInput(f"unknown input {name!r:.60}; {takes}")
    for name in known:
        if name not in sent:
            raise InvalidInput(f"the input {name!r} is missing; {takes}")


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(ModelInfo).decode
