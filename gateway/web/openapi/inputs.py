"""The bodies of POST /predict as OpenAPI describes them: what gateway/formats/ reads."""

from __future__ import annotations

from typing import Any

from smartbatch.gateway.formats.json_body import MAX_ELEMENTS, MAX_LISTS
from smartbatch.shared.wire import DTYPE_BYTES, MAX_DIMENSIONS

Json = dict[str, Any]


def _nested(leaf: Json, depth: int) -> Json:
    """Lists nested up to `depth` deep, with the same kind of leaf everywhere."""
    return {"anyOf": [leaf, {"type": "array", "items": _nested(leaf, depth - 1)}]} if depth else leaf


# JSON Schema can't say that lists are as long as their neighbours, nor how many rows there may be. Ever deeper nesting
# would make the document long and say little more.
_SHOWN_DEPTH = 3

# By the one name of each media type. Those that aren't here are bytes of which nothing more can be said.
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
    "application/msgpack": {"schema": {"description": "The object of JSON, or {image: bytes or a list of them}"}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "Each file is an image, one row; or one .npy file. The names don't matter.",
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
            "description": "One row of what the model takes, or a list of rows",
            "required": ["data"],
            "additionalProperties": False,
            "properties": {
                "data": {
                    "description": f"Numbers or text, nested up to {MAX_DIMENSIONS} deep; or flat, with a shape. "
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
