"""application/json: `{"data": numbers or text, "shape"?: [...], "dtype"?: "..."}`."""

from __future__ import annotations

import re

import msgspec

from smartbatch.gateway.formats.tensor_fields import Fields, Leaf, decode, payload_of
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Raw

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
    """Say how deep the lists are nested, and what stands in them first."""
    opening = _OPENING.match(data)
    assert opening is not None
    depth = bytes(opening[0]).count(b"[")
    return depth, "text" if data[opening.end() : opening.end() + 1] == b'"' else "number"
