"""application/json: `{"data": numbers or text, "shape"?: [...], "dtype"?: "..."}`. MessagePack has the same fields.

msgspec decodes the body twice. The first pass finds the fields, checks the syntax and leaves `data` undecoded. The
second decodes `data` as lists of the dtype, nested as deep as its first element. So nothing is allocated before the
whole body is known to be well-formed, errors give the position of the bad number, and the nesting depth is checked
before lists are decoded.

A msgspec call holds the GIL until it returns, which blocks the event loop from any thread. Therefore `inspect` rejects
lists that would take longer than 100 ms to decode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from smartbatch.gateway.formats.row_shapes import check_dtype, check_rows, tensor_payload
from smartbatch.gateway.formats.tensor_bytes import ELEMENT, flatten, to_bytes
from smartbatch.shared.errors import BodyTooLarge, InvalidInput, MalformedBody
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import MAX_DIMENSIONS, Payload, Raw, Tensor

# A flat list of so many takes at most 50 ms to decode (one-digit numbers, read as floats).
MAX_ELEMENTS = 1_500_000
# A list costs more than a number: the garbage collector visits it several times while msgspec creates the others.
# MAX_ELEMENTS in so many lists take at most 85 ms to decode.
MAX_LISTS = 131_072

Length = Annotated[int, Meta(ge=0, le=2**53)]
Shape = Annotated[tuple[Length, ...], Meta(max_length=MAX_DIMENSIONS)]
Leaf = Literal["number", "text", "bytes"]

NewDecoder = Callable[[Any], Any]  # msgspec's Decoder class of the format
# Returns the nesting depth of `data` and the kind of its first element. Raises BodyTooLarge.
Inspect = Callable[[memoryview], tuple[int, Leaf]]


class Fields(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw
    shape: Shape | None = None
    dtype: str | None = None


_FIELDS = msgspec.json.Decoder(Fields)
_ANY_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KNOWN = "data, shape, dtype"

_OPENING = re.compile(rb"[\s\[]*")
# Escapes in JSON text: a pair of surrogates is one character, and the group matches a lone one.
_HEX = rb"[0-9a-fA-F]{2}"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]" + _HEX + rb"\\u[dD][c-fC-F]" + _HEX + rb"|(u[dD][89a-fA-F]" + _HEX + rb")|.)", re.DOTALL
)


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    try:
        fields = decode(_FIELDS, body, known=_KNOWN)
    except InvalidInput:
        # Well-formed, but not of this format: a model of kind raw takes any body.
        if info is not None and "raw" in info.input.kinds and not _has_data(body):
            return Payload("raw", Raw(body, content_type))
        raise
    return payload_of(fields, msgspec.json.Decoder, inspect, info, max_rows)


def _has_data(body: bytes) -> bool:
    """Raises MalformedBody: the first pass stops at an unknown field, before it has read the rest."""
    try:
        return "data" in decode(_ANY_OBJECT, body, known=_KNOWN)
    except InvalidInput:
        return False


def inspect(data: memoryview) -> tuple[int, Leaf]:
    """Return the nesting depth of `data` in JSON and the kind of its first element. Raises BodyTooLarge."""
    opening = _OPENING.match(data)
    assert opening is not None
    depth = bytes(opening[0]).count(b"[")
    leaf: Leaf = "text" if data[opening.end() : opening.end() + 1] == b'"' else "number"
    if depth and len(data) > MAX_LISTS:  # each list takes a byte at least
        _check_counts(bytes(data), depth, leaf)
    return depth, leaf


def _check_counts(data: bytes, depth: int, leaf: Leaf) -> None:
    """Reject lists that would take too long to decode. The counts are upper bounds: strings may contain brackets."""
    elements = data.count(b",") + 1
    if leaf == "text":
        elements = min(elements, data.count(b'"') // 2)
    if elements > MAX_ELEMENTS or (depth > 1 and data.count(b"[") > MAX_LISTS):
        raise BodyTooLarge(
            f"data in JSON may have at most {MAX_ELEMENTS:,} elements and {MAX_LISTS:,} lists; send larger tensors as "
            "application/x-npy, or as application/msgpack with data as bytes (in /v2: as binary data after the JSON)"
        )


# --- shared with MessagePack and the Open Inference Protocol


def decode(decoder: Any, body: Any, *, known: str) -> Any:
    """Decode with msgspec, and translate its errors. `known` lists the fields that a client may send."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        hint = f"; known fields are {known}" if "field" in text else ""
        raise InvalidInput(text[:300].replace("`$[", "`data[").replace("`$.", "`") + hint) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        json = isinstance(decoder, msgspec.json.Decoder)
        raise MalformedBody((json and _lone_surrogate(body)) or str(error)[:300]) from None
    except RecursionError:
        raise MalformedBody(f"the body is nested too deeply; data has at most {MAX_DIMENSIONS} dimensions") from None


