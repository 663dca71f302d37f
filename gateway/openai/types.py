"""The bodies of requests and responses under /v1. Fields of requests that aren't here are ignored: clients send more of
them than any server knows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Positive = Annotated[int, Meta(ge=1)]


class EmbeddingsRequest(msgspec.Struct):
    """`input`: a string, a list of strings, a list of token ids, or a list of such lists. `dimensions`: keep this many
    numbers of each embedding."""

    input: msgspec.Raw
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None


class Embedding(msgspec.Struct):
    """`embedding` is base64 of little-endian float32 if `encoding_format` is base64."""

    index: int
    embedding: Any  # list[float] | str; converted already
    object: Literal["embedding"] = "embedding"


class Usage(msgspec.Struct):
    """Tokens of all texts, special ones included; 0 if the model doesn't count them."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(msgspec.Struct):
    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class RerankDocument(msgspec.Struct):
    text: str


class RerankRequest(msgspec.Struct):
    """`top_n`: how many results to return, the best; all if it is missing."""

    query: str | RerankDocument
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1)]
    model: str = ""
    top_n: Positive | None = None
    return_documents: bool | None = None


class RerankResult(msgspec.Struct):
    """`index`: the document's position in the request."""

    index: int
    relevance_score: float
    document: RerankDocument | UnsetType = UNSET


class RerankResponse(msgspec.Struct):
    """The best document first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: Usage


class ModelEntry(msgspec.Struct):
    id: str
    object: Literal["model"] = "model"
    created: int = 0  # unknown
    owned_by: str = "smartbatch"


class ModelList(msgspec.Struct):
    data: list[ModelEntry]
    object: Literal["list"] = "list"


class ErrorBody(msgspec.Struct):
    """`code` is that of the error in any other protocol."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    code: str
    param: str | None = None


class ErrorResponse(msgspec.Struct):
    error: ErrorBody
