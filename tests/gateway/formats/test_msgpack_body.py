from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.formats import parse
from smartbatch.shared.errors import ClientError, InvalidInput, MalformedBody, TooManyRows
from smartbatch.shared.wire import Payload, Tensor

PNG = b"\x89PNG\r\n\x1a\n rest"


def read(body: object, max_rows: int = 8) -> Payload:
    raw = body if isinstance(body, bytes) else msgpack.packb(body)
    assert raw is not None
    return parse(raw, "application/msgpack", None, max_rows=max_rows)


def test_bytes_with_shape_and_dtype_are_passed_on_unchanged():
    body = {"data": b"\x01\x00\x02\x00", "shape": [2, 1], "dtype": "int16"}
    assert read(body) == Payload("tensor", Tensor("int16", (2, 1), b"\x01\x00\x02\x00"))


@pytest.mark.parametrize("missing", ["shape", "dtype"])
def test_bytes_need_shape_and_dtype(missing):
    body = {"data": b"\x01", "shape": [1], "dtype": "int8"}
    del body[missing]
    with pytest.raises(InvalidInput, match="needs shape and dtype"):
        read(body)


def test_bytes_of_the_wrong_length_are_malformed():
    with pytest.raises(MalformedBody, match="needs 8 bytes, got 7"):
        read({"data": b"1234567", "shape": [2], "dtype": "float32"})


def test_lists_and_text_are_parsed_as_in_json():
    assert read({"data": [[1, 2.5]]}) == Payload("tensor", Tensor("float32", (1, 2), struct.pack("<2f", 1, 2.5)))
    assert read({"data": list(range(20)), "dtype": "uint8"}).content == Tensor("uint8", (1, 20), bytes(range(20)))
    assert read({"data": ["a", "b" * 300]}) == Payload("text", ["a", "b" * 300])
    assert read({"data": "a"}) == Payload("text", ["a"])


def test_images_are_one_row_each():
    assert read({"image": PNG}) == Payload("image", [PNG])
    assert read({"image": [PNG, PNG]}) == Payload("image", [PNG, PNG])
    with pytest.raises(TooManyRows):
        read({"image": [PNG] * 3}, max_rows=2)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image": []},
        {"image": b"GIF89a"},
        {"image": PNG, "data": [1]},
        {"image": "text"},
        {"data": [b"bytes"]},
        {"data": {}},
        {"data": []},
        {"data": None},
        {"data": msgpack.ExtType(1, b"x")},
        {"data": [1], "other": 1},
        {"data": [1, True]},
        {"data": [float("inf")]},
        {1: 2},
        [1],
    ],
)
def test_other_forms_are_invalid(body):
    with pytest.raises(InvalidInput):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\xa4data" + b"\xdd\xff\xff\xff\xff" * 1000,
        b"\x81\xa4data" + b"\x91" * 100_000 + b"\x00",
        b"\x81\xa5image\xdd\xff\xff\xff\xff",
        b"\x81\xa4data\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa4data\xc1",
        b"\x81\xa4data\xa1\xff",
        b"\x81\xa4dat\xff\x01",
        b"\x81\xa4data\x01\x01",
    ],
)
def test_bombs_and_broken_bodies_are_malformed(body):
    with pytest.raises(MalformedBody):
        read(body)


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda tail: b"\x81\xa4data" + tail))
def test_any_bytes_are_parsed_or_rejected_as_a_client_error(body):
    try:
        payload = read(body)
    except ClientError:
        return
    assert payload.rows >= 1
