from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.formats import parse
from smartbatch.shared.errors import InvalidInput, MalformedBody, SmartBatchError, TooManyRows, UnsupportedMedia
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Raw, Tensor


def model(*kinds, shape=None, dtype=None) -> ModelInfo:
    return ModelInfo("m", "m", InputSpec(kinds or ("tensor",), dtype, shape), 8)


def read(body: object, info: ModelInfo | None = None, max_rows: int = 8) -> Payload:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(raw, "application/json", info, max_rows=max_rows)


def tensor(body: object, info: ModelInfo | None = None, max_rows: int = 8) -> Tensor:
    payload = read(body, info, max_rows)
    assert payload.kind == "tensor"
    assert isinstance(payload.content, Tensor)
    return payload.content


def test_flat_list_without_a_declared_shape_is_one_row():
    assert tensor({"data": [1, 2.5]}) == Tensor("float32", (1, 2), struct.pack("<2f", 1, 2.5))


def test_nested_list_determines_shape_and_rows():
    assert tensor({"data": [[1, 2, 3], [4, 5, 6]]}).shape == (2, 3)


@pytest.mark.parametrize(
    ("row", "body", "shape"),
    [
        ((2, 2), {"data": [1, 2, 3, 4]}, (1, 2, 2)),
        ((2, 2), {"data": [0] * 12}, (3, 2, 2)),
        ((2, 2), {"data": [[1, 2], [3, 4]]}, (1, 2, 2)),
        ((2, 2), {"data": [[[1, 2], [3, 4]]]}, (1, 2, 2)),
        ((2, 2), {"data": [1, 2, 3, 4], "shape": [2, 2]}, (1, 2, 2)),
        ((2, 2), {"data": [1, 2, 3, 4], "shape": [1, 2, 2]}, (1, 2, 2)),
        ((2, 2), {"data": [[1, 2, 3, 4]], "shape": [2, 2]}, (1, 2, 2)),
        ((-1,), {"data": [1, 2, 3]}, (1, 3)),
        ((-1,), {"data": [[1, 2, 3], [4, 5, 6]]}, (2, 3)),
        ((3, -1), {"data": [[[1], [2], [3]]]}, (1, 3, 1)),
        ((3, -1), {"data": [1, 2, 3], "shape": [3, 1]}, (1, 3, 1)),
        ((3,), {"data": [1, 2, 3, 4, 5, 6]}, (2, 3)),
        ((), {"data": [7, 8]}, (2,)),
        ((), {"data": [7], "shape": []}, (1,)),
    ],
)
def test_rows_follow_the_shape_of_the_models_row(row, body, shape):
    assert tensor(body, model(shape=row)).shape == shape


@pytest.mark.parametrize(
    ("row", "body", "expected", "actual"),
    [
        ((3, 224, 224), {"data": [0] * 10}, "150528", "10"),
        ((2, 2), {"data": [[1, 2, 3]]}, "[2, 2]", "[1, 3]"),
        ((2, 2), {"data": [1, 2, 3], "shape": [2, 2]}, "4", "3"),
        ((3, -1), {"data": [1, 2, 3]}, "[3, -1]", "3"),
        ((3, -1), {"data": [[[1], [2]]]}, "[3, -1]", "[1, 2, 1]"),
        ((2,), {"data": [[[1, 2]]]}, "[2]", "[1, 1, 2]"),
    ],
)
def test_wrong_shape_is_rejected_with_expected_and_actual_shape(row, body, expected, actual):
    with pytest.raises(InvalidInput) as rejected:
        read(body, model(shape=row))
    assert expected in rejected.value.detail
    assert actual in rejected.value.detail


