"""application/x-npy: numpy's .npy file, read and written without numpy.

The header is matched, never evaluated, and object arrays (pickles) are refused by name.
Source: numpy/lib/format.py, versions 1.0 to 3.0.
"""

from __future__ import annotations

import re

from smartbatch.gateway.formats.row_shapes import tensor_payload
from smartbatch.gateway.formats.tensor_bytes import bfloat16_to_float32
from smartbatch.shared.errors import InvalidInput, MalformedBody
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import DTYPE_BYTES, MAX_DIMENSIONS, Payload, Tensor

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000  # numpy's own max_header_size

_ENTRY = re.compile(
    r"""\s*(?P<q>['"])(?P<key>descr|fortran_order|shape)(?P=q)\s*:\s*"""
    r"""(?:(?P<r>['"])(?P<text>[^'"]*)(?P=r)|(?P<flag>True|False)|\((?P<lengths>[0-9,\s]*)\))\s*(?:,|$)"""
)
_TYPES = {
    "b1": "bool",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
}
_DESCR = {dtype: ("|" if DTYPE_BYTES[dtype] == 1 else "<") + code for code, dtype in _TYPES.items()}


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    """Parse a .npy file. The tensor's data is a view into `body`, not a copy."""
    header, offset = _header(body)
    dtype = _dtype(header["descr"])
    order = "F" if header["fortran_order"] == "True" else "C"
    shape = _shape(header["shape"])
    if sum(n != 1 for n in shape) < 2:
        order = "C"  # the bytes are the same in both orders
    return tensor_payload(Tensor(dtype, shape, memoryview(body)[offset:], order), info, max_rows)


def write(tensor: Tensor) -> bytes:
    """Return the tensor as a .npy file, version 1.0. numpy has no bfloat16; it becomes float32."""
    dtype, data = tensor.dtype, tensor.data
    if dtype == "bfloat16":
        dtype, data = "float32", bfloat16_to_float32(data)
    shape = repr(tuple(tensor.shape))
    fields = f"{{'descr': '{_DESCR[dtype]}', 'fortran_order': {tensor.order == 'F'}, 'shape': {shape}, }}".encode()
    padding = -(len(MAGIC) + 4 + len(fields) + 1) % 64
    header = fields + b" " * padding + b"\n"
    return b"".join((MAGIC, b"\x01\x00", len(header).to_bytes(2, "little"), header, data))


def _header(body: bytes) -> tuple[dict[str, str], int]:
    """Return descr, fortran_order and shape as text, and where the data begins."""
    if not body.startswith(MAGIC):
        raise MalformedBody(f"a .npy file must begin with \\x93NUMPY, got {body[:6].hex(' ') or 'nothing'}")
    version = tuple(body[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise MalformedBody(f".npy version: expected 1.0, 2.0 or 3.0, got {'.'.join(map(str, version)) or 'none'}")
    start = 10 if version == (1, 0) else 12
    length = int.from_bytes(body[8:start], "little")
    if length > MAX_HEADER_BYTES:
        raise MalformedBody(f"a .npy header may have at most {MAX_HEADER_BYTES} bytes, got {length}")
    text = body[start : start + length].decode("latin-1").strip()
    if len(body) < start + length or not (text.startswith("{") and text.endswith("}")):
        raise MalformedBody("the .npy header is truncated or not a dictionary")
    return _entries(text[1:-1].rstrip()), start + length


def _entries(text: str) -> dict[str, str]:
    if re.search(r"['\"]descr['\"]\s*:\s*[\[(]", text):
        raise InvalidInput("structured .npy dtypes are not supported; send a plain numeric dtype")
    entries: dict[str, str] = {}
    at = 0
    while at < len(text) and (entry := _ENTRY.match(text, at)):
        kind = {"descr": "text", "fortran_order": "flag", "shape": "lengths"}[entry["key"]]
        if entry[kind] is None or entry["key"] in entries:
            break
        entries[entry["key"]] = entry[kind]
        at = entry.end()
    if at < len(text) or len(entries) != 3:
        raise MalformedBody("a .npy header must have exactly the keys descr, fortran_order and shape")
    return entries


def _dtype(descr: str) -> str:
    order, code = descr[:1], descr[1:]
    if code.startswith("O"):
        raise InvalidInput("object arrays contain pickles and are never loaded; send a plain numeric dtype")
    dtype = _TYPES.get(code)
    if dtype is None or order not in ("<", "|", "=", ">"):
        raise InvalidInput(f"unknown .npy dtype {descr!r:.40}; known are {', '.join(_DESCR.values())}")
    if order == ">" and DTYPE_BYTES[dtype] > 1:
        raise InvalidInput(f"big-endian numbers are not supported: expected {_DESCR[dtype]}, got {descr}")
    return dtype


def _shape(text: str) -> tuple[int, ...]:
    lengths = [length.strip() for length in text.split(",")]
    if lengths[-1] == "":  # () and the comma of (3,)
        lengths.pop()
    if len(lengths) > MAX_DIMENSIONS or not all(n.isdigit() and len(n) < 18 for n in lengths):
        raise MalformedBody(f"a .npy shape may have at most {MAX_DIMENSIONS} dimensions, got ({text[:60]})")
    return tuple(map(int, lengths))
