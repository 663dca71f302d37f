"""Models with several inputs: payloads that hold each by name, and rows that are dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from smartbatch.shared.errors import InvalidInput, ModelLoadError
from smartbatch.shared.model_info import InputSpec, check_names
from smartbatch.shared.wire import MAX_INPUTS, InputName, Payload

Row = dict[str, Any]


def specs_of(inputs: Mapping[str, InputSpec], path: str) -> tuple[InputSpec, ...]:
    """Return the specs under their names, in order. Raises ModelLoadError for what can't be one of several inputs."""
    try:
        names = msgspec.convert(list(inputs), list[InputName])
    except msgspec.ValidationError as error:
        raise ModelLoadError(f"{path}: an input's name must be letters, digits and _ ({error})") from None
    if not 1 <= len(names) <= MAX_INPUTS:
        raise ModelLoadError(f"{path}: a model has 1 to {MAX_INPUTS} inputs, got {len(names)}")
    for name, spec in inputs.items():
        if not isinstance(spec, InputSpec) or "inputs" in spec.kinds:
            raise ModelLoadError(
                f"{path}: input {name!r} must be an InputSpec of tensor, text, image or raw, got {spec}"
            )
    return tuple(msgspec.structs.replace(spec, name=name) for name, spec in inputs.items())


def content_of(payload: Payload, inputs: Sequence[InputSpec]) -> dict[str, Payload]:
    """Return the payload of each input, in the model's order. Raises InvalidInput if they aren't the model's."""
    if not isinstance(payload.content, dict):
        raise InvalidInput(f"expected the inputs {', '.join(spec.name for spec in inputs)} by name, got {payload.kind}")
    check_names(payload.content, inputs)
    for spec in inputs:
        if (kind := payload.content[spec.name].kind) not in spec.kinds:
            raise InvalidInput(f"input {spec.name!r}: expected {' or '.join(spec.kinds)}, got {kind}")
    return {spec.name: payload.content[spec.name] for spec in inputs}


def join(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """Return a row of all inputs for each row of one."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