@pytest.mark.parametrize(
    ("dtype", "values", "packed"),
    [
        ("uint8", [0, 255], b"\x00\xff"),
        ("int8", [-128, 127], b"\x80\x7f"),
        ("uint16", [1, 65535], b"\x01\x00\xff\xff"),
        ("int16", [-2], b"\xfe\xff"),
        ("uint32", [2**32 - 1], b"\xff" * 4),
        ("int32", [-(2**31)], b"\x00\x00\x00\x80"),
        ("int64", [2**63 - 1], b"\xff" * 7 + b"\x7f"),
        ("uint64", [2**64 - 1], b"\xff" * 8),
        ("float16", [1.5], b"\x00\x3e"),
        ("bfloat16", [1.0, 3.14159], b"\x80\x3f\x49\x40"),
        ("float32", [1], b"\x00\x00\x80\x3f"),
        ("float64", [1e300], struct.pack("<d", 1e300)),
        ("bool", [True, False], b"\x01\x00"),
    ],
)
def test_each_dtype_is_packed_as_its_bytes(dtype, values, packed):
    assert tensor({"data": values, "dtype": dtype}) == Tensor(dtype, (1, len(values)), packed)


@pytest.mark.parametrize(
    ("dtype", "values", "text"),
    [
        ("uint8", [0, 256], "data[1]"),
        ("uint8", [-1], "data[0]"),
        ("int64", [2**63], "data[0]"),
        ("uint64", [1, 2**64], "element 1"),
        ("int32", [1, 1.5], "data[1]"),
        ("float32", [1, 1e300], "data[1]"),
        ("float32", [1, "a"], "data[1]"),
        ("float32", [[1, 2], [3, None]], "data[1][1]"),
        ("float32", [1, True], "data[1]"),
        ("float32", [1, [2]], "data[1]"),
        ("float32", [[1], 2], "data[1]"),
        ("float16", [70000], "data[0]"),
        ("bool", [1], "data[0]"),
        ("text", [1], "float32"),
    ],
)
def test_number_that_the_dtype_cannot_hold_is_named_by_its_position(dtype, values, text):
    with pytest.raises(InvalidInput) as rejected:
        read({"data": values, "dtype": dtype})
    assert text in rejected.value.detail


@pytest.mark.parametrize(
    "data", [[], [[]], [[], []], [[[]]], 5, True, None, {}, [{}], [[1, 2], [3]], [[[1], [2]], [[1]]]]
)
def test_empty_ragged_and_scalar_data_are_rejected(data):
    with pytest.raises(InvalidInput):
        read({"data": data})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"data":[NaN]}',
        b'{"data":[Infinity]}',
        b'{"data":[1,]}',
        b'{"data":[1]}x',
        b'{"data":["\xff"]}',
        b'{"da\xffta":[1]}',
        b'{"data":["\\ud800"]}',
        b'{"data":' + b"[" * 100_000,
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_malformed_json_has_its_own_error(body):
    with pytest.raises(MalformedBody):
        read(body)


def test_nesting_up_to_32_dimensions_is_accepted():
    assert tensor(b'{"data":' + b"[" * 32 + b"1" + b"]" * 32 + b"}").shape == (1,) * 32
    with pytest.raises(InvalidInput, match="32 dimensions, got 33"):
        read(b'{"data":' + b"[" * 33 + b"1" + b"]" * 33 + b"}")


def test_unknown_field_is_rejected_and_the_known_ones_named():
    with pytest.raises(InvalidInput, match="`inputs`; known fields are data, shape, dtype"):
        read({"data": [1], "inputs": [2]})


@pytest.mark.parametrize("shape", [[-1, 2], ["2"], 2, [1.5], [2**60], [1] * 33, {}])
def test_invalid_shape_is_rejected(shape):
    with pytest.raises(InvalidInput):
        read({"data": [1, 2], "shape": shape})


def test_each_string_is_a_row_of_text():
    assert read({"data": "a"}, model("text")) == Payload("text", ["a"])
    assert read({"data": ["ä", ""]}, model("text")) == Payload("text", ["ä", ""])


