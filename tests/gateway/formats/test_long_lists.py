"""Long lists in JSON and MessagePack: their values, the element that an error names, and their limits."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.formats import json_body, msgpack_body, parse
from smartbatch.gateway.oip import rest_request
from smartbatch.shared.errors import BodyTooLarge, ClientError, InvalidInput, TooManyRows
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Tensor

ANY = ModelInfo("m", "m", InputSpec(("tensor", "text")), 4)
IRIS = ModelInfo("m", "m", InputSpec(("tensor",), "float32", (4,)), 4)


def read(body: Any, info: ModelInfo | None = ANY, max_rows: int = 1000) -> Payload:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(body, "application/json", info, max_rows=max_rows)


def read_msgpack(body: Any, info: ModelInfo | None = ANY, max_rows: int = 1000) -> Payload:
    return parse(msgpack.packb(body) or b"", "application/msgpack", info, max_rows=max_rows)


def infer(datatype: str, shape: list[int], data: bytes) -> Payload:
    tensor = b'{"name": "input", "datatype": "%b", "shape": %b, "data": %b}'
    body = b'{"inputs": [' + tensor % (datatype.encode(), json.dumps(shape).encode(), data) + b"]}"
    return rest_request.read(body, None, None, 1000)[0]


def array(payload: Payload) -> np.ndarray:
    tensor = payload.content
    assert isinstance(tensor, Tensor)
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", ":")]),
    st.booleans(),
)
def test_numbers_equal_those_of_numpy(shape: list[int], separators: tuple[str, str], spaced: bool) -> None:
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) * 1.25
    text = json.dumps({"data": numbers.tolist()}, separators=separators)
    if spaced:
        text = text.replace("[", " [ ").replace("]", "\n] ")
    expected = numbers if len(shape) > 1 else numbers[None]
    np.testing.assert_array_equal(array(read(text.encode())), expected)


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        ([1] * 50 + ["x"] + [1] * 50, "got `str` - at `data[50]`"),
        ([1] * 50 + [None], "got `null` - at `data[50]`"),
        ([[1, 2]] * 50 + [[1, None]], "got `null` - at `data[50][1]`"),
        ([[1] * 100, [1] * 70 + [True]], "got `bool` - at `data[1][70]`"),
        ([[[1] * 100]] * 3 + [[[1] * 99 + ["1"]]], "got `str` - at `data[3][0][99]`"),
        ([[1, 2]] * 50 + [[1, 2, 3]], "ragged"),
        ([[1] * 100, [1] * 99], "data is ragged: lists of 99 and of 100 elements in dimension 1"),
        ([1] * 50 + [[1]], "got `array` - at `data[50]`"),
        ([[1]] * 50 + [1], "got `int` - at `data[50]`"),
        ([1] * 50 + ["1,2", "3"], "data[50]"),
        ([[1, 2]] * 50 + [["],[", "],"] * 20], "data"),
        ([[]] * 100, "data is empty"),
    ],
)
def test_an_error_names_the_element(data: list, parsed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read({"data": data})
    assert parsed in str(caught.value)


nested = st.recursive(
    st.integers(-3, 300) | st.floats(-1, 1) | st.sampled_from(["],[", '"', "1,2", None, True, {}, []]),
    lambda inner: st.lists(inner, max_size=8) | st.integers(1, 8).flatmap(lambda n: inner.map(lambda one: [one] * n)),
    max_leaves=6,
)


@given(st.lists(nested, max_size=8))
def test_json_and_msgpack_accept_and_reject_the_same_lists(data: list) -> None:
    outcomes = []
    for reader in (read, read_msgpack):
        try:
            outcomes.append(reader({"data": data}))
        except ClientError as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


def test_more_rows_than_the_model_accepts_are_rejected() -> None:
    assert array(read({"data": [[1, 2, 3, 4]] * 4}, IRIS, 4)).shape == (4, 4)
    for data in ([[1, 2, 3, 4]] * 5, [1] * 20):
        with pytest.raises(TooManyRows, match=r"at most 4 rows \(MAX_REQUEST_ROWS\), got 5"):
            read({"data": data}, IRIS, 4)
    for reader in (read, read_msgpack):
        assert reader({"data": ['a",' * 20] * 4}, max_rows=4).rows == 4
        with pytest.raises(TooManyRows, match=r"at most 4 rows \(MAX_REQUEST_ROWS\), got 5"):
            reader({"data": ["a"] * 5}, max_rows=4)


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "MAX_ELEMENTS", 100)
    monkeypatch.setattr(json_body, "MAX_LISTS", 30)
    monkeypatch.setattr(msgpack_body, "MAX_LIST_BYTES", 100)


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize(
    ("most", "more"),
    [
        pytest.param([1] * 100, [1] * 101, id="numbers"),
        pytest.param([[1] * 50] * 2, [[1] * 51] * 2, id="numbers in rows"),
        pytest.param([[1, 2]] * 29, [[1, 2]] * 30, id="lists"),
        pytest.param([[[1]]] * 14, [[[1]]] * 15, id="lists in lists"),
        pytest.param(["ab"] * 100, ["ab"] * 101, id="texts"),
        pytest.param(["a, [b], c" * 50] * 2, ["a"] * 101, id="commas and brackets in texts"),
    ],
)
def test_json_lists_have_a_limit_of_elements_and_of_lists(most: list, more: list) -> None:
    assert read({"data": most}).rows >= 1
    with pytest.raises(BodyTooLarge) as caught:
        read({"data": more})
    assert str(caught.value) == (
        "data in JSON may have at most 100 elements and 30 lists; send larger tensors as application/x-npy, or as "
        "application/msgpack with data as bytes (in /v2: as binary data after the JSON)"
    )


@pytest.mark.usefixtures("low_limits")
def test_the_json_of_an_infer_request_has_the_same_limits() -> None:
    assert infer("FP32", [1, 100], b"[" + b"1," * 99 + b"1]").rows == 1
    assert infer("BYTES", [29, 1], b"[" + b'["a"],' * 28 + b'["a"]]').rows == 29
    for datatype, shape, data in (
        ("FP32", [1, 101], b"[" + b"1," * 100 + b"1]"),
        ("FP32", [30, 1], b"[" + b"[1]," * 29 + b"[1]]"),
        ("BYTES", [30, 1], b"[" + b'["a"],' * 29 + b'["a"]]'),
        ("BYTES", [101], b"[" + b'"a",' * 100 + b'"a"]'),
    ):
        with pytest.raises(BodyTooLarge, match="in /v2: as binary data after the JSON"):
            infer(datatype, shape, data)


@pytest.mark.usefixtures("low_limits")
def test_longer_lists_in_msgpack_must_be_sent_as_bytes() -> None:
    assert read_msgpack({"data": [1] * 90}).rows == 1
    assert read_msgpack({"data": ["a" * 200]}).rows == 1
    assert read_msgpack({"data": bytes(400), "shape": [1, 100], "dtype": "float32"}).rows == 1
    with pytest.raises(BodyTooLarge, match=r"at most 100 bytes, got 123; send data as bytes with shape and dtype"):
        read_msgpack({"data": [1] * 120})


def test_the_announced_length_of_a_msgpack_list_is_checked_first() -> None:
    count = json_body.MAX_ELEMENTS + 1
    body = b"\x81\xa4data\xdd" + count.to_bytes(4, "big") + b"\xa0" * count
    with pytest.raises(InvalidInput, match=f"length <= {count - 1}"):
        parse(body, "application/msgpack", ANY, max_rows=4)


def test_a_lone_surrogate_is_rejected_by_position() -> None:
    for text, parsed in ((rb"\ud800", r"\\ud800"), (rb"a\ud83d\ude00\udC00", r"\\udC00"), (rb"\\\udfff", r"\\udfff")):
        with pytest.raises(ClientError, match=parsed + " is a lone surrogate"):
            read(b'{"data": "' + text + b'"}')
    assert read(rb'{"data": "\\ud800 \ud83d\ude00"}').content == [r"\ud800 😀"]
