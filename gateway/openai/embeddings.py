"""POST /v1/embeddings, as OpenAI's clients send it, for any model of text that returns one vector per row."""

from __future__ import annotations

import binascii
from array import array
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from smartbatch.gateway.formats.json_body import inspect
from smartbatch.gateway.formats.row_shapes import check_rows
from smartbatch.gateway.formats.tensor_bytes import in_c_order, to_bytes, to_lists
from smartbatch.gateway.openai.codec import JsonCodec, read_json
from smartbatch.gateway.openai.types import Embedding, EmbeddingsRequest, EmbeddingsResponse, Usage
from smartbatch.shared.errors import BodyTooLarge, InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Tensor

PATH = "/v1/embeddings"
# Lists of token ids are sent to the worker as one tensor, filled up with PAD_ID to the longest.
PAD_ID = -1
MAX_PADDED_IDS = 4_000_000

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]

_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(list[str])
_IDS = msgspec.json.Decoder(list[TokenId])
_ID_LISTS = msgspec.json.Decoder(list[list[TokenId]])


def embeds(info: ModelInfo) -> bool:
    """Return whether a model announces that it makes one vector of each text."""
    takes_text = "text" in info.input.kinds and "raw" not in info.input.kinds
    return takes_text and not info.classifier and len(info.outputs) == 1 and len(info.outputs[0].shape) == 1


class EmbeddingsCodec(JsonCodec):
    path = PATH
    decoder = msgspec.json.Decoder(EmbeddingsRequest)
    dimensions, wanted = 2, "one vector per text, so it gives no embeddings"
    _body: EmbeddingsRequest

    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        request = self._body
        payload = _payload(request.input, max_rows)
        request.input = msgspec.Raw()
        if info is not None:
            _check(payload, request.dimensions, info)
        if request.dimensions:
            payload.options = {"dimensions": request.dimensions}
        return payload

    def _content(self, tensor: Tensor, usage: Usage, model: str, request_id: str) -> EmbeddingsResponse:
        wanted = self._body.dimensions
        if wanted and tensor.shape[1] != wanted:
            raise InvalidInput(
                f"dimensions: the model {model} can't shorten its embeddings of {tensor.shape[1]} numbers"
            )
        vectors = _base64(tensor) if self._body.encoding_format == "base64" else to_lists(tensor)
        return EmbeddingsResponse([Embedding(index, vector) for index, vector in enumerate(vectors)], model, usage)


def _payload(raw: msgspec.Raw, max_rows: int) -> Payload:
    data = memoryview(raw)
    depth, leaf = inspect(data)
    if depth == 0:
        return Payload("text", [read_json(_TEXT, data, "input")])
    if leaf == "text" or bytes(data[:64]).translate(None, b" \t\r\n") == b"[]":
        texts = read_json(_TEXTS, data, "input")
        check_rows(len(texts), max_rows)
        return Payload("text", texts)
    rows = [read_json(_IDS, data, "input")] if depth == 1 else read_json(_ID_LISTS, data, "input")
    check_rows(len(rows), max_rows)
    return Payload("tensor", _tensor(rows))


def _tensor(rows: list[list[int]]) -> Tensor:
    if not all(rows):
        raise InvalidInput("input: a list of token ids is empty")
    longest = max(map(len, rows))
    if len(rows) * longest > MAX_PADDED_IDS:
        raise BodyTooLarge(
            f"input: {len(rows)} lists of up to {longest} token ids are too many for one request; send fewer at once"
        )
    padded = [value for row in rows for value in (*row, *[PAD_ID] * (longest - len(row)))]
    return Tensor("int32", (len(rows), longest), to_bytes(padded, "int32"))


def _check(payload: Payload, dimensions: int | None, info: ModelInfo) -> None:
    takes = info.input
    if info.inputs:
        names = " and ".join(spec.name for spec in info.inputs)
        raise InvalidInput(f"the model {info.name} takes {names:.200}, so it gives no embeddings")
    if info.classifier or "text" not in takes.kinds:
        kind = "is a classifier" if info.classifier else f"takes {' or '.join(takes.kinds)}"
        raise InvalidInput(f"the model {info.name} {kind}, so it gives no embeddings of texts; use /predict")
    if payload.kind == "tensor" and ("tensor" not in takes.kinds or takes.dtype != "int64" or takes.shape != (-1,)):
        raise InvalidInput(f"the model {info.name} takes texts, not token ids")
    (shape, *_) = [output.shape for output in info.outputs] or [()]
    if dimensions and len(shape) == 1 and 0 < shape[0] < dimensions:
        raise InvalidInput(f"dimensions: expected a whole number from 1 to {shape[0]}, got {dimensions}")


def _base64(tensor: Tensor) -> list[str]:
    data: Any = in_c_order(tensor).data
    if tensor.dtype == "float64":
        data = array("f", array("d", bytes(data))).tobytes()
    view, size = memoryview(data), tensor.shape[1] * 4
    return [
        binascii.b2a_base64(view[at * size : (at + 1) * size], newline=False).decode() for at in range(tensor.shape[0])
    ]
