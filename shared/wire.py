"""The MessagePack values on the broker: payloads of requests, and replies.

They have a version (`v`) and are never pickled. Unpacking validates every field. A tensor is {dtype, shape, data} with
C-order little-endian bytes (`order: "F"` if a client sent Fortran order; only code that computes needs to handle it).

Payload  {v, kind, content, options}
    kind     content
    image    [encoded image, …]                       one row each
    tensor   {dtype, shape, data}                     the first dimension is rows
    text     [str, …]                                 one row each
    raw      {data, content_type}                     one row
    inputs   {name: payload of another kind, …}       for a model with several inputs; all have the same number of rows
    options  {top_k: n}, and other options of the model

Reply    {v, result, batch, ms} or {v, error: {code, detail}, batch, ms}
    result   {classes: [[(index, label, probability), …] per row]}
             {outputs: {name: tensor}}                the first dimension is rows
             {values: [anything per row]}
             a text model adds tokens: how many all rows had
             a partial result also has errors: {row: {code, detail}}; the field above then lacks these rows
    batch    {id, rows, requests, closed, worker, deliveries, position}; absent if the entry was in no batch
    ms       {queue, decode, batch_wait, forward}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta

from smartbatch.shared.errors import SmartBatchError, WireError, from_wire

VERSION = 1

Kind = Literal["image", "tensor", "text", "raw", "inputs"]
Order = Literal["C", "F"]

# dtype names of numpy, sizes in bytes
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
MAX_INPUTS = 64

INPUT_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,63}\Z"  # also used as argument and file names
InputName = Annotated[str, Meta(pattern=INPUT_NAME)]

Shape = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=MAX_DIMENSIONS)]
if TYPE_CHECKING:
    Data = bytes | bytearray | memoryview
else:
    Data = bytes  # unpacking returns bytes; msgspec does not support the union


class Tensor(msgspec.Struct, omit_defaults=True):
    """Raw bytes with dtype and shape. `check` verifies that `len(data)` matches them."""

    dtype: str
    shape: Shape
    data: Data
    order: Order = "C"

    def check(self) -> None:
        size = DTYPE_BYTES.get(self.dtype)
        if size is None:
            raise WireError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPE_BYTES)}")
        expected = math.prod(self.shape) * size
        if len(self.data) != expected:
            raise WireError(f"{self.dtype} of shape {list(self.shape)} needs {expected} bytes, got {len(self.data)}")
        # In C++ any other byte in a bool is undefined behaviour.
        if self.dtype == "bool" and bytes(self.data).translate(None, b"\x00\x01"):
            raise WireError("a bool must be a byte of 0 or 1")

    def split(self, rows: int) -> list[Tensor]:
        """Return tensors of at most `rows` rows each, in order. Call `check` before."""
        total, *row = self.shape
        data, element, per_row = memoryview(self.data), DTYPE_BYTES[self.dtype], math.prod(row)
        parts = []
        for first in range(0, total, rows):
            last = min(first + rows, total)
            if self.order == "C":
                part: Data = data[first * per_row * element : last * per_row * element]
            else:  # Fortran order: the first elements of all rows, then the second elements, …
                part = b"".join(
                    data[(start + first) * element : (start + last) * element]
                    for start in range(0, total * per_row, total)
                )
            parts.append(Tensor(self.dtype, (last - first, *row), part, self.order))
        return parts


class Raw(msgspec.Struct):
    """A request body, unchanged."""

    data: bytes
    content_type: str


class Payload(msgspec.Struct):
    """The input of a request. For kind `inputs`, `content` holds several inputs by name."""

    kind: Kind
    content: list[bytes] | Tensor | list[str] | Raw | dict[str, Payload]
    options: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        content = self.content
        if isinstance(content, Tensor):
            return content.shape[0]
        if isinstance(content, list):
            return len(content)
        return 1 if isinstance(content, Raw) else next(iter(content.values())).rows

    @property
    def partial(self) -> bool:
        """Whether the result may consist of the rows that did not fail."""
        return self.options.get("partial") is True

    @property
    def first_row(self) -> int | None:
        """For a part of a request: the index of its first row in the request."""
        row = self.options.get("first_row")
        return row if isinstance(row, int) else None

    def split(self, rows: int) -> list[Payload]:
        """Return payloads of at most `rows` rows each, in order, with the same options."""
        content = self.content
        if isinstance(content, Raw):
            return [self]
        if isinstance(content, Tensor):
            parts: list[Any] = content.split(rows)
        elif isinstance(content, dict):
            columns = [each.split(rows) for each in content.values()]
            parts = [dict(zip(content, each, strict=True)) for each in zip(*columns, strict=True)]
        else:
            parts = [content[start : start + rows] for start in range(0, len(content), rows)]
        return [Payload(self.kind, part, self.options) for part in parts]


def pack_payload(payload: Payload) -> bytes:
    return _encode(_PackedPayload(VERSION, payload.kind, payload.content, payload.options))


def unpack_payload(data: bytes) -> Payload:
    """Decode and validate a payload. Raises WireError, which names the field."""
    wire = _unpack(_PAYLOAD, data)
    kind = _KINDS[type(wire)]
    if kind == "tensor":
        _check_tensor(wire.content)
    elif kind == "inputs":
        wire.content = _read_inputs(wire.content)
    return Payload(kind, wire.content, wire.options)


class BatchInfo(msgspec.Struct):
    """The batch that a request was in.

    `position` counts the requests of the batch that have a result, from 1; it is 0 for a request without one.
    """

    id: str
    rows: int
    requests: int
    closed: str
    worker: str
    deliveries: int = 1
    position: int = 1


class ErrorInfo(msgspec.Struct):
    """An error as it is written into a reply."""

    code: str
    detail: str


class Result(msgspec.Struct, omit_defaults=True):
    """The model's result for one request; exactly one of the first three fields is set.

    `errors` of a partial result has the failed rows, counted from 0; that field lacks them. `tokens` counts those of
    all rows; 0 unless the model takes text and counts them.
    """

    classes: list[list[tuple[int, str, float]]] | None = None
    outputs: dict[str, Tensor] | None = None
    values: list[Any] | None = None
    errors: dict[int, ErrorInfo] = {}
    tokens: int = 0


class Reply(msgspec.Struct):
    """The outcome of one request: a result or an error, and the time of each part."""

    result: Result | None = None
    error: SmartBatchError | None = None
    batch: BatchInfo | None = None
    ms: dict[str, float] = {}


def pack_reply(reply: Reply) -> bytes:
    if reply.error is not None:
        error = ErrorInfo(reply.error.code, reply.error.detail)
        return _encode(_PackedReply(VERSION, reply.ms, reply.batch, error))
    if reply.result is None:
        raise WireError("a reply must have a result or an error")
    result = reply.result
    if not isinstance(result, Result):  # a model may be user code
        raise TypeError(f"expected a Result from the model, got {type(result).__name__}")
    if (result.classes is None) + (result.outputs is None) + (result.values is None) != 2:
        raise TypeError("a Result must have exactly one of classes, outputs and values")
    return _encode(_PackedReply(VERSION, reply.ms, reply.batch, None, reply.result))


def unpack_reply(data: bytes) -> Reply:
    """Decode and validate a reply. Raises WireError, which names the field."""
    wire = _unpack(_REPLY, data)
    if wire.error is not None:
        return Reply(None, from_wire(wire.error.code, wire.error.detail), wire.batch, wire.ms)
    result: Result | None = wire.result
    if result is None:
        raise WireError("a reply must have a result or an error")
    if (result.classes is None) + (result.outputs is None) + (result.values is None) != 2:
        raise WireError("a result must have exactly one of classes, outputs and values")
    for tensor in (result.outputs or {}).values():
        tensor.check()
    return Reply(result, None, wire.batch, wire.ms)


# --- encoding


def _to_builtin(value: Any) -> Any:
    """Convert subclasses of str, bytes, int and float, which numpy and user models return, to their base class."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(memoryview(value))
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"a value of type {type(value).__name__} can't be serialized")