@pytest.mark.parametrize("body", [{"data": ["a"], "dtype": "float32"}, {"data": [["a"]]}, {"data": ["a", 1]}])
def test_text_is_a_string_or_a_flat_list_of_strings(body):
    with pytest.raises(InvalidInput):
        read(body, model("text"))


def test_text_for_a_tensor_model_is_unsupported_and_names_the_accepted_kinds():
    with pytest.raises(UnsupportedMedia, match="takes tensor"):
        read({"data": ["a"]}, model("tensor"))


@pytest.mark.parametrize("body", [{"data": [[1], [2], [3]]}, {"data": ["a", "b", "c"]}])
def test_more_rows_than_a_request_may_have_are_rejected_and_the_setting_named(body):
    with pytest.raises(TooManyRows, match=r"2 rows \(MAX_REQUEST_ROWS\), got 3"):
        read(body, max_rows=2)


def test_dtype_defaults_to_the_models():
    assert tensor({"data": [1]}, model(dtype="int64")).dtype == "int64"
    assert tensor({"data": [1], "dtype": "uint8"}, model(dtype="int64")).dtype == "uint8"


@pytest.mark.parametrize(
    ("dtype_of_model", "kinds", "actual", "passes"),
    [
        ("float32", ("tensor",), "float64", True),
        ("float32", ("tensor",), "bfloat16", True),
        ("float32", ("tensor",), "uint8", False),
        ("float32", ("image", "tensor"), "uint8", True),
        ("float32", ("image", "tensor"), "int64", False),
        ("int64", ("tensor",), "uint8", True),
        ("int64", ("tensor",), "float32", False),
        ("bool", ("tensor",), "uint8", False),
    ],
)
def test_dtypes_of_the_same_kind_are_accepted(dtype_of_model, kinds, actual, passes):
    info = model(*kinds, dtype=dtype_of_model)
    if passes:
        assert tensor({"data": [1], "dtype": actual}, info).dtype == actual
    else:
        with pytest.raises(InvalidInput, match=f"{dtype_of_model}.*got {actual}"):
            read({"data": [1], "dtype": actual}, info)


@pytest.mark.parametrize("body", [b'{"prompt":"hi"}', b"[1,2]", b"3"])
def test_other_json_goes_to_a_raw_model_unchanged(body):
    expected = Payload("raw", Raw(body, "application/json"))
    assert read(body, model("raw", "tensor")) == expected
    with pytest.raises(InvalidInput):
        read(body, model("tensor"))


def test_json_of_our_form_is_also_validated_for_a_raw_model():
    with pytest.raises(InvalidInput):
        read({"data": [1], "extra": 1}, model("raw", "tensor"))


@pytest.mark.parametrize(
    "body", [b'{"prompt":NaN}', b'{"x":1,"data":[1}', b'{"x":"\\ud800"}', b'{"dtype":3,"data":NaN}']
)
def test_malformed_json_is_also_rejected_for_a_raw_model(body):
    with pytest.raises(MalformedBody):
        read(body, model("raw", "tensor"))


nested = st.recursive(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
    lambda inner: inner.map(lambda x: [x, x]),
    max_leaves=6,
)


@given(nested)
def test_nested_lists_round_trip(data):
    got = tensor({"data": data}, max_rows=64)
    array = np.array(data, dtype=np.float32)
    assert got.shape == (array.shape if array.ndim > 1 else (1, *array.shape))
    assert got.data == array.tobytes()


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries({"data": json_like}, optional={"shape": json_like, "dtype": json_like | st.just("int8")}),
    st.sampled_from([None, model(shape=(2,)), model("text"), model("raw", "tensor"), model(dtype="bool")]),
)
def test_any_json_is_parsed_or_rejected_with_a_known_error(body, info):
    try:
        payload = read(body, info)
    except SmartBatchError as rejected:
        assert isinstance(rejected, (InvalidInput, MalformedBody, TooManyRows, UnsupportedMedia))
    else:
        assert 1 <= payload.rows <= 8
