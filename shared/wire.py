"""The msgpack values that cross the broker: what a request carries, and what a reply carries.

Versioned (`v`), checked on reading, and never pickle. A tensor is {dtype, shape, data} with C-order little-endian
bytes (`order: "F"` when a client sent Fortran order; only readers that compute need to care).

Payload  {v, kind, content, options}
    kind     content
    image    [encoded image, …]                       one row each
    tensor   {dtype, shape, data}                     the first dimension is rows
    text     [str, …]                                 one row each
    raw      {data, content_type}                     one row
    options  {top_k: n} and whatever else a model understands

Reply    {v, result, batch, ms} or {v, error: {code, detail}, batch, ms}
    result   {classes: [[[index, label, probability], …] per row]}
             {outputs: {name: tensor}}                the first dimension is rows
             {values: [anything per row]}
    batch    {id, rows, requests, closed, worker, deliveries}; absent if the entry never rode in one
    ms       {queue, decode, batch_wait, forward}
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgpack
import msgspec

from shared.errors import SmartBatchError, WireError, from_wire

VERSION = 1

Kind = Literal["image", "tensor", "text", "raw"]

# numpy's names; sizes in bytes
DTYPE_BYTES = {
    "bool": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}

MAX_DIMENSIONS = 32


class Tensor(msgspec.Struct):
    """Raw bytes with their meaning. `len(data)` is the product of `shape` times the dtype's size (checked)."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview
    order: Literal["C", "F"] = "C"

    def check(self) -> None:
        size = DTYPE_BYTES.get(self.dtype)
        if size is None:
            raise WireError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPE_BYTES)}")
        if len(self.shape) > MAX_DIMENSIONS or any(not isinstance(n, int) or n < 0 for n in self.shape):
            raise WireError(f"a shape is at most {MAX_DIMENSIONS} non-negative integers, not {self.shape!r:.200}")
        expected = math.prod(self.shape) * size
        if len(self.data) != expected:
            raise WireError(
                f"{self.dtype} of shape {list(self.shape)} takes {expected} bytes, but {len(self.data)} came"
            )

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"dtype": self.dtype, "shape": self.shape, "data": self.data}
        if self.order != "C":
            wire["order"] = self.order
        return wire

    @classmethod
    def from_wire(cls, wire: Any) -> Tensor:
        try:
            tensor = cls(wire["dtype"], tuple(wire["shape"]), wire["data"], wire.get("order", "C"))
        except (TypeError, KeyError, AttributeError) as error:
            raise WireError(f"not a tensor: {error!r}") from None
        tensor.check()
        return tensor


class Raw(msgspec.Struct):
    """A body passed on as it came."""

    data: bytes
    content_type: str


Content = list[bytes] | Tensor | list[str] | Raw


class Payload(msgspec.Struct):
    """What a request carries to the worker."""

    kind: Kind
    content: Content
    options: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        if isinstance(self.content, Tensor):
            return self.content.shape[0]
        return 1 if isinstance(self.content, Raw) else len(self.content)


def pack_payload(payload: Payload) -> bytes:
    content: Any = payload.content
    if isinstance(content, Tensor):
        content = content.to_wire()
    elif isinstance(content, Raw):
        content = {"data": content.data, "content_type": content.content_type}
    return _pack({"v": VERSION, "kind": payload.kind, "content": content, "options": payload.options})


def unpack_payload(data: bytes) -> Payload:
    wire = _unpack(data)
    try:
        kind, content, options = wire["kind"], wire["content"], wire["options"]
        if kind == "tensor":
            content = Tensor.from_wire(content)
        elif kind == "raw":
            content = Raw(content["data"], content["content_type"])
        elif kind not in ("image", "text"):
            raise WireError(f"unknown payload kind {kind!r}")
    except (KeyError, TypeError) as error:
        raise WireError(f"not a payload: {error!r}") from None
    return Payload(kind, content, options)


class Ride(msgspec.Struct):
    """The batch that a request rode in."""

    id: str
    rows: int
    requests: int
    closed: str
    worker: str
    deliveries: int = 1


class Result(msgspec.Struct):
    """What the model made of one request; exactly one of the three is set."""

    classes: list[list[list[Any]]] | None = None
    outputs: dict[str, Tensor] | None = None
    values: list[Any] | None = None


class Reply(msgspec.Struct):
    """The outcome of one request: a result or an error, and where the time went."""

    result: Result | None = None
    error: SmartBatchError | None = None
    batch: Ride | None = None
    ms: dict[str, float] = {}


def pack_reply(reply: Reply) -> bytes:
    wire: dict[str, Any] = {"v": VERSION, "ms": reply.ms}
    if reply.batch is not None:
        ride = reply.batch
        wire["batch"] = {
            "id": ride.id,
            "rows": ride.rows,
            "requests": ride.requests,
            "closed": ride.closed,
            "worker": ride.worker,
            "deliveries": ride.deliveries,
        }
    if reply.error is not None:
        wire["error"] = {"code": reply.error.code, "detail": reply.error.detail}
    elif reply.result is not None:
        wire["result"] = _result_to_wire(reply.result)
    else:
        raise WireError("a reply holds a result or an error")
    return _pack(wire)


def unpack_reply(data: bytes) -> Reply:
    wire = _unpack(data)
    try:
        batch = Ride(**wire["batch"]) if "batch" in wire else None
        if "error" in wire:
            return Reply(error=from_wire(wire["error"]["code"], wire["error"]["detail"]), batch=batch, ms=wire["ms"])
        result = wire["result"]
        outputs = result.get("outputs")
        if outputs is not None:
            outputs = {name: Tensor.from_wire(tensor) for name, tensor in outputs.items()}
        return Reply(Result(result.get("classes"), outputs, result.get("values")), None, batch, wire["ms"])
    except (KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not a reply: {error!r}") from None


def _result_to_wire(result: Result) -> dict[str, Any]:
    if result.outputs is not None:
        return {"outputs": {name: tensor.to_wire() for name, tensor in result.outputs.items()}}
    if result.classes is not None:
        return {"classes": result.classes}
    return {"values": result.values}


def _pack(wire: dict[str, Any]) -> bytes:
    packed = msgpack.packb(wire, use_bin_type=True)
    assert packed is not None
    return packed


def _unpack(data: bytes) -> dict[str, Any]:
    try:
        wire = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.ExtraData) as error:
        raise WireError(f"not msgpack: {error}") from None
    if not isinstance(wire, dict) or wire.get("v") != VERSION:
        version = wire.get("v") if isinstance(wire, dict) else None
        raise WireError(f"expected wire version {VERSION}, got {version!r}")
    return wire
