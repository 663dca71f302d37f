"""Turns a tensor of the protocol into a payload for the worker, checked against the model's input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from smartbatch.gateway.formats.image_body import images_payload, is_image
from smartbatch.gateway.formats.row_shapes import check_rows, tensor_payload
from smartbatch.gateway.oip.datatypes import BYTES, Buffer, dtype_of
from smartbatch.gateway.oip.signature import TensorSignature, signature_of
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import MAX_DIMENSIONS, Payload, Raw, Tensor

_OCTETS = "application/octet-stream"

Shape = tuple[int, ...]
T = TypeVar("T")


def only(names: Sequence[str]) -> None:
    """Check that a request holds exactly one input."""
    if len(names) != 1:
        came = ", ".join(names) or "none"
        raise InvalidInput(f"a request must have one input, got {len(names)} ({came:.200})")


def by_name(names: Sequence[str], tensors: Iterable[T]) -> dict[str, T]:
    """Return several inputs by name, each of which a request must hold once."""
    found = dict(zip(names, tensors, strict=True))
    if len(found) != len(names):
        raise InvalidInput(f"an input is there twice: {', '.join(names):.200}")
    return found


def check_tensor(name: str, datatype: str, shape: Shape, info: ModelInfo | None, max_rows: int) -> str:
    """Check the metadata of a numeric tensor before its data is read. Returns its dtype."""
    dtype = dtype_of(datatype)
    _check_dimensions(name, shape)
    if info is not None:
        form = signature_of(name, datatype, info)
        if info.input.shape is not None:
            _check_shape(form, shape)
            check_rows(shape[0], max_rows)
    return dtype


def numbers(name: str, datatype: str, shape: Shape, data: Buffer, info: ModelInfo | None, max_rows: int) -> Payload:
    """Return the payload of numbers given as bytes."""
    dtype = check_tensor(name, datatype, shape, info, max_rows)
    return tensor_payload(Tensor(dtype, shape, data), info, max_rows)


def check_elements(name: str, shape: Shape, info: ModelInfo | None, max_rows: int) -> int:
    """Check the metadata of a BYTES tensor. Returns its number of elements."""
    _check_dimensions(name, shape)
    rows = shape[0]
    if len(shape) > 2 or math.prod(shape[1:]) != 1:
        raise InvalidInput(
            f"input {name!r:.60} is BYTES, one element per row: expected shape [rows] or [rows, 1], got {list(shape)}"
        )
    kind = signature_of(name, BYTES, info).kind if info is not None else None
    check_rows(rows, max_rows)
    if kind == "raw" and rows != 1:
        raise InvalidInput(f"input {name!r:.60} takes any bytes as one row: expected one element, got {rows}")
    return rows


def elements_payload(name: str, elements: list[bytes], info: ModelInfo | None, max_rows: int) -> Payload:
    """Return the payload of BYTES: encoded images, texts, or one body of any type."""
    kind = signature_of(name, BYTES, info).kind if info is not None else _guess(elements)
    if kind == "image":
        return images_payload(elements, max_rows)
    if kind == "raw":
        return Payload("raw", Raw(elements[0], _OCTETS))
    return Payload("text", [_text(row, element) for row, element in enumerate(elements)])


def _guess(elements: list[bytes]) -> str:
    """Guess the kind, before a worker has announced the model."""
    if all(map(is_image, elements)):
        return "image"
    try:
        b"\n".join(elements).decode()
    except UnicodeDecodeError:
        return "raw" if len(elements) == 1 else "text"
    return "text"


def _text(row: int, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"element {row} is not UTF-8: {error.reason} at byte {error.start}") from None


def _check_dimensions(name: str, shape: Shape) -> None:
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise InvalidInput(f"input {name!r:.60} must have 1 to {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if min(shape) < 0:
        raise InvalidInput(f"input {name!r:.60} has shape {list(shape)}; -1 is only valid in metadata")


def _check_shape(form: TensorSignature, shape: Shape) -> None:
    fits = len(shape) == len(form.shape) and all(
        want in (-1, came) for came, want in zip(shape, form.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(f"input {form.name!r} takes shape {list(form.shape)} (-1: any length), got {list(shape)}")


def deduced_shape(form: TensorSignature, dtype_bytes: int, size: int) -> Shape:
    """Compute the rows of a tensor from its size in bytes. Raises InvalidInput if that is ambiguous."""
    row = form.shape[1:]
    row_bytes = math.prod(row) * dtype_bytes
    if -1 in row or not row_bytes:
        raise InvalidInput(f"input {form.name!r} has shape {list(form.shape)}, which the byte count doesn't determine")
    if not size or size % row_bytes:
        raise InvalidInput(
            f"input {form.name!r} takes {row_bytes} bytes per row ({form.datatype} {list(row)}), got {size}"
        )
    return (size // row_bytes, *row)
