"""POST /v1/rerank, as Cohere's and Jina's clients send it, for a model with the inputs `query` and `document`."""

from __future__ import annotations

import msgspec

from smartbatch.gateway.formats.json_body import MAX_LISTS
from smartbatch.gateway.formats.named_inputs import NOT_ANNOUNCED
from smartbatch.gateway.formats.row_shapes import check_rows
from smartbatch.gateway.formats.tensor_bytes import to_lists
from smartbatch.gateway.openai.codec import JsonCodec
from smartbatch.gateway.openai.types import RerankDocument, RerankRequest, RerankResponse, RerankResult, Usage
from smartbatch.shared.errors import BodyTooLarge, InvalidInput, Unavailable
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Tensor

PATH = "/v1/rerank"
INPUTS = {"query", "document"}
MAX_QUERY_CHARS = 16 * 1024 * 1024  # of all copies of the query: each row has one


class RerankCodec(JsonCodec):
    path = PATH
    decoder = msgspec.json.Decoder(RerankRequest)
    dimensions, wanted = 1, "one score per document, so it is no reranker"
    _body: RerankRequest

    def read_body(self, body: bytes) -> None:
        if body.count(b"{") > MAX_LISTS:  # an upper bound of the objects that would be made
            raise BodyTooLarge(f"a request may have at most {MAX_LISTS:,} documents")
        super().read_body(body)

    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        if info is None:
            raise Unavailable(NOT_ANNOUNCED)
        if {spec.name for spec in info.inputs} != INPUTS:
            raise InvalidInput(f"the model {info.name} is no reranker: it takes no query and document")
        query, texts = _text(self._body.query), [_text(document) for document in self._body.documents]
        check_rows(len(texts), max_rows)
        if len(query) * len(texts) > MAX_QUERY_CHARS:
            raise BodyTooLarge(f"a query of {len(query)} characters is too long for {len(texts)} documents")
        if not self._body.return_documents:
            self._body.documents = []
        columns = {"query": Payload("text", [query] * len(texts)), "document": Payload("text", texts)}
        return Payload("inputs", {spec.name: columns[spec.name] for spec in info.inputs})

    def _content(self, tensor: Tensor, usage: Usage, model: str, request_id: str) -> RerankResponse:
        results = [RerankResult(index, score) for index, score in enumerate(to_lists(tensor))]
        results.sort(key=lambda result: -result.relevance_score)
        del results[self._body.top_n or len(results) :]
        if self._body.return_documents:
            for result in results:
                result.document = RerankDocument(_text(self._body.documents[result.index]))
        return RerankResponse(request_id, model, results, usage)


def _text(document: str | RerankDocument) -> str:
    return document if isinstance(document, str) else document.text
