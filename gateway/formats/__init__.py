"""Body formats: one file per request format turns a body into a Payload; render.py renders responses.

Images stay encoded, and numbers become bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from smartbatch.gateway.formats import (
    image_body,
    json_body,
    msgpack_body,
    multipart_body,
    npy_body,
    npz_body,
    text_body,
)
from smartbatch.shared.errors import MalformedBody, UnsupportedMedia
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Kind, Payload, Raw


class _Reader(NamedTuple):
    read: Callable[[bytes, str, ModelInfo | None, int], Payload]
    kinds: frozenset[Kind]


_JSON = _Reader(json_body.read, frozenset({"tensor", "text", "inputs"}))
_IMAGE = _Reader(image_body.read, frozenset({"image"}))
_MSGPACK = _Reader(msgpack_body.read, frozenset({"tensor", "text", "image", "inputs"}))

_READERS: dict[str, _Reader] = {
    "application/json": _JSON,
    **dict.fromkeys(image_body.MEDIA_TYPES, _IMAGE),
    "application/x-npy": _Reader(npy_body.read, frozenset({"tensor"})),
    "application/x-npz": _Reader(npz_body.read, frozenset({"inputs"})),
    "application/msgpack": _MSGPACK,
    "multipart/form-data": _Reader(multipart_body.read, frozenset({"image", "tensor", "inputs"})),
    "text/plain": _Reader(text_body.read, frozenset({"text"})),
}
_ALIASES = {
    "application/x-msgpack": "application/msgpack",
    "application/vnd.msgpack": "application/msgpack",
    "image/jpg": "image/jpeg",
    "application/zip": "application/x-npz",
    "application/x-zip-compressed": "application/x-npz",
}
# Content types that say nothing about the body; the last is what `curl --data-binary @cat.jpg` sends.
_UNSPECIFIC = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_OCTETS = "application/octet-stream"


def parse(body: bytes, content_type: str, info: ModelInfo | None, *, max_rows: int) -> Payload:
    """Turn a request's body into the payload for the worker.

    Without `info` every well-formed body is accepted. A body of an unknown format goes to a model of kind "raw"
    unchanged. Raises a ClientError that says what was expected and what came.
    """
    if info is not None and info.input.kinds == ("raw",):
        return Payload("raw", Raw(body, content_type or _OCTETS))
    media = media_type(content_type)
    if media in _UNSPECIFIC:
        media = _sniff(body) or media
    reader = _READERS.get(media)
    if reader is None:
        return _as_raw(body, content_type, media, info)
    if info is not None and reader.kinds.isdisjoint(info.input.kinds):
        return _as_raw(body, content_type or media, media, info)
    if not body:
        raise MalformedBody("the body is empty")
    payload = reader.read(body, content_type or media, info, max_rows)
    if info is not None and payload.kind not in (*info.input.kinds, "raw"):
        return _as_raw(body, content_type or media, f"{payload.kind} in {media}", info)
    return payload


def media_type(content_type: str) -> str:
    """Return the media type without parameters, in lower case, and aliases replaced."""
    media = content_type.partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)


def accepted_media_types(info: ModelInfo | None) -> list[str]:
    """List the content types that this model accepts."""
    if info is None:
        return list(_READERS)
    return [media for media, reader in _READERS.items() if not reader.kinds.isdisjoint(info.input.kinds)]


def _sniff(body: bytes) -> str:
    if image_body.is_image(body):
        return "image/jpeg"
    if body.startswith(npy_body.MAGIC):
        return "application/x-npy"
    if body.startswith(npz_body.MAGIC):
        return "application/x-npz"
    if body.startswith(msgpack_body.INPUTS):
        return "application/msgpack"
    return "application/json" if body[:64].lstrip().startswith(b"{") else ""


def _as_raw(body: bytes, content_type: str, media: str, info: ModelInfo | None) -> Payload:
    takes_raw = "raw" in info.input.kinds if info is not None else not media.startswith("image/")
    if takes_raw:
        return Payload("raw", Raw(body, content_type or _OCTETS))
    if not body:
        raise MalformedBody("the body is empty")
    what = repr(media[:80]) if media not in _UNSPECIFIC else "a body of unknown type"
    takes = ""
    if info is not None and info.inputs:
        takes = f"the model takes several inputs by name ({', '.join(spec.name for spec in info.inputs):.200}): "
    elif info is not None:
        takes = f"the model takes {' or '.join(info.input.kinds)}: "
    raise UnsupportedMedia(f"{takes}expected {', '.join(accepted_media_types(info))}, got {what}")
