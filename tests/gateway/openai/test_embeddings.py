from __future__ import annotations

import base64
import json
import struct

import msgspec
import pytest

from smartbatch.gateway.openai.embeddings import EmbeddingsCodec
from smartbatch.shared.errors import BodyTooLarge, ClientError, InvalidInput, MalformedBody, TooManyRows
from smartbatch.shared.model_info import InputSpec, ModelInfo, OutputSpec
from smartbatch.shared.wire import Payload, Reply, Result, Tensor

TEXT = ModelInfo(
    "m", "p", InputSpec(("text", "tensor"), "int64", (-1,)), 32, (OutputSpec("embedding", "float32", (4,)),)
)


def parse(body: object, info: ModelInfo | None = TEXT) -> tuple[EmbeddingsCodec, Payload]:
    codec, content = EmbeddingsCodec(), body if isinstance(body, bytes) else json.dumps(body).encode()
    codec.read_body(content)
    return codec, codec.parse_body(content, info, 100)


def render(codec: EmbeddingsCodec, result: Result) -> dict:
    response = codec.render_reply(Reply(result), {}, model="m", version=1, request_id="1", client_id="1")
    assert response.status == 200
    return json.loads(response.content)


def vectors(*rows: list[float], code: str = "f") -> Tensor:
    data = struct.pack(f"<{sum(map(len, rows))}{code}", *(value for row in rows for value in row))
    return Tensor("float32" if code == "f" else "float64", (len(rows), len(rows[0])), data)


@pytest.mark.parametrize(
    ("given", "texts"),
    [("a cat", ["a cat"]), (["a", "b"], ["a", "b"]), ("", [""]), ("\u732b", ["猫"]), (['[1, "2"]'], ['[1, "2"]'])],
)
def test_texts(given: object, texts: list[str]) -> None:
    codec, payload = parse({"model": "m", "input": given, "user": "someone", "unknown": 1})
    assert (codec.model, payload.kind, payload.content, payload.options) == ("m", "text", texts, {})


