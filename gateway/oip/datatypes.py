"""The protocol's datatypes, and the layout of BYTES tensors."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from smartbatch.shared.errors import InvalidInput, MalformedBody

BYTES = "BYTES"

DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "BF16": "bfloat16",
    "FP32": "float32",
    "FP64": "float64",
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<I")


def dtype_of(datatype: str) -> str:
    """Return numpy's name of a datatype. Raises InvalidInput if it isn't numeric."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInput(f"unknown datatype {datatype!r:.40}; known are {', '.join((*DTYPES, BYTES))}")
    return dtype


def split_elements(data: Buffer, count: int) -> list[bytes]:
    """Split a BYTES tensor into `count` elements, each of which follows its length in four bytes. Raises MalformedBody.

    `count` comes from the shape, which may be any number, so it is checked against the data first.
    """
    if count * _LENGTH.size > len(data):
        raise MalformedBody(f"{count} elements of BYTES need at least {count * _LENGTH.size} bytes, got {len(data)}")
    view = memoryview(data)
    elements, at = [], 0
    for number in range(count):
        if at + _LENGTH.size > len(view):
            raise MalformedBody(f"element {number} of {count} has no length: the data ends after {len(view)} bytes")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if length > len(view) - at:
            raise MalformedBody(f"element {number} of {count} should have {length} bytes, but {len(view) - at} follow")
        elements.append(bytes(view[at : at + length]))
        at += length
    if at != len(view):
        raise MalformedBody(f"{len(view) - at} bytes follow the last of {count} elements")
    return elements


def join_elements(elements: Sequence[bytes]) -> bytes:
    return b"".join([part for element in elements for part in (_LENGTH.pack(len(element)), element)])
