"""application/msgpack: the fields of JSON, where data may also be bytes; or `{"image": bytes or [bytes, …]}`.

Of a model with several inputs `{"inputs": {name: such a map, data, or a file's bytes, …}}`.
"""

from __future__ import annotations

import contextlib
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from smartbatch.gateway.formats.image_body import images_payload
from smartbatch.gateway.formats.json_body import Fields, Leaf, Shape, decode, payload_of
from smartbatch.gateway.formats.named_inputs import file_payload, inputs_payload
from smartbatch.shared.errors import BodyTooLarge, InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import MAX_DIMENSIONS, MAX_INPUTS, Payload


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw | UnsetType = UNSET
    shape: Shape | None = None
    dtype: str | None = None
    image: bytes | list[bytes] | UnsetType = UNSET
    inputs: Annotated[dict[str, msgspec.Raw], Meta(max_length=MAX_INPUTS)] | UnsetType = UNSET


# Of lists of numbers, which can't be counted without decoding them. The slowest, lists of one number each, take 100 ms.
MAX_LIST_BYTES = 1024 * 1024

INPUTS = b"\x81\xa6inputs"  # how a body with several inputs begins

_BODY = msgspec.msgpack.Decoder(_Body)
_FILES = msgspec.msgpack.Decoder(bytes | list[bytes])
_KNOWN = "data, shape, dtype; or image; or inputs"


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    fields = decode(_BODY, body, known=_KNOWN)
    if fields.inputs is not UNSET:
        if fields.data is not UNSET or fields.image is not UNSET:
            raise InvalidInput("inputs can't be combined with data or image")
        return inputs_payload(fields.inputs, info, lambda value, one: _input_payload(value, one, max_rows))
    return _payload(fields, info, max_rows)


def _input_payload(value: msgspec.Raw, info: ModelInfo, max_rows: int) -> Payload:
    """Read one of several inputs: a map with the fields of a whole body, data, or the bytes of one or more files."""
    data = memoryview(value)
    if 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):  # fixmap, map 16 and 32
        return _payload(decode(_BODY, data, known=_KNOWN), info, max_rows)
    with contextlib.suppress(msgspec.ValidationError):
        files = _FILES.decode(data)
        return file_payload([files] if isinstance(files, bytes) else files, info, max_rows)
    return payload_of(Fields(value), msgspec.msgpack.Decoder, _inspect, info, max_rows)


def _payload(fields: _Body, info: ModelInfo | None, max_rows: int) -> Payload:
    if fields.inputs is not UNSET:
        raise InvalidInput("inputs can't be nested")
    if fields.image is not UNSET:
        if fields.data is not UNSET or fields.shape is not None or fields.dtype is not None:
            raise InvalidInput("image can't be combined with data, shape or dtype")
        images = [fields.image] if isinstance(fields.image, bytes) else fields.image
        return images_payload(images, max_rows)
    if fields.data is UNSET:
        raise InvalidInput(f"expected data or image; known fields are {_KNOWN}")
    given = Fields(fields.data, fields.shape, fields.dtype)
    return payload_of(given, msgspec.msgpack.Decoder, _inspect, info, max_rows)


def _inspect(data: memoryview) -> tuple[int, Leaf]:
    """Read the headers of the first arrays, which are whole: a first pass went over every byte. Raises BodyTooLarge."""
    depth = at = 0
    while depth <= MAX_DIMENSIONS and at < len(data):
        first = data[at]
        if 0x90 <= first <= 0x9F:  # fixarray
            at += 1
        elif first == 0xDC:  # array 16
            at += 3
        elif first == 0xDD:  # array 32
            at += 5
        elif 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB:  # fixstr, str 8 to 32
            return depth, "text"
        elif 0xC4 <= first <= 0xC6 and depth == 0:  # bin 8 to 32
            return depth, "bytes"
        else:
            break
        depth += 1
    if depth and len(data) > MAX_LIST_BYTES:
        raise BodyTooLarge(
            f"lists of numbers in MessagePack may have at most {MAX_LIST_BYTES} bytes, got {len(data)}; "
            "send data as bytes with shape and dtype, or as application/x-npy"
        )
    return depth, "number"
