"""Checks tensors against a model's input and finds their rows: the same rules for every format.

A row is what the model calls one input. A tensor of one row's shape is one row; one dimension more in front is
that many rows. A flat list is cut into rows where the model's row shape leaves no doubt.
"""

from __future__ import annotations

import math

from smartbatch.shared.errors import InvalidInput, MalformedBody, TooManyRows
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import DTYPE_BYTES, MAX_DIMENSIONS, Payload, Tensor

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_INTS = frozenset(dtype for dtype in DTYPE_BYTES if "int" in dtype)


def tensor_payload(tensor: Tensor, info: ModelInfo | None, max_rows: int, *, flat: bool = False) -> Payload:
    """Check the tensor against the model's input and add the dimension of rows.

    `flat` says that the client gave a plain list and no shape. Raises InvalidInput, TooManyRows, or MalformedBody
    if the bytes aren't what dtype and shape announce.
    """
    spec = info.input if info is not None else None
    check_dtype(tensor.dtype, spec)
    _check_bytes(tensor)
    tensor.shape = with_row_dimension(tensor.shape, spec, flat=flat)
    if 0 in tensor.shape:
        raise InvalidInput(f"the input is empty: its shape is {list(tensor.shape)}")
    check_rows(tensor.shape[0], max_rows)
    return Payload("tensor", tensor)


def check_rows(rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise TooManyRows(f"a request may have at most {max_rows} rows (MAX_REQUEST_ROWS), got {rows}")
    if rows == 0:
        raise InvalidInput("the request has no rows")


def check_dtype(dtype: str, spec: InputSpec | None) -> None:
    if dtype not in DTYPE_BYTES:
        raise InvalidInput(f"unknown dtype {dtype!r:.60}; known are {', '.join(DTYPE_BYTES)}")
    if spec is None or spec.dtype is None or dtype == spec.dtype:
        return
    if spec.dtype in _FLOATS:
        takes = dtype in _FLOATS or (dtype == "uint8" and "image" in spec.kinds)
        also = " of any width, or uint8" if "image" in spec.kinds else " of any width"
        expected = "floats" + also
    elif spec.dtype in _INTS:
        takes, expected = dtype in _INTS, "integers of any width"
    else:
        takes, expected = False, spec.dtype
    if not takes:
        raise InvalidInput(f"the model takes {expected} (its dtype is {spec.dtype}), got {dtype}")


def with_row_dimension(shape: tuple[int, ...], spec: InputSpec | None, *, flat: bool = False) -> tuple[int, ...]:
    """Return the shape with rows as its first dimension."""
    row = spec.shape if spec is not None else None
    if row is None:
        return shape if len(shape) > 1 else (1, *shape)
    if flat:
        return _split_into_rows(shape[0], row)
    if _fits(shape, row):
        return (1, *shape)
    if _fits(shape[1:], row) and shape:
        return shape
    many = ", ".join(["rows", *map(str, row)])
    wild = " (-1: any length)" if -1 in row else ""
    raise InvalidInput(f"the model takes shape {list(row)} or [{many}]{wild}, got {list(shape)}")


def _fits(shape: tuple[int, ...], row: tuple[int, ...]) -> bool:
    return len(shape) == len(row) and all(want in (-1, came) for came, want in zip(shape, row, strict=True))


def _split_into_rows(count: int, row: tuple[int, ...]) -> tuple[int, ...]:
    if row == (-1,):
        return (1, count)
    if -1 in row:
        raise InvalidInput(
            f"a flat list of {count} numbers is ambiguous for rows of shape {list(row)} (-1: any length); "
            "nest the lists or give a shape"
        )
    size = math.prod(row)
    if size == 0 or count == 0 or count % size:
        raise InvalidInput(f"the model takes {size} numbers per row (shape {list(row)}) or a multiple, got {count}")
    return (count // size, *row)


def _check_bytes(tensor: Tensor) -> None:
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise InvalidInput(f"a tensor may have at most {MAX_DIMENSIONS} dimensions, got {len(tensor.shape)}")
    expected = math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
    if len(tensor.data) != expected:
        raise MalformedBody(
            f"{tensor.dtype} of shape {list(tensor.shape)} needs {expected} bytes, got {len(tensor.data)}"
        )
    # Any other byte in a bool is undefined behaviour in C++.
    if tensor.dtype == "bool" and bytes(tensor.data).translate(None, b"\x00\x01"):
        raise InvalidInput("a bool must be a byte of 0 or 1")
