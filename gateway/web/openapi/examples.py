"""Example bodies for the models that are served, made from what their workers announced.

Each is a body that the gateway accepts for its model; whether the values make sense to the model, it cannot know.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from smartbatch.gateway import formats
from smartbatch.gateway.oip import signature
from smartbatch.gateway.oip.datatypes import BYTES, dtype_of
from smartbatch.gateway.oip.signature import TensorSignature
from smartbatch.gateway.web.openapi.inputs import INPUTS
from smartbatch.gateway.web.openapi.parts import JSON, Json
from smartbatch.shared.model_info import InputSpec, ModelInfo

MAX_NUMBERS = 1024  # of a row; an example of more would be pages long
IMAGE = "/docs/example.png"  # web/docs/pages.py serves it
TEXT = "a text"
_OCTETS = "application/octet-stream"
_MULTIPART = "multipart/form-data"
_FILE: Json = {"type": "string", "format": "binary"}


def request_content(models: Sequence[ModelInfo]) -> Json:
    """Describe the bodies of POST /predict that these models take, those of the first model first."""
    content: Json = {}
    for info in models:
        for media in _media_types(info):
            described = content.setdefault(media, dict(INPUTS.get(media, {}), examples={}))
            if example := _example(media, info):
                described["examples"][info.id] = {"summary": _summary(info, models), **example}
            if media == _MULTIPART and info is models[0]:
                described["schema"] = {**described["schema"], "properties": _fields(info)}
    return {
        media: {key: value for key, value in described.items() if value or key != "examples"}
        for media, described in content.items()
    }


def infer_examples(models: Sequence[ModelInfo]) -> Json:
    """Return the examples of the Open Inference Protocol's infer request, by model ID."""
    found = {info.id: [_tensor(forms) for forms in signature.inputs(info)] for info in models}
    return {
        each: {"summary": f"For the model {each}", "value": {"inputs": inputs}}
        for each, inputs in found.items()
        if all(inputs)
    }


def _media_types(info: ModelInfo) -> list[str]:
    """List the media types that the model takes, what is easiest to try first."""
    accepted = formats.accepted_media_types(info)
    if "raw" in info.input.kinds:
        accepted += [media for media in ("text/plain", _OCTETS) if media not in accepted]
    if JSON in accepted and json_body(info) is None:  # the example would be too long, or an image in base64
        accepted.remove(JSON)
    return accepted


def _summary(info: ModelInfo, models: Sequence[ModelInfo]) -> str:
    query = [f"model={info.name}"] * (info.name != models[0].name)
    query += [f"version={info.version}"] * (sum(each.name == info.name for each in models) > 1)
    return f"{info.id} (?{'&'.join(query)})" if query else info.id


def _example(media: str, info: ModelInfo) -> Json | None:
    if media == JSON:
        return {"value": json_body(info)}
    if media == "text/plain":
        return {"value": TEXT}
    return {"externalValue": IMAGE} if media == "image/png" else None


def json_body(info: ModelInfo) -> Json | None:
    """Return a JSON body with one row; None if the model takes none, or it would be too long."""
    if info.inputs:
        values = {spec.name: _value(spec, spec.kinds) for spec in info.inputs}
        return None if None in values.values() else {"inputs": values}
    kinds = [kind for kind in info.input.kinds if kind in ("tensor", "text")]
    value = _value(info.input, kinds)
    return None if value is None else {"data": value}


def _value(spec: InputSpec, kinds: Iterable[str]) -> Any:
    """Return one row of an input as JSON; None if it is too long."""
    for kind in kinds:
        if kind == "tensor":
            shape = (1, 2) if spec.shape is None else (1, *map(abs, spec.shape))
            if _fits(shape):
                return _zeros(shape, spec.dtype)
        elif kind == "text":
            return [TEXT]
        else:
            return [base64.b64encode(_image() if kind == "image" else TEXT.encode()).decode()]
    return None


def _fields(info: ModelInfo) -> Json:
    """Describe the fields of a multipart body."""
    if not info.inputs:
        return {"image" if "image" in info.input.kinds else "rows.npy": _FILE}
    return {spec.name: _field(spec) for spec in info.inputs}


def _field(spec: InputSpec) -> Json:
    kind, value = spec.kinds[0], _value(spec, spec.kinds)
    if kind in ("image", "raw") or value is None:
        return _FILE
    return {"type": "string", "examples": [TEXT if kind == "text" else msgspec.json.encode(value).decode()]}


def _tensor(forms: list[TensorSignature]) -> Json | None:
    """Return one row of an input; None if it is too long in each form that the input has."""
    for form in forms:
        shape = (1, *map(abs, form.shape[1:]))
        described = {"name": form.name, "shape": shape, "datatype": form.datatype}
        if form.datatype != BYTES:
            if _fits(shape):
                return {**described, "data": _zeros(shape, dtype_of(form.datatype))}
        elif form.kind == "image":
            data = base64.b64encode(_image()).decode()
            return {**described, "shape": (1,), "parameters": {"content_type": "base64"}, "data": [data]}
        else:
            return {**described, "shape": (1,), "data": [TEXT]}
    return None


def _fits(shape: Iterable[int]) -> bool:
    return math.prod(shape) <= MAX_NUMBERS


def _zeros(shape: Sequence[int], dtype: str | None) -> Any:
    if not shape:
        return False if dtype == "bool" else 0
    return [_zeros(shape[1:], dtype)] * shape[0]


@functools.cache
def _image() -> bytes:
    return (Path(__file__).parents[1] / "docs/example.png").read_bytes()
