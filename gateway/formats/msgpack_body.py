"""application/msgpack: the same fields as JSON, with data as lists or bytes; or `{"image": bytes or [bytes, …]}`."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from smartbatch.gateway.formats.image_body import images_payload
from smartbatch.gateway.formats.json_body import Fields, Leaf, Shape, decode, payload_of
from smartbatch.shared.errors import BodyTooLarge, InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import MAX_DIMENSIONS, Payload


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw | UnsetType = UNSET
    shape: Shape | None = None
    dtype: str | None = None
    image: bytes | list[bytes] | UnsetType = UNSET


# Limit for lists of numbers, which can't be counted without decoding. The slowest, lists of one number, take 100 ms.
MAX_LIST_BYTES = 1024 * 1024

_BODY = msgspec.msgpack.Decoder(_Body)
_KNOWN = "data, shape, dtype; or image"


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    fields = decode(_BODY, body, known=_KNOWN)
    if fields.image is not UNSET:
        if fields.data is not UNSET or fields.shape is not None or fields.dtype is not None:
            raise InvalidInput("image can't be combined with data, shape or dtype")
        images = [fields.image] if isinstance(fields.image, bytes) else fields.image
        return images_payload(images, max_rows)
    if fields.data is UNSET:
        raise InvalidInput(f"expected data or image; known fields are {_KNOWN}")
    fields = Fields(fields.data, fields.shape, fields.dtype)
    return payload_of(fields, msgspec.msgpack.Decoder, _inspect, info, max_rows)


def _inspect(data: memoryview) -> tuple[int, Leaf]:
    """Read the headers of the outer arrays, which the first pass found to be complete. Raises BodyTooLarge."""
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
