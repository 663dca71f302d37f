"""application/json: `{"data": numbers or text, "shape"?: [...], "dtype"?: "..."}`. MessagePack has the same fields.

Of a model with several inputs `{"inputs": {name: data or such an object, …}}`, with images and raw bytes in base64.

msgspec decodes the body twice. The first pass finds the fields, checks the syntax and leaves `data` undecoded; the
second decodes `data` as lists of the dtype, nested as deep as its first element. So nothing is allocated before the
whole body is known to be well-formed, an error names the position of the bad number, and the nesting depth is bounded
before it is followed.

A call of msgspec holds the interpreter, and with it the event loop, until it returns, in whatever thread it runs.
Therefore `inspect` refuses lists that would take longer than 100 ms to decode.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from smartbatch.gateway.formats.named_inputs import NOT_ANNOUNCED, file_payload, inputs_payload
from smartbatch.gateway.formats.row_shapes import check_dtype, check_rows, tensor_payload
from smartbatch.gateway.formats.tensor_bytes import ELEMENT, flatten, to_bytes
from smartbatch.shared.errors import BodyTooLarge, InvalidInput, MalformedBody, Unavailable
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import MAX_DIMENSIONS, Payload, Raw, Tensor

# In one flat list they take 50 ms to decode in the slowest case: numbers of one digit, read as floats.
MAX_ELEMENTS = 1_500_000
# A list costs more than a number, as the garbage collector visits it several times while msgspec makes the others. With
# MAX_ELEMENTS in as many lists, the worst case takes 85 ms to decode.
MAX_LISTS = 131_072

Length = Annotated[int, Meta(ge=0, le=2**53)]
Shape = Annotated[tuple[Length, ...], Meta(max_length=MAX_DIMENSIONS)]
Leaf = Literal["number", "text", "bytes"]

NewDecoder = Callable[[Any], Any]  # msgspec's Decoder class of the format
# Returns how deep `data` is nested, and what its first element is. Raises BodyTooLarge.
Inspect = Callable[[memoryview], tuple[int, Leaf]]


class Fields(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw
    shape: Shape | None = None
    dtype: str | None = None


_FIELDS = msgspec.json.Decoder(Fields)
_KNOWN = "data, shape, dtype"
_TEXTS = msgspec.json.Decoder(str | list[str])

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
        # Well-formed, but not of this format: the inputs of a model that takes several, or a raw model's body.
        if info is None and _has("inputs", body) and not _has("data", body):
            raise Unavailable(NOT_ANNOUNCED) from None
        if info is not None and info.inputs:
            return _read_inputs(body, info, max_rows)
        if info is not None and "raw" in info.input.kinds and not _has("data", body):
            return Payload("raw", Raw(body, content_type))
        raise
    return payload_of(fields, msgspec.json.Decoder, inspect, info, max_rows)


def _read_inputs(body: bytes, info: ModelInfo, max_rows: int) -> Payload:
    names = tuple(spec.name for spec in info.inputs)
    inputs = decode(_inputs_decoder(names), body, known=f"inputs: {', '.join(names)}").inputs
    return inputs_payload(msgspec.structs.asdict(inputs), info, lambda value, one: input_payload(value, one, max_rows))


@lru_cache(maxsize=256)
def _inputs_decoder(names: tuple[str, ...]) -> Any:
    """Return a decoder that ends at the first unknown name: a dict of all that a body may hold takes too long."""
    inputs = msgspec.defstruct("Inputs", [(name, msgspec.Raw) for name in names], forbid_unknown_fields=True)
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("inputs", inputs)], forbid_unknown_fields=True))


def input_payload(value: msgspec.Raw, info: ModelInfo, max_rows: int) -> Payload:
    """Read one of several inputs: data, or an object with the fields of a whole body."""
    data = memoryview(value)
    if data[:1] == b"{":
        return payload_of(decode(_FIELDS, data, known=_KNOWN), msgspec.json.Decoder, inspect, info, max_rows)
    depth, leaf = inspect(data)
    kinds = info.input.kinds
    if leaf == "text" and depth < 2 and "text" not in kinds and ("image" in kinds or "raw" in kinds):
        texts = decode(_TEXTS, data, known="")
        try:
            files = [binascii.a2b_base64(text, strict_mode=True) for text in ([texts] if depth == 0 else texts)]
        except ValueError as error:
            raise InvalidInput(f"it is not base64: {error}") from None
        return file_payload(files, info, max_rows)
    return payload_of(Fields(value), msgspec.json.Decoder, inspect, info, max_rows)


def _has(field: str, body: bytes) -> bool:
    """Raises MalformedBody: the first pass stops at an unknown field, before it has read the rest."""
    try:
        return decode(_object_with(field), body, known="") is not None
    except InvalidInput:
        return False


@lru_cache(maxsize=2)
def _object_with(field: str) -> Any:
    return msgspec.json.Decoder(msgspec.defstruct("Object", [(field, msgspec.Raw)]))


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
    """Refuse lists that would take too long to decode. The counts are upper bounds: texts may hold such characters."""
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
    """Describe a lone surrogate, which msgspec reports as an unexpected end; empty if there is none."""
    lone = next((found[1].decode() for found in _ESCAPE.finditer(body) if found[1]), None)
    return f"\\{lone} is a lone surrogate, which is half of a character" if lone else ""


def payload_of(
    fields: Fields, new_decoder: NewDecoder, inspect: Inspect, info: ModelInfo | None, max_rows: int
) -> Payload:
    """Turn the fields into numbers (kind tensor) or strings (kind text)."""
    depth, leaf = inspect(memoryview(fields.data))
    if depth > MAX_DIMENSIONS:
        raise InvalidInput(f"data may have at most {MAX_DIMENSIONS} dimensions, got {depth}")
    if leaf == "text":
        return _text(fields, new_decoder, depth, max_rows)
    spec = info.input if info is not None else None
    dtype = fields.dtype or (spec.dtype if spec is not None else None) or "float32"
    if leaf == "bytes":
        data = decode(_decoder(new_decoder, "bytes", depth), fields.data, known="")
        if fields.shape is None or fields.dtype is None:
            raise InvalidInput("data given as bytes needs shape and dtype")
        return tensor_payload(Tensor(dtype, fields.shape, data), info, max_rows)
    if depth == 0:
        raise InvalidInput("data must be a list of numbers or strings, got a single value")
    check_dtype(dtype, spec)  # before the numbers are decoded as of that dtype

    values, shape = flatten(decode(_decoder(new_decoder, dtype, depth), fields.data, known=""), depth)
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
    text = decode(_decoder(new_decoder, "text", depth), fields.data, known="")
    rows = text if depth else [text]
    check_rows(len(rows), max_rows)
    return Payload("text", rows)


@lru_cache(maxsize=256)
def _decoder(new_decoder: NewDecoder, element: str, depth: int) -> Any:
    kind: Any = str if element == "text" else bytes if element == "bytes" else ELEMENT[element]
    for _ in range(depth):
        kind = Annotated[list[kind], Meta(max_length=MAX_ELEMENTS)]  # MessagePack checks it before it decodes
    return new_decoder(kind)
