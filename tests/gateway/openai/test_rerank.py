from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from smartbatch.gateway.openai.rerank import RerankCodec
from smartbatch.shared.errors import BodyTooLarge, InvalidInput, TooManyRows, Unavailable
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Reply, Result, Tensor

INPUTS = (InputSpec(("text",), name="document"), InputSpec(("text",), name="query"))
RERANKER = ModelInfo("m", "p", InputSpec(("inputs",)), 32, inputs=INPUTS)
BODY = {"query": "q", "documents": ["a", {"text": "b"}, "c"]}


def parse(body: object, info: ModelInfo | None = RERANKER) -> tuple[RerankCodec, Payload]:
    codec, content = RerankCodec(), json.dumps(body).encode()
    codec.read_body(content)
    return codec, codec.parse_body(content, info, 100)


def render(codec: RerankCodec, *scores: float, tokens: int = 0) -> dict:
    tensor = Tensor("float32", (len(scores),), struct.pack(f"<{len(scores)}f", *scores))
    result = Result(outputs={"score": tensor}, tokens=tokens)
    response = codec.render_reply(Reply(result), {}, model="m", version=1, request_id="1", client_id="1")
    return json.loads(response.content)


def test_each_document_is_a_row_with_the_query() -> None:
    content: Any = parse(BODY)[1].content
    assert list(content) == ["document", "query"]  # the model's order
    assert content["document"].content == ["a", "b", "c"]
    assert content["query"].content == ["q", "q", "q"]


def test_results_are_sorted_and_name_their_documents() -> None:
    assert render(parse(BODY)[0], 0.25, 0.75, 0.5, tokens=9) == {
        "id": "1",
        "model": "m",
        "results": [
            {"index": 1, "relevance_score": 0.75},
            {"index": 2, "relevance_score": 0.5},
            {"index": 0, "relevance_score": 0.25},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


def test_top_n_and_the_documents_are_options() -> None:
    answer = render(parse({**BODY, "top_n": 2, "return_documents": True})[0], 0.25, 0.75, 0.25)
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.75, "document": {"text": "b"}},
        {"index": 0, "relevance_score": 0.25, "document": {"text": "a"}},  # of equal ones the first
    ]
    assert len(render(parse({**BODY, "top_n": 50})[0], 1, 2, 3)["results"]) == 3


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({"documents": ["a"]}, InvalidInput, "Object missing required field `query`"),
        ({"query": "q"}, InvalidInput, "Object missing required field `documents`"),
        ({"query": "q", "documents": []}, InvalidInput, "Expected `array` of length >= 1 - at `documents`"),
        ({"query": "q", "documents": "a"}, InvalidInput, "Expected `array`, got `str` - at `documents`"),
        ({"query": "q", "documents": ["a", 1]}, InvalidInput, r"Expected `str \| object`, got `int` - at `documents\["),
        ({"query": ["q"], "documents": ["a"]}, InvalidInput, r"Expected `str \| object`, got `array` - at `query`"),
        ({**BODY, "top_n": 0}, InvalidInput, "Expected `int` >= 1 - at `top_n`"),
        ({"query": "q", "documents": ["a"] * 101}, TooManyRows, "at most 100 rows"),
        ({"query": "q" * 200_000, "documents": ["a"] * 100}, BodyTooLarge, "200000 characters is too long for 100"),
        ({"query": "q", "documents": ["{" * 200_000]}, BodyTooLarge, "at most 131,072 documents"),
    ],
)
def test_what_is_wrong_is_said(body: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse(body)


def test_other_models_are_no_rerankers() -> None:
    with pytest.raises(InvalidInput, match="the model m is no reranker: it takes no query and document"):
        parse(BODY, ModelInfo("m", "p", InputSpec(("text",)), 32))
    with pytest.raises(Unavailable):
        parse(BODY, None)
    reply = Reply(Result(values=[1, 2, 3]))
    with pytest.raises(InvalidInput, match="doesn't return one score per document"):
        parse(BODY)[0].render_reply(reply, {}, model="m", version=1, request_id="1", client_id="1")
