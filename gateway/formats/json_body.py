"""application/json: `{"data": numbers or text, "shape"?: [...], "dtype"?: "..."}`."""

from __future__ import annotations

import re

import msgspec

from smartbatch.gateway.formats.tensor_fields import MAX_ELEMENTS, Fields, Leaf, decode, payload_of
from smartbatch.shared.errors import BodyTooLarge, InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Raw

# A list costs more than a number, as the garbage collector visits it several times while msgspec makes the others. With
# MAX_ELEMENTS in as many lists, the worst case takes 85 ms to decode.
MAX_LISTS = 131_072

_FIELDS = msgspec.json.Decoder(Fields)
_ANY_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OPENING = re.compile(rb"[\s\[]*")
_KNOWN = "data, shape, dtype"


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    try:
        fields = decode(_FIELDS, body, known=_KNOWN)
    except InvalidInput:
        # Well-formed, but not this format: the model's own business if it takes anything.
        if info is not None and "raw" in info.input.kinds and not _has_data(body):
            return Payload("raw", Raw(body, content_type))
        raise
    return payload_of(fields, msgspec.json.Decoder, look, info, max_rows)


def _has_data(body: bytes) -> bool:
    """Raises MalformedBody: the first pass stops at an unknown field, before it has seen the rest."""
    try:
        return "data" in decode(_ANY_OBJECT, body, known=_KNOWN)
    except InvalidInput:
        return False


def look(data: memoryview) -> tuple[int, Leaf]:
    """Return how deep the lists are nested, and what their first element is. Raises BodyTooLarge."""
    opening = _OPENING.match(data)
    assert opening is not None
    depth = bytes(opening[0]).count(b"[")
    leaf: Leaf = "text" if data[opening.end() : opening.end() + 1] == b'"' else "number"
    if depth and len(data) > MAX_LISTS:  # each takes a byte at least
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