def test_token_ids_become_one_tensor_that_is_filled_up() -> None:
    for given, rows in (([1, 2, 3], [[1, 2, 3]]), ([[1], [2, 3]], [[1, -1], [2, 3]])):
        tensor = parse({"input": given})[1].content
        assert isinstance(tensor, Tensor)
        numbers = [number for row in rows for number in row]
        assert (tensor.dtype, tensor.shape) == ("int32", (len(rows), len(rows[0])))
        assert bytes(tensor.data) == struct.pack(f"<{len(numbers)}i", *numbers)


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({}, InvalidInput, "Object missing required field `input`"),
        (b"", MalformedBody, "the body isn't JSON in UTF-8: Input data was truncated"),
        (b'{"input": "\xff"}', MalformedBody, "the body isn't JSON in UTF-8"),
        (b'{"input": ["\xff"]}', MalformedBody, "the body isn't JSON in UTF-8"),
        (b"[" * 5000, InvalidInput, "Expected `object`, got `array`"),
        ({"input": None}, InvalidInput, "Expected `str`, got `null` - at `input`"),
        ({"input": {"a": 1}}, InvalidInput, "Expected `str`, got `object` - at `input`"),
        ({"input": 5}, InvalidInput, "Expected `str`, got `int` - at `input`"),
        ({"input": ["a", 1]}, InvalidInput, r"Expected `str`, got `int` - at `input\[1\]`"),
        ({"input": [1, "a"]}, InvalidInput, r"Expected `int`, got `str` - at `input\[1\]`"),
        ({"input": [[1], "a"]}, InvalidInput, r"Expected `array`, got `str` - at `input\[1\]`"),
        ({"input": [["a"]]}, InvalidInput, r"Expected `str`, got `array` - at `input\[0\]`"),
        ({"input": [[[1]]]}, InvalidInput, r"Expected `int`, got `array` - at `input\[0\]\[0\]`"),
        ({"input": [1.5]}, InvalidInput, r"Expected `int`, got `float` - at `input\[0\]`"),
        ({"input": [-1]}, InvalidInput, r"Expected `int` >= 0 - at `input\[0\]`"),
        ({"input": [2**31]}, InvalidInput, r"Expected `int` <= 2147483647 - at `input\[0\]`"),
        ({"input": []}, InvalidInput, "the request has no rows"),
        ({"input": [[]]}, InvalidInput, "input: a list of token ids is empty"),
        ({"input": [[1], []]}, InvalidInput, "input: a list of token ids is empty"),
        ({"input": ["a"] * 101}, TooManyRows, "at most 100 rows"),
        ({"input": [[1]] * 101}, TooManyRows, "at most 100 rows"),
        ({"input": "a", "model": 5}, InvalidInput, "Expected `str`, got `int` - at `model`"),
        ({"input": "a", "model": "no such/model"}, ClientError, "model"),
        ({"input": "a", "encoding_format": "hex"}, InvalidInput, "Invalid enum value 'hex' - at `encoding_format`"),
        ({"input": "a", "dimensions": 0}, InvalidInput, "Expected `int` >= 1 - at `dimensions`"),
        ({"input": "a", "dimensions": 5}, InvalidInput, "dimensions: expected a whole number from 1 to 4, got 5"),
    ],
)
def test_what_is_wrong_is_said(body: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse(body)


def test_token_ids_that_are_filled_up_to_too_many_are_refused() -> None:
    with pytest.raises(BodyTooLarge, match="100 lists of up to 100000 token ids are too many for one request"):
        parse({"input": [[1] * 100_000, *[[1]] * 99]})


@pytest.mark.parametrize(
    ("info", "given", "said"),
    [
        (msgspec.structs.replace(TEXT, input=InputSpec(("image", "tensor"))), "a", "m takes image or tensor, so it"),
        (msgspec.structs.replace(TEXT, classifier=True), "a", "the model m is a classifier, so it gives no embeddings"),
        (msgspec.structs.replace(TEXT, input=InputSpec(("text",))), [1], "the model m takes texts, not token ids"),
        (
            msgspec.structs.replace(TEXT, inputs=(InputSpec(("text",), name="query"), InputSpec(("text",), name="b"))),
            "a",
            "the model m takes query and b, so it gives no embeddings",
        ),
    ],
)
def test_models_that_give_no_embeddings_are_refused(info: ModelInfo, given: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse({"input": given}, info)


def test_a_response_has_the_vectors_as_numbers_or_base64() -> None:
    for code in "fd":
        result = Result(outputs={"x": vectors([1, 2], [3, 4.5], code=code)}, tokens=7)
        numbers = render(parse({"input": ["a", "b"]})[0], result)
        assert numbers == {
            "object": "list",
            "model": "m",
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
            "data": [
                {"object": "embedding", "index": 0, "embedding": [1.0, 2.0]},
                {"object": "embedding", "index": 1, "embedding": [3.0, 4.5]},
            ],
        }
        encoded = render(parse({"input": ["a", "b"], "encoding_format": "base64"})[0], result)
        assert base64.b64decode(encoded["data"][1]["embedding"]) == struct.pack("<2f", 3, 4.5)


@pytest.mark.parametrize(
    "result",
    [
        Result(values=[{"a": 1}]),
        Result(classes=[[(0, "cat", 1.0)]]),
        Result(outputs={"x": Tensor("int64", (1, 1), bytes(8))}),
        Result(outputs={"x": Tensor("float32", (1,), bytes(4))}),
        Result(outputs={"x": vectors([1]), "y": vectors([1])}),
    ],
)
def test_other_results_are_no_embeddings(result: Result) -> None:
    with pytest.raises(InvalidInput, match="the model m doesn't return one vector per text"):
        render(parse({"input": "a"}, None)[0], result)


def test_a_model_that_ignores_dimensions_is_an_error() -> None:
    codec, payload = parse({"input": "a", "dimensions": 2}, None)
    assert payload.options == {"dimensions": 2}
    with pytest.raises(InvalidInput, match="dimensions: the model m can't shorten its embeddings of 3 numbers"):
        render(codec, Result(outputs={"x": vectors([1, 2, 3])}))


def test_errors_have_openais_form() -> None:
    response = EmbeddingsCodec().render_error(InvalidInput("no"), request_id="1", client_id="mine")
    assert (response.status, dict(response.headers)) == (
        422,
        {b"content-type": b"application/json", b"x-request-id": b"mine"},
    )
    assert json.loads(response.content) == {
        "error": {"message": "no", "type": "invalid_request_error", "code": "invalid_input", "param": None}
    }
