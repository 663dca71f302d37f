"""Long JSON lists, cut in pieces: the same numbers, shapes and errors as when read whole."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.formats import large_lists, parse
from smartbatch.shared.errors import ClientError, InvalidInput, TooManyRows
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Tensor

ANY = ModelInfo("m", "m", InputSpec(("tensor", "text")), 4)
IRIS = ModelInfo("m", "m", InputSpec(("tensor",), "float32", (4,)), 4)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_lists, "PIECE_BYTES", 40)


def read(body: Any, info: ModelInfo | None = ANY, max_rows: int = 1000) -> Payload:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(body, "application/json", info, max_rows=max_rows)


def array(payload: Payload) -> np.ndarray:
    tensor = payload.content
    assert isinstance(tensor, Tensor)
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", ":")]),
    st.booleans(),
)
def test_the_numbers_are_those_that_numpy_reads(shape: list[int], separators: tuple[str, str], spaced: bool) -> None:
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
        ([[1] * 100, [1] * 99], "data is ragged: lists of shape [100] and of [99]"),
        ([1] * 50 + [[1]], "got `array` - at `data[50]`"),
        ([[1]] * 50 + [1], "got `int` - at `data[50]`"),
        ([1] * 50 + ["1,2", "3"], "data[50]"),
        ([[1, 2]] * 50 + [["],[", "],"] * 20], "data"),
        ([[]] * 100, "data is empty"),
    ],
)
def test_a_wrong_element_is_named_as_counted_from_the_start(data: list, parsed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read({"data": data})
    assert parsed in str(caught.value)


nested = st.recursive(
    st.integers(-3, 300) | st.floats(-1, 1) | st.sampled_from(["],[", '"', "1,2", None, True, {}, []]),
    lambda inner: st.lists(inner, max_size=8) | st.integers(1, 8).flatmap(lambda n: inner.map(lambda one: [one] * n)),
    max_leaves=6,
)


@given(st.lists(nested, max_size=8))
def test_any_list_is_read_as_when_read_whole_or_refused_as_then(data: list) -> None:
    body = json.dumps({"data": data}).encode()
    outcomes = []
    for piece_bytes in (40, 1 << 20):
        large_lists.PIECE_BYTES = piece_bytes  # small_pieces puts it back
        try:
            outcomes.append(read(body))
        except ClientError as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


def test_more_numbers_than_the_model_takes_are_refused_by_their_commas() -> None:
    assert array(read({"data": [[1, 2, 3, 4]] * 4}, IRIS, 4)).shape == (4, 4)
    for data in ([[1, 2, 3, 4]] * 5, [1] * 17, [[]] * 17, [[[[1]]]] * 17):
        with pytest.raises(TooManyRows, match=r"at most 4 rows \(MAX_BATCH_SIZE\) of shape \[4\], which is 16 numbers"):
            read({"data": data}, IRIS, 4)


def test_more_rows_than_the_model_takes_are_refused_before_the_rest_is_read() -> None:
    with pytest.raises(TooManyRows, match="at most 4 rows"):
        read(b'{"data": [' + b"[1, 2, 3], " * 100 + b'["no number"]]}', max_rows=4)


def test_more_texts_than_rows_are_refused_before_they_are_read() -> None:
    assert read({"data": ['a",' * 20] * 4}, max_rows=4).rows == 4
    with pytest.raises(TooManyRows, match="more texts came"):
        read(b'{"data": [' + b'"a" , ' * 8 + b'"b"]}', max_rows=4)


def test_long_lists_in_messagepack_are_sent_to_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_lists, "MAX_MSGPACK_BYTES", 100)
    for count, taken in ((90, True), (120, False)):
        body = msgpack.packb({"data": [1] * count}) or b""
        if taken:
            assert parse(body, "application/msgpack", ANY, max_rows=4).rows == 1
            continue
        with pytest.raises(InvalidInput, match="up to 100 bytes, not 123; send data as bytes, with shape and dtype"):
            parse(body, "application/msgpack", ANY, max_rows=4)


def test_half_a_character_is_named() -> None:
    for text, parsed in ((rb"\ud800", r"\\ud800"), (rb"a\ud83d\ude00\udC00", r"\\udC00"), (rb"\\\udfff", r"\\udfff")):
        with pytest.raises(ClientError, match=parsed + " is a lone surrogate"):
            read(b'{"data": "' + text + b'"}')
    assert read(rb'{"data": "\\ud800 \ud83d\ude00"}').content == [r"\ud800 😀"]
