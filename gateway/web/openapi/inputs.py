"""Descriptions of the request bodies of POST /predict, which gateway/formats/ parses."""

from __future__ import annotations

from typing import Any

from smartbatch.gateway.formats.json_body import MAX_ELEMENTS, MAX_LISTS
from smartbatch.shared.wire import DTYPE_BYTES, MAX_DIMENSIONS, MAX_INPUTS

Json = dict[str, Any]


def _nested(leaf: Json, depth: int) -> Json:
    """Describe lists nested up to `depth` deep, with one type of leaf."""
    return {"anyOf": [leaf, {"type": "array", "items": _nested(leaf, depth - 1)}]} if depth else leaf


# JSON Schema can't express that nested lists have equal lengths, nor the number of rows. Deeper nesting would only make
# the document longer.
_SHOWN_DEPTH = 3

_JSON_INPUT: Json = {"$ref": "#/components/schemas/JsonInput"}

# By canonical media type. Types that are missing here are plain bytes.
INPUTS: Json = {
    "application/json": {
        "schema": {"anyOf": [_JSON_INPUT, {"$ref": "#/components/schemas/JsonInputs"}]},
        "examples": {
            "rows": {
                "summary": "Two rows of four numbers",
                "value": {"data": [[5.1, 3.5, 1.4, 0.2], [6.7, 3, 5.2, 2.3]]},
            },
            "texts": {"summary": "Two texts", "value": {"data": ["a cat", "a kitten"]}},
            "inputs": {
                "summary": "A row of two inputs, of a model that takes several",
                "value": {"inputs": {"text": "a cat", "numbers": [5.1, 3.5]}},
            },
        },
    },
    "application/msgpack": {
        "schema": {
            "description": "The same object as in JSON, where data may be bytes, or {image: bytes or a list of bytes}"
        }
    },
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "Image files, one row each, or a single .npy file; field names are ignored. Of a model with "
            "several inputs: files, texts or JSON in fields with the names of the inputs.",
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
        },
        "JsonInputs": {
            "type": "object",
            "description": "All inputs of a model that takes several, with as many rows each",
            "required": ["inputs"],
            "additionalProperties": False,
            "properties": {
                "inputs": {
                    "type": "object",
                    "description": "By name: what `data` would be, or an object with it. Images, raw bytes: base64",
                    "additionalProperties": {"anyOf": [_JSON_INPUT, {"type": ["array", "string"]}]},
                    "minProperties": 1,
                    "maxProperties": MAX_INPUTS,
                }
            },
        },
    }
