"""Request bodies: photos of several sizes, tensors as JSON, npy and MessagePack, texts, plain bytes.

They are the same in each run and all different, so that a response to another request is detected.
"""

from __future__ import annotations

import array
import json
import math
import random
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[1] / "data"
SEED = 1
PLAIN_BYTES = 1024  # size of a plain body
TENSORS_PER_FORMAT = 2

CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".json": "application/json",
    ".npy": "application/x-npy",
    ".msgpack": "application/msgpack",
    ".txt": "text/plain",
}
TEXTS = (
    "A cat sleeps on the warm stones.",
    "The train to the coast leaves at nine.",
    "Snow fell on the harbour all night, and in the morning the boats were white.",
    "How long does a letter take from here to the islands?",
)
_DTYPES = {"float32": ("f", "<f4"), "float64": ("d", "<f8"), "uint8": ("B", "|u1"), "int64": ("q", "<i8")}

Values = list[float] | list[int]


class Body(NamedTuple):
    """A request body. `kind` groups bodies that a client sends in the same way."""

    name: str
    kind: str
    content: bytes
    content_type: str


def photos() -> list[Body]:
    """Return six photos from 224×149 to 1411×1411, as JPEG, PNG and WebP (loadtest/data/NOTICE)."""
    return [_from_file(path, "photo") for path in sorted(DATA.iterdir()) if path.suffix in CONTENT_TYPES]


def json_tensors(shape: Sequence[int], dtype: str) -> list[Body]:
    return [
        Body(f"json {number}", "json", json.dumps({"data": values, "shape": [1, *shape]}).encode(), "application/json")
        for number, values in enumerate(_random_values(shape, dtype))
    ]


def npy_tensors(shape: Sequence[int], dtype: str) -> list[Body]:
    return [
        Body(f"npy {number}", "npy", _npy(values, (1, *shape), dtype), "application/x-npy")
        for number, values in enumerate(_random_values(shape, dtype))
    ]


def msgpack_tensors(shape: Sequence[int], dtype: str) -> list[Body]:
    return [
        Body(f"msgpack {number}", "msgpack", _msgpack(values, (1, *shape), dtype), "application/msgpack")
        for number, values in enumerate(_random_values(shape, dtype))
    ]


def texts() -> list[Body]:
    return [Body(f"text {number}", "text", text.encode(), "text/plain") for number, text in enumerate(TEXTS)]


def plain_bytes(count: int = 16) -> list[Body]:
    draw = random.Random(SEED)
    return [
        Body(f"bytes {number}", "bytes", draw.randbytes(PLAIN_BYTES), "application/octet-stream")
        for number in range(count)
    ]


def from_file(path: Path) -> Body:
    """Read a file. Its suffix decides the content type. Raises ValueError."""
    if path.suffix.lower() not in CONTENT_TYPES:
        known = ", ".join(CONTENT_TYPES)
        raise ValueError(f"{path}: expected a file ending in {known}, got {path.suffix or 'none'!r}")
    try:
        return _from_file(path, path.suffix[1:].lower())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _from_file(path: Path, kind: str) -> Body:
    return Body(path.name, kind, path.read_bytes(), CONTENT_TYPES[path.suffix.lower()])


def _random_values(shape: Sequence[int], dtype: str) -> list[Values]:
    """Return TENSORS_PER_FORMAT lists: floats distributed like normalized pixels, or integers from 0 to 255."""
    if dtype not in _DTYPES:
        raise ValueError(f"expected a dtype of {', '.join(_DTYPES)}, got {dtype!r}")
    draw = random.Random(SEED)
    size = math.prod(shape)
    if dtype.startswith("float"):
        return [[round(draw.gauss(0, 1), 4) for _ in range(size)] for _ in range(TENSORS_PER_FORMAT)]
    return [[draw.randrange(256) for _ in range(size)] for _ in range(TENSORS_PER_FORMAT)]


def _little_endian(values: Values, dtype: str) -> bytes:
    data = array.array(_DTYPES[dtype][0], values)
    if sys.byteorder == "big":
        data.byteswap()
    return data.tobytes()


def _npy(values: Values, shape: Sequence[int], dtype: str) -> bytes:
    """Version 1.0 of https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
    head = repr({"descr": _DTYPES[dtype][1], "fortran_order": False, "shape": tuple(shape)})
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + _little_endian(values, dtype)


def _msgpack(values: Values, shape: Sequence[int], dtype: str) -> bytes:
    import msgpack

    packed = msgpack.packb({"data": _little_endian(values, dtype), "shape": list(shape), "dtype": dtype})
    assert packed is not None
    return packed