_encode = msgspec.msgpack.Encoder(enc_hook=_to_builtin).encode


class _PackedPayload(msgspec.Struct):
    v: int
    kind: Kind
    content: Any
    options: dict[str, Any]


class _PackedReply(msgspec.Struct, omit_defaults=True):
    v: int
    ms: dict[str, float]
    batch: BatchInfo | None = None
    error: ErrorInfo | None = None
    result: Result | None = None


# --- decoding


class _Payload(msgspec.Struct, tag_field="kind", kw_only=True):
    v: int = 0  # one of several inputs has none
    options: dict[str, Any]


class _ImagePayload(_Payload, tag="image"):
    content: list[bytes]


class _TextPayload(_Payload, tag="text"):
    content: list[str]


class _TensorPayload(_Payload, tag="tensor"):
    content: Tensor


class _RawPayload(_Payload, tag="raw"):
    content: Raw


_Input = _ImagePayload | _TextPayload | _TensorPayload | _RawPayload


class _InputsPayload(_Payload, tag="inputs"):
    content: Annotated[dict[InputName, _Input], Meta(min_length=1, max_length=MAX_INPUTS)]


_KINDS: dict[type[_Payload], Kind] = {
    _ImagePayload: "image",
    _TextPayload: "text",
    _TensorPayload: "tensor",
    _RawPayload: "raw",
    _InputsPayload: "inputs",
}


class _ReplyWire(msgspec.Struct):
    v: int
    ms: dict[str, float]
    result: Result | None = None
    error: ErrorInfo | None = None
    batch: BatchInfo | None = None


class _Version(msgspec.Struct):
    v: Any = None


def _no_extension(code: int, data: memoryview) -> NoReturn:
    raise ValueError(f"unexpected MessagePack extension type {code}")


def _decoder(form: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(form, ext_hook=_no_extension)


_PAYLOAD = _decoder(_Input | _InputsPayload)
_REPLY = _decoder(_ReplyWire)
_VERSION = _decoder(_Version)


def _check_tensor(tensor: Tensor) -> None:
    tensor.check()
    if not tensor.shape:
        raise WireError("the first dimension of a payload's tensor is its rows, so its shape can't be []")


def _read_inputs(content: Mapping[str, _Input]) -> dict[str, Payload]:
    for part in content.values():
        if isinstance(part, _TensorPayload):
            _check_tensor(part.content)
    inputs = {name: Payload(_KINDS[type(part)], part.content, part.options) for name, part in content.items()}
    check_equal_rows(inputs, WireError)
    return inputs


def check_equal_rows(inputs: Mapping[str, Payload], error: type[SmartBatchError]) -> None:
    """Raise `error` unless all inputs of a request have as many rows."""
    first, *others = inputs
    for name in others:
        if inputs[name].rows != inputs[first].rows:
            raise error(
                f"all inputs of a request must have as many rows, but {first!r} has {inputs[first].rows} "
                f"and {name!r} has {inputs[name].rows}"
            )


def _unpack(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        wire = decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _check_version(data)  # its error is clearer
        raise WireError(f"not a valid value of wire version {VERSION}: {error!s:.200}") from None
    if wire.v != VERSION:
        raise WireError(f"expected wire version {VERSION}, got {wire.v!r:.60}")
    return wire


def _check_version(data: bytes) -> None:
    try:
        version = _VERSION.decode(data).v
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    if version != VERSION:
        raise WireError(f"expected wire version {VERSION}, got {version!r:.60}")
