"""A reply becomes the body and headers of a response. All of it lies on the hot path."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from smartbatch.gateway.core.response_types import Answer, Batch, ClassScore, OutputTensor
from smartbatch.gateway.formats import npy_body
from smartbatch.gateway.formats.accept import Format
from smartbatch.gateway.formats.tensor_bytes import to_lists
from smartbatch.shared.errors import NotAcceptable, WireError
from smartbatch.shared.wire import BatchInfo, Reply, Result, Tensor

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

_JSON, _NPY = Format.JSON, Format.NPY  # a name of an Enum takes as long to look up as a small function to call

# msgspec's word for what isn't finite. (A compiled expression finds it in half of the time that `in` takes.)
_has_null = re.compile(rb"null").search
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}

# The stages of a request in their order; the broker's reply knows the middle four.
_WORKER_STAGES = ("queue", "decode", "batch_wait", "forward")


def timing_ms(reply: Reply, *, admit_ms: float, reply_ms: float, total_ms: float) -> dict[str, float]:
    """Return where the time went, in order and rounded to a microsecond. A stage never reached is left out."""
    # int() takes less than half of what round(ms, 3) does.
    timing, came = {"admit": int(admit_ms * 1000 + 0.5) / 1000}, reply.ms
    for stage in _WORKER_STAGES:  # no other name becomes part of a header
        if stage in came:
            timing[stage] = int(came[stage] * 1000 + 0.5) / 1000
    timing["reply"] = int(reply_ms * 1000 + 0.5) / 1000
    timing["total"] = int(total_ms * 1000 + 0.5) / 1000
    return timing


def render(chosen: Format, reply: Reply, *, model: str, request_id: str, timing: dict[str, float]) -> bytes:
    """Return the body. The reply holds a result, not an error.

    Numbers that JSON has no word for become text there, "NaN", "Infinity" and "-Infinity" (as in protobuf's JSON:
    Python's float() and JavaScript's Number() read them, and null would be any of the three); npy and MessagePack
    keep them.
    Raises NotAcceptable if npy was asked for and the model's answer isn't one tensor.
    """
    result = reply.result
    if result is None:
        raise WireError("the reply has no result")
    if chosen is _NPY:
        return npy_body.write(_only_tensor(result))
    answer = Answer(model=model, request_id=request_id, timing_ms=timing)
    if result.classes is not None:
        answer.predictions = [
            [ClassScore(label, index, probability) for index, label, probability in row] for row in result.classes
        ]
    elif result.outputs is not None:
        data_of = to_lists if chosen is _JSON else _data
        answer.outputs = {
            name: OutputTensor(tensor.dtype, tensor.shape, data_of(tensor)) for name, tensor in result.outputs.items()
        }
    else:
        answer.values = result.values or []
    if (batch_info := reply.batch) is not None:
        answer.batch = Batch(
            batch_info.id,
            batch_info.rows,
            batch_info.requests,
            batch_info.position,
            batch_info.closed,
            batch_info.worker,
        )
    if chosen is not _JSON:
        return _encode_msgpack(answer)
    encoded = _encode_json(answer)
    if _has_null(encoded):
        encoded = _encode_json(finite(msgspec.to_builtins(answer)))
    return encoded


def response_headers(request_id: str, batch: BatchInfo | None, timing: dict[str, float]) -> list[tuple[bytes, bytes]]:
    """Return the headers that say which request this was, what it rode in and where its time went (in ms)."""
    # As JSON has it but for the marks: that takes half of what formatting each number does.
    stages = _encode_json(timing)[1:-1].replace(b'"', b"").replace(b":", b";dur=").replace(b",", b", ")
    headers = [(b"x-request-id", request_id.encode("latin-1", "replace")), (b"server-timing", stages)]
    if batch is not None:
        headers.append((b"x-batch-rows", b"%d" % batch.rows))
        headers.append((b"x-batch-closed", batch.closed.encode("latin-1", "replace")))
    return headers


def finite(value: Any) -> Any:
    """Return the same with text for each number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN")
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def _data(tensor: Tensor) -> bytes | bytearray | memoryview:
    if tensor.order != "C":
        raise WireError("an output tensor must be in C order")
    return tensor.data


def _only_tensor(result: Result) -> Tensor:
    if result.outputs is None:
        raise NotAcceptable("the model's output is not a tensor and can't be sent as npy; use Accept: application/json")
    if len(result.outputs) != 1:
        names = ", ".join(result.outputs)
        raise NotAcceptable(f"npy holds one tensor, but the model has {len(result.outputs)} outputs ({names:.200})")
    return next(iter(result.outputs.values()))
