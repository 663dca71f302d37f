"""Payloads of requests: described for a terminal, and saved to files that can be sent again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec

from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.wire import Payload, Raw, Tensor, unpack_payload

MAX_TEXT_CHARS = 200  # shown of each text


def payload_fields(packed: bytes | None, file: Path | None, missing: str) -> dict[str, Any]:
    """Describe a payload, and save it if `file` is given. `missing` says why `packed` is None.

    Raises SmartBatchError if there is no payload to save.
    """
    if packed is None:
        if file is not None:
            raise SmartBatchError(f"can't save the payload: {missing}")
        return {"payload": missing}
    payload = unpack_payload(packed)
    fields: dict[str, Any] = {"payload": describe(payload)}
    if file is not None:
        fields["saved"] = [str(path) for path in save(payload, file)]
    return fields


def describe(payload: Payload) -> dict[str, Any]:
    """Return the kind, shapes and sizes of a payload, without its data."""
    content: Any = payload.content
    if payload.kind == "inputs":
        fields = {"inputs": {name: _described(each) for name, each in content.items()}}
    else:
        fields = _described(payload)
    return {"kind": payload.kind, **fields, "options": payload.options}


def _described(payload: Payload) -> dict[str, Any]:
    content: Any = payload.content
    if payload.kind == "tensor":
        fields = {"dtype": content.dtype, "shape": list(content.shape)}
    elif payload.kind == "raw":
        fields = {"content_type": content.content_type, "bytes": len(content.data)}
    elif payload.kind == "image":
        fields = {"images": [_image(image) for image in content]}
    else:
        fields = {"texts": [text[:MAX_TEXT_CHARS] for text in content]}
    return fields


def save(payload: Payload, file: Path) -> list[Path]:
    """Save a payload in a format that `smartbatch predict` accepts, and return the paths.

    That is the image, a .npy, the raw body, JSON for texts, or MessagePack for several inputs. Several images become
    FILE-1, FILE-2, ….
    """
    content: Any = payload.content
    if payload.kind == "inputs":
        contents = [msgspec.msgpack.encode({"inputs": {name: _value(each) for name, each in content.items()}})]
    elif isinstance(content, Tensor):
        contents = [_npy(content)]
    elif isinstance(content, Raw):
        contents = [content.data]
    elif payload.kind == "image":
        contents = content
    else:
        contents = [json.dumps({"data": content}, ensure_ascii=False).encode()]
    paths = [file]
    if len(contents) > 1:
        paths = [file.with_stem(f"{file.stem}-{number}") for number in range(1, len(contents) + 1)]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return paths


def _value(payload: Payload) -> Any:
    content: Any = payload.content
    if isinstance(content, Tensor):
        return _npy(content)
    return content.data if isinstance(content, Raw) else content


def _npy(tensor: Tensor) -> bytes:
    from smartbatch.gateway.formats import npy_body

    return npy_body.write(tensor)


def _image(data: bytes) -> dict[str, Any]:
    """Read format and size from the header only: decoding the pixels may have ended the workers."""
    fields: dict[str, Any] = {"bytes": len(data)}
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            fields |= {"format": image.format, "width": image.width, "height": image.height}
    except ImportError:
        pass
    except Exception as error:  # Pillow raises many types for broken files
        fields["unreadable"] = f"{type(error).__name__}: {error}"
    return fields
