"""Describes the request bodies of POST /predict, which gateway/formats/ parses."""

from __future__ import annotations

from typing import Any

from smartbatch.gateway.formats.json_body import MAX_ELEMENTS, MAX_LISTS
from smartbatch.shared.wire import DTYPE_BYTES, MAX_DIMENSIONS

Json = dict[str, Any]


def _nested(leaf: Json, depth: int) -> Json:
    """Describe lists nested up to `depth` deep, with one type of leaf."""
    return {"anyOf": [leaf, {"type": "array", "items": _nested(leaf, depth - 1)}]} if depth else leaf


# JSON Schema can express neither that nested lists have equal lengths nor the number of rows. Deeper nesting would only
# make the document longer.
_SHOWN_DEPTH = 3

# By canonical media type. Types that are missing here are plain bytes.
INPUTS: Json = {
    "application/json": {
        "schema": {"$ref": "#/components/schemas/JsonInput"},
        "examples": {
            "rows": {
                "summary": "Two rows of four numbers",
                "value": {"data": [[5.1, 3.5, 1.4, 0.2], [6.7, 3, 5.2, 2.3]]},
            },
            "texts": {"summary": "Two texts", "value": {"data": ["a cat", "a kitten"]}},
        },
    },
    "application/msgpack": {
        "schema": {"description": "The same object as in JSON, or {image: bytes or a list of bytes}"}
    },
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "Image files, one row each, or a single .npy file. Field names are ignored.",
            "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
            "minProperties": 1,
        }
    },
    "text/plain": {"schema": {"type": "string", "minLength": 1}},
}


def input_schemas() -> Json:
    number = {"type": ["number", "boolean"]}
    return {
        "JsonInput": {
            "type": "object",
            "description": "One row, or a list of rows",
            "required": ["data"],
            "additionalProperties": False,
            "properties": {
                "data": {
                    "description": f"Numbers or strings, nested up to {MAX_DIMENSIONS} deep, or flat with a shape. "
                    f"At most {MAX_ELEMENTS:,} elements in {MAX_LISTS:,} lists; send larger tensors as npy or msgpack",
                    "anyOf": [_nested(number, _SHOWN_DEPTH), _nested({"type": "string"}, 1)],
                },
                "shape": {
                    "type": ["array", "null"],
                    "items": {"type": "integer", "minimum": 0},
                    "maxItems": MAX_DIMENSIONS,
                },
                "dtype": {"enum": [*DTYPE_BYTES, None]},
            },
        }
    }
