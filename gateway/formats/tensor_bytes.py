"""Converts between lists of numbers and a tensor's bytes, without numpy.

Only for little-endian hosts, the only ones that torch supports.
"""

from __future__ import annotations

import struct
from array import array
from itertools import chain
from typing import Annotated, Any

from msgspec import Meta

from smartbatch.shared.errors import InvalidInput, WireError
from smartbatch.shared.wire import MAX_DIMENSIONS, Tensor

_FLOAT32_MAX = 3.4028234663852886e38

# Types for the decoder, which checks each number in C and reports the position of the first bad one.
ELEMENT: dict[str, Any] = {
    "bool": bool,
    "uint8": Annotated[int, Meta(ge=0, le=2**8 - 1)],
    "uint16": Annotated[int, Meta(ge=0, le=2**16 - 1)],
    "uint32": Annotated[int, Meta(ge=0, le=2**32 - 1)],
    "uint64": Annotated[int, Meta(ge=0)],  # msgspec allows no bound above int64; `to_bytes` checks the rest
    "int8": Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)],
    "int16": Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)],
    "int32": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "int64": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "float16": Annotated[float, Meta(ge=-65504.0, le=65504.0)],
    "bfloat16": Annotated[float, Meta(ge=-3.3895313892515355e38, le=3.3895313892515355e38)],
    "float32": Annotated[float, Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)],
    "float64": float,
}

_TYPECODES = {
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "float32": "f",
    "float64": "d",
}


def flatten(nested: list[Any], depth: int) -> tuple[list[Any], tuple[int, ...]]:
    """Return the elements of lists nested `depth` deep, in C order, and their shape. Raises InvalidInput if ragged."""
    shape = [len(nested)]
    for dimension in range(1, depth):
        lengths = set(map(len, nested))
        if len(lengths) > 1:
            few, many = min(lengths), max(lengths)
            raise InvalidInput(f"data is ragged: lists of {few} and of {many} elements in dimension {dimension}")
        shape.append(lengths.pop() if lengths else 0)
        nested = list(chain.from_iterable(nested))
    return nested, tuple(shape)


def to_bytes(values: list[Any], dtype: str) -> bytes:
    """Pack numbers that were checked against ELEMENT[dtype]."""
    if dtype == "bool":
        return bytes(values)
    if dtype == "float16":
        return struct.pack(f"<{len(values)}e", *values)
    if dtype == "bfloat16":
        return _float32_to_bfloat16(array("f", values))
    try:
        return array(_TYPECODES[dtype], values).tobytes()
    except OverflowError:
        at = next(i for i, value in enumerate(values) if value >= 2**64)
        raise InvalidInput(f"Expected `int` <= {2**64 - 1} - element {at} of the flattened data") from None


def in_c_order(tensor: Tensor) -> Tensor:
    """Return an output tensor. Raises WireError if it isn't in C order."""
    if tensor.order != "C":
        raise WireError("an output tensor must be in C order")
    return tensor


def to_lists(tensor: Tensor) -> Any:
    """Return an output tensor as nested lists (a plain number if it has no dimensions)."""
    in_c_order(tensor)
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise WireError(f"an output tensor may have at most {MAX_DIMENSIONS} dimensions")
    if 0 in tensor.shape:  # memoryview.cast accepts no zeros
        return _empty_lists(tensor.shape)
    numbers = memoryview(tensor.data).cast("B")
    if tensor.dtype == "float16":  # memoryview lacks "e" before Python 3.12; float32 represents every float16
        numbers = memoryview(array("f", struct.unpack(f"<{len(numbers) // 2}e", numbers))).cast("B")
    elif tensor.dtype == "bfloat16":
        numbers = memoryview(bfloat16_to_float32(numbers))
    code = "?" if tensor.dtype == "bool" else _TYPECODES.get(tensor.dtype, "f")
    return numbers.cast(code, tensor.shape).tolist()  # type: ignore[call-overload]  # typeshed wants a literal code


def bfloat16_to_float32(data: bytes | bytearray | memoryview) -> bytearray:
    """Widen bfloat16 to float32. This is exact: a bfloat16 is the upper half of a float32."""
    wide = bytearray(2 * len(data))
    wide[2::4] = data[0::2]
    wide[3::4] = data[1::2]
    return wide


def _float32_to_bfloat16(values: array[float]) -> bytes:
    """Round to nearest, ties to even, as torch does."""
    bits = array("I", values.tobytes())
    return array(
        "H", [(b >> 16) if b & 0x7F800000 == 0x7F800000 else (b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits]
    ).tobytes()


def _empty_lists(shape: tuple[int, ...]) -> list[Any]:
    outer, *inner = shape
    return [_empty_lists(tuple(inner)) for _ in range(outer)] if inner else []
