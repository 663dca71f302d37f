"""Options of an infer request: its id, the requested outputs, and its timeout."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from smartbatch.gateway.inference.predict import MAX_TOP_K
from smartbatch.gateway.oip import signature
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload


class OutputOptions(msgspec.Struct, frozen=True):
    """`classes`: return this number of class scores, as text, instead of the tensor. `binary`: REST only."""

    name: str
    binary: bool = False
    classes: int = 0


class InferOptions(msgspec.Struct, frozen=True):
    """Empty `outputs` means all outputs, in binary if `binary`."""

    id: str = ""
    outputs: Sequence[OutputOptions] = ()
    binary: bool = False
    timeout_s: float | None = None

    @property
    def classes(self) -> int:
        return max((output.classes for output in self.outputs), default=0)


def check(options: InferOptions, payload: Payload, info: ModelInfo | None) -> None:
    """Check the options against the model's outputs, and set the payload's number of classes. Raises InvalidInput."""
    names = [output.name for output in options.outputs]
    if len(set(names)) < len(names):
        raise InvalidInput(f"an output is requested twice: {', '.join(names):.200}")
    if info is not None and info.outputs:
        known = [output.name for output in signature.outputs(info)]
        for name in names:
            if name not in known:
                raise InvalidInput(f"unknown output {name!r:.60}; the model has {', '.join(known):.200}")
    if options.classes:
        if info is None or not info.classifier:
            raise InvalidInput("classification is only available for classifiers, and this model is not one")
        payload.options = {"top_k": options.classes}


def class_count(count: int) -> int:
    """Return the number of requested classes. Raises InvalidInput if it is out of range."""
    if not 0 <= count <= MAX_TOP_K:
        raise InvalidInput(f"classification: expected a whole number from 0 to {MAX_TOP_K}, got {count}")
    return count


def timeout_s(microseconds: int) -> float | None:
    """Convert `parameters.timeout` to seconds; 0 means none. Raises InvalidInput."""
    if microseconds < 0:
        raise InvalidInput(f"timeout: expected 0 or more microseconds, got {microseconds}")
    return microseconds / 1e6 or None


def refuse_unsupported(sequence: object, regions: Sequence[object]) -> None:
    """Refuse features that this server lacks: stateful models, and memory shared with clients."""
    if sequence not in (0, ""):
        raise InvalidInput("sequence_id is not supported: models keep no state between requests")
    if any(regions):
        raise InvalidInput("shared_memory_region is not supported; send the data in the request")
