"""Renders responses of POST /predict: content negotiation (RFC 9110, section 12.5.1), body and headers."""

from __future__ import annotations

import enum
import math
import re
from typing import Any

import msgspec
from msgspec import UNSET

from smartbatch.gateway.core.response_types import Batch, ClassScore, OutputTensor, PredictResponse, RowError
from smartbatch.gateway.formats import npy_body
from smartbatch.gateway.formats.tensor_bytes import in_c_order, to_lists
from smartbatch.shared.errors import NotAcceptable, WireError
from smartbatch.shared.wire import BatchInfo, Reply, Result, Tensor

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

# msgspec writes null for numbers that aren't finite. (A compiled expression is twice as fast as `in`.)
_has_null = re.compile(rb"null").search
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}

# In the order in which a request passes through them.
_WORKER_STAGES = ("queue", "decode", "batch_wait", "forward")

# The Accept headers of nearly all clients. All mean JSON.
_ANY = ("", "*/*", "application/json")


class Format(enum.Enum):
    """Formats by media type, in order of preference if a client accepts several equally. `header`: Content-Type."""

    JSON = "application/json"
    NPY = "application/x-npy"
    MSGPACK = "application/msgpack"

    def __init__(self, media_type: str) -> None:
        self.header = (b"content-type", media_type.encode())


_NAMES = {
    "application/json": Format.JSON,
    "application/x-npy": Format.NPY,
    "application/msgpack": Format.MSGPACK,
    "application/x-msgpack": Format.MSGPACK,
    "application/vnd.msgpack": Format.MSGPACK,
}
_JSON, _NPY = Format.JSON, Format.NPY  # looking up an Enum's member costs as much as a small function call


def negotiate(accept: str) -> Format:
    """Choose the format of a response. Raises NotAcceptable.

    The highest q wins. Of equal ones, a format that is named precedes one that a wildcard matches, so that
    `application/x-npy, */*` means npy.
    """
    if accept in _ANY:
        return _JSON
    # Each format takes the q of the most specific range that matches it: (specificity, q).
    found: dict[Format, tuple[int, float]] = {}
    for media_range in accept.split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name in _NAMES:
            specificity, formats = 2, [_NAMES[name]]
        elif name in ("application/*", "*/*"):
            specificity, formats = int(name != "*/*"), list(Format)
        else:
            continue
        quality = _quality(parameters)
        for each in formats:
            found[each] = max(found.get(each, (0, 0.0)), (specificity, quality))
    accepted = [each for each in Format if found.get(each, (0, 0.0))[1] > 0]
    if not accepted:
        offered = ", ".join(each.value for each in Format)
        raise NotAcceptable(f"Accept: expected {offered}, got {accept[:100]!r}")
    return max(accepted, key=lambda each: (found[each][1], found[each][0]))


def _quality(parameters: list[str]) -> float:
    """Return q from 0 to 1. An invalid one counts as absent."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 1.0
            return quality if 0 <= quality <= 1 else 1.0
    return 1.0


def timing_ms(reply: Reply, *, admit_ms: float, reply_ms: float, total_ms: float) -> dict[str, float]:
    """Return the time of each stage, in order and rounded to a microsecond. Stages not reached are left out."""
    # int() takes less than half the time of round(ms, 3).
    timing, worker_ms = {"admit": int(admit_ms * 1000 + 0.5) / 1000}, reply.ms
    for stage in _WORKER_STAGES:  # other names must not reach the header
        if stage in worker_ms:
            timing[stage] = int(worker_ms[stage] * 1000 + 0.5) / 1000
    timing["reply"] = int(reply_ms * 1000 + 0.5) / 1000
    timing["total"] = int(total_ms * 1000 + 0.5) / 1000
    return timing


def render(
    chosen: Format, reply: Reply, *, model: str, version: int = 1, request_id: str, timing: dict[str, float]
) -> bytes:
    """Render the result of a reply.

    JSON can't express NaN and infinities, so they become the strings "NaN", "Infinity" and "-Infinity", as in
    protobuf's JSON: Python's float() and JavaScript's Number() parse them. npy and MessagePack keep the numbers.
    Raises NotAcceptable if npy was requested and the result isn't one tensor.
    """
    result = reply.result
    if result is None:
        raise WireError("the reply has no result")
    if chosen is _NPY:
        return npy_body.write(_only_tensor(result))
    response = PredictResponse(model=model, version=version, request_id=request_id, timing_ms=timing)
    if result.classes is not None:
        response.predictions = [
            [ClassScore(label, index, probability) for index, label, probability in row] for row in result.classes
        ]
    elif result.outputs is not None:
        data_of = to_lists if chosen is _JSON else _data
        response.outputs = {
            name: OutputTensor(tensor.dtype, tensor.shape, data_of(tensor)) for name, tensor in result.outputs.items()
        }
    else:
        response.values = result.values or []
    if result.errors:
        _add_failed_rows(response, result)
    if (batch := reply.batch) is not None:
        response.batch = Batch(batch.id, batch.rows, batch.requests, batch.position, batch.closed, batch.worker)
    if chosen is not _JSON:
        return _encode_msgpack(response)
    encoded = _encode_json(response)
    if _has_null(encoded):
        encoded = _encode_json(finite(msgspec.to_builtins(response)))
    return encoded


def response_headers(request_id: str, batch: BatchInfo | None, timing: dict[str, float]) -> list[tuple[bytes, bytes]]:
    """Return the headers for the request's id, its timing in ms and its batch."""
    # Converted from JSON, which takes half the time of formatting each number.
    stages = _encode_json(timing)[1:-1].replace(b'"', b"").replace(b":", b";dur=").replace(b",", b", ")
    headers = [(b"x-request-id", request_id.encode("latin-1", "replace")), (b"server-timing", stages)]
    if batch is not None:
        headers.append((b"x-batch-rows", b"%d" % batch.rows))
        headers.append((b"x-batch-closed", batch.closed.encode("latin-1", "replace")))
    return headers


def finite(value: Any) -> Any:
    """Replace numbers that JSON can't express by strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN")
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def _add_failed_rows(response: PredictResponse, result: Result) -> None:
    """Add the errors, and placeholders for the rows that failed."""
    response.errors = [RowError(row, error.code, error.detail) for row, error in sorted(result.errors.items())]
    for row in sorted(result.errors):
        if response.predictions:
            response.predictions.insert(row, None)
        elif response.outputs:
            for output in response.outputs.values():
                _insert_row(output, row)
        elif response.values is not UNSET:
            response.values.insert(row, None)


def _insert_row(output: OutputTensor, row: int) -> None:
    rows, *shape = output.shape
    if isinstance(output.data, list):
        output.data.insert(row, None)
    else:
        size = len(output.data) // rows
        data = bytes(output.data)
        output.data = data[: row * size] + bytes(size) + data[row * size :]
    output.shape = (rows + 1, *shape)


def _data(tensor: Tensor) -> bytes | bytearray | memoryview:
    return in_c_order(tensor).data


def _only_tensor(result: Result) -> Tensor:
    if result.outputs is None:
        raise NotAcceptable("the model's output is not a tensor and can't be sent as npy; use Accept: application/json")
    if len(result.outputs) != 1:
        names = ", ".join(result.outputs)
        raise NotAcceptable(f"npy holds one tensor, but the model has {len(result.outputs)} outputs ({names:.200})")
    return next(iter(result.outputs.values()))
