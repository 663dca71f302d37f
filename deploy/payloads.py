"""What a request carried, shown to a person, and written to files that can be tried offline."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.wire import Payload, Raw, Tensor, unpack_payload

SHOWN_TEXT = 200  # characters of a text that are shown


def told_of_payload(packed: bytes | None, file: Path | None, gone: str) -> dict[str, Any]:
    """Return what there is to tell of it, and write it to `file` if there is one; `gone` says why there is nothing.

    Raises SmartBatchError if there is nothing to write.
    """
    if packed is None:
        if file is not None:
            raise SmartBatchError(f"nothing is left to save: what the client sent is {gone}")
        return {"payload": gone}
    payload = unpack_payload(packed)
    told: dict[str, Any] = {"payload": describe(payload)}
    if file is not None:
        told["saved"] = [str(path) for path in save(payload, file)]
    return told


def describe(payload: Payload) -> dict[str, Any]:
    """Return what it is, without its bulk."""
    content: Any = payload.content
    if payload.kind == "tensor":
        told = {"dtype": content.dtype, "shape": list(content.shape)}
    elif payload.kind == "raw":
        told = {"content_type": content.content_type, "bytes": len(content.data)}
    elif payload.kind == "image":
        told = {"images": [_image(image) for image in content]}
    else:
        told = {"texts": [text[:SHOWN_TEXT] for text in content]}
    return {"kind": payload.kind, **told, "options": payload.options}


def save(payload: Payload, file: Path) -> list[Path]:
    """Write what came in a form that `smartbatch predict` takes: the image, a .npy, the raw body, JSON for texts.
    Several images become FILE-1, FILE-2, …; returns the paths."""
    content: Any = payload.content
    if isinstance(content, Tensor):
        from smartbatch.gateway.formats import npy_body

        contents = [npy_body.write(content)]
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


def _image(data: bytes) -> dict[str, Any]:
    """The size is read from the header; the pixels, which may be what ends a process, are not."""
    told: dict[str, Any] = {"bytes": len(data)}
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            told |= {"format": image.format, "width": image.width, "height": image.height}
    except ImportError:
        pass
    except Exception as error:  # whatever a broken file makes of Pillow
        told["unreadable"] = f"{type(error).__name__}: {error}"
    return told
