"""Reads the elements of a BYTES tensor in JSON: strings, nested or flat."""

from __future__ import annotations

import binascii

import msgspec

from smartbatch.gateway.formats.json_body import decode, inspect, list_decoder
from smartbatch.gateway.formats.tensor_bytes import flatten
from smartbatch.shared.errors import InvalidInput

MAX_DEPTH = 2  # [rows] or [rows, 1]


def read_elements(data: msgspec.Raw, count: int, *, base64: bool) -> list[bytes]:
    """Return `count` strings as UTF-8, or decoded from base64. Raises InvalidInput or BodyTooLarge."""
    depth, _ = inspect(memoryview(data))
    if not 1 <= depth <= MAX_DEPTH:
        raise InvalidInput(f"data of a BYTES tensor must be a list of strings, nested at most {MAX_DEPTH} deep")
    texts, _ = flatten(decode(list_decoder(msgspec.json.Decoder, "text", depth), data, known=""), depth)
    if len(texts) != count:
        raise InvalidInput(f"the shape needs {count} elements, but data has {len(texts)}")
    if not base64:
        return [text.encode() for text in texts]
    return [_from_base64(number, text) for number, text in enumerate(texts)]


def _from_base64(number: int, text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode(), strict_mode=True)
    except binascii.Error as error:
        raise InvalidInput(f"element {number} is not base64: {error}") from None
