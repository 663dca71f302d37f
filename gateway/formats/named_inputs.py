"""The inputs of a model that takes several, by name. Each is read as the one input of a model that takes no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from smartbatch.gateway.formats import npy_body
from smartbatch.gateway.formats.image_body import images_payload
from smartbatch.gateway.formats.row_shapes import check_rows
from smartbatch.shared.errors import ClientError, InvalidInput, Unavailable
from smartbatch.shared.model_info import ModelInfo, check_names
from smartbatch.shared.wire import Payload, Raw, check_equal_rows

NOT_ANNOUNCED = "no worker has announced the model's inputs yet, so several inputs can't be read"
_OCTETS = "application/octet-stream"

T = TypeVar("T")


def inputs_payload(values: Mapping[str, T], info: ModelInfo | None, read: Callable[[T, ModelInfo], Payload]) -> Payload:
    """Return the payload of all inputs, in the model's order. `read` reads one of them.

    Raises InvalidInput for names that the model lacks or misses and for unequal numbers of rows, what `read` raises,
    with the input's name, and Unavailable if no worker has announced the model.
    """
    if info is None:
        raise Unavailable(NOT_ANNOUNCED)
    if not info.inputs:
        raise InvalidInput(f"the model takes one input ({' or '.join(info.input.kinds)}), not several by name")
    check_names(values, info.inputs)
    inputs = {}
    for spec in info.inputs:
        try:
            inputs[spec.name] = payload = read(values[spec.name], info.of_input(spec))
            if payload.kind not in spec.kinds:
                raise InvalidInput(f"the model takes {' or '.join(spec.kinds)}, got {payload.kind}")
        except ClientError as error:
            if f"input {spec.name!r}" in str(error):
                raise
            raise type(error)(f"input {spec.name!r}: {error}") from None
    check_equal_rows(inputs, InvalidInput)
    return Payload("inputs", inputs)


def file_payload(files: Sequence[bytes], info: ModelInfo, max_rows: int) -> Payload:
    """Read one input that came as files: a .npy, images, UTF-8 texts, or any bytes, as the model takes them."""
    if files and files[0].startswith(npy_body.MAGIC):
        if len(files) > 1:
            raise InvalidInput("a .npy file must be the only file of its input")
        return npy_body.read(files[0], _OCTETS, info, max_rows)
    kinds = info.input.kinds
    if "image" in kinds:
        return images_payload(list(files), max_rows)
    check_rows(len(files), max_rows)
    if "raw" in kinds:
        if len(files) > 1:
            raise InvalidInput(f"any bytes are one row, but {len(files)} files came")
        return Payload("raw", Raw(files[0], _OCTETS))
    if "text" not in kinds:
        raise InvalidInput(
            f"expected a .npy file, which begins with \\x93NUMPY, got {files[0][:6].hex(' ') or 'nothing'}"
        )
    try:
        return Payload("text", [file.decode() for file in files])
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the text is not UTF-8: {error.reason} at byte {error.start}") from None