def _lone_surrogate(body: Any) -> str:
    """Describe a lone surrogate, which msgspec reports as an unexpected end. Returns "" if there is none."""
    lone = next((found[1].decode() for found in _ESCAPE.finditer(body) if found[1]), None)
    return f"\\{lone} is a lone surrogate, which is half of a character" if lone else ""


def payload_of(
    fields: Fields, new_decoder: NewDecoder, inspect: Inspect, info: ModelInfo | None, max_rows: int
) -> Payload:
    """Convert the fields to a payload of numbers (kind tensor) or strings (kind text)."""
    depth, leaf = inspect(memoryview(fields.data))
    if depth > MAX_DIMENSIONS:
        raise InvalidInput(f"data may have at most {MAX_DIMENSIONS} dimensions, got {depth}")
    if leaf == "text":
        return _text(fields, new_decoder, depth, max_rows)
    spec = info.input if info is not None else None
    dtype = fields.dtype or (spec.dtype if spec is not None else None) or "float32"
    if leaf == "bytes":
        data = decode(list_decoder(new_decoder, "bytes", depth), fields.data, known="")
        if fields.shape is None or fields.dtype is None:
            raise InvalidInput("data given as bytes needs shape and dtype")
        return tensor_payload(Tensor(dtype, fields.shape, data), info, max_rows)
    if depth == 0:
        raise InvalidInput("data must be a list of numbers or strings, got a single value")
    check_dtype(dtype, spec)  # before the numbers are decoded as of that dtype

    values, shape = flatten(decode(list_decoder(new_decoder, dtype, depth), fields.data, known=""), depth)
    count = len(values)
    if not count:
        raise InvalidInput(f"data is empty: its shape is {list(shape)}")
    if fields.shape is not None and math.prod(fields.shape) != count:
        raise InvalidInput(f"shape {list(fields.shape)} needs {math.prod(fields.shape)} numbers, but data has {count}")
    tensor = Tensor(dtype, shape if fields.shape is None else fields.shape, to_bytes(values, dtype))
    return tensor_payload(tensor, info, max_rows, flat=fields.shape is None and depth == 1)


def _text(fields: Fields, new_decoder: NewDecoder, depth: int, max_rows: int) -> Payload:
    if fields.shape is not None or fields.dtype is not None:
        raise InvalidInput("shape and dtype apply to numbers, not to text")
    if depth > 1:
        raise InvalidInput("text must be a string or a list of strings, got nested lists")
    text = decode(list_decoder(new_decoder, "text", depth), fields.data, known="")
    rows = text if depth else [text]
    check_rows(len(rows), max_rows)
    return Payload("text", rows)


@lru_cache(maxsize=256)
def list_decoder(new_decoder: NewDecoder, element: str, depth: int) -> Any:
    """Return a decoder of lists nested `depth` deep. `element` is a dtype, "text" or "bytes"."""
    kind: Any = str if element == "text" else bytes if element == "bytes" else ELEMENT[element]
    for _ in range(depth):
        kind = Annotated[list[kind], Meta(max_length=MAX_ELEMENTS)]  # MessagePack checks it before it decodes
    return new_decoder(kind)
