"""The wire: exact bytes of known values, the same value after a round trip, and WireError for anything else."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInput, QueueFull, SmartBatchError, WireError, by_code
from shared.wire import (
    DTYPE_BYTES,
    Payload,
    Raw,
    Reply,
    Result,
    Ride,
    Tensor,
    pack_payload,
    pack_reply,
    unpack_payload,
    unpack_reply,
)

# --- strategies

names = st.text(max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | names | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(DTYPE_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    order: Any = draw(st.sampled_from(["C", "F"]))
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == "bool":
        data = bytes(byte & 1 for byte in data)
    return Tensor(dtype, shape, data, order)


payloads = st.one_of(
    st.builds(Payload, st.just("image"), st.lists(st.binary(), min_size=1, max_size=4), st.dictionaries(names, plain)),
    st.builds(Payload, st.just("text"), st.lists(names, min_size=1, max_size=4), st.dictionaries(names, plain)),
    st.builds(Payload, st.just("tensor"), tensors(), st.dictionaries(names, plain)),
    st.builds(Payload, st.just("raw"), st.builds(Raw, st.binary(), names), st.dictionaries(names, plain)),
)
guesses = st.lists(st.tuples(st.integers(0, 999), names, st.floats(0, 1)), max_size=3)
results = st.one_of(
    st.builds(lambda rows: Result(classes=rows), st.lists(guesses, min_size=1, max_size=3)),
    st.builds(lambda outputs: Result(outputs=outputs), st.dictionaries(names, tensors(), max_size=3)),
    st.builds(lambda rows: Result(values=rows), st.lists(plain, min_size=1, max_size=3)),
)
rides = st.none() | st.builds(Ride, names, *[st.integers(1, 65536)] * 2, names, names, st.integers(1, 100))
parts = st.dictionaries(st.sampled_from(["queue", "decode", "batch_wait", "forward"]), st.floats(0, 1e6))


def packed(wire: dict) -> bytes:
    data = msgpack.packb(wire)
    assert data is not None
    return data


# --- precise examples


def test_payload_of_images_in_bytes() -> None:
    packed = pack_payload(Payload("image", [b"\xff\xd8", b""], {"top_k": 5}))
    assert msgpack.unpackb(packed) == {
        "v": 1,
        "kind": "image",
        "content": [b"\xff\xd8", b""],
        "options": {"top_k": 5},
    }


def test_payload_of_a_tensor_in_bytes() -> None:
    packed = pack_payload(Payload("tensor", Tensor("uint16", (2, 1), b"\1\0\2\0")))
    assert packed == (
        b"\x84\xa1v\x01\xa4kind\xa6tensor\xa7content\x83\xa5dtype\xa6uint16\xa5shape\x92\x02\x01"
        b"\xa4data\xc4\x04\x01\x00\x02\x00\xa7options\x80"
    )


def test_fortran_order_is_written_and_c_order_is_not() -> None:
    written: list[tuple[Any, dict[str, str]]] = [("F", {"order": "F"}), ("C", {})]
    for order, said in written:
        packed = pack_payload(Payload("tensor", Tensor("bool", (1,), b"\1", order)))
        assert msgpack.unpackb(packed)["content"] == {"dtype": "bool", "shape": [1], "data": b"\1", **said}


def test_reply_with_classes_in_bytes() -> None:
    ride = Ride("w-1", 8, 3, "window", "w", position=2)
    packed = pack_reply(Reply(Result(classes=[[(281, "tabby", 0.5)]]), None, ride, {"queue": 0.25}))
    assert msgpack.unpackb(packed) == {
        "v": 1,
        "ms": {"queue": 0.25},
        "batch": {"id": "w-1", "rows": 8, "requests": 3, "closed": "window", "worker": "w", "deliveries": 1}
        | {"position": 2},
        "result": {"classes": [[[281, "tabby", 0.5]]]},
    }


def test_reply_with_an_error_holds_its_code_and_detail_alone() -> None:
    packed = pack_reply(Reply(error=InvalidInput("expected 3, got 4")))
    assert msgpack.unpackb(packed) == {
        "v": 1,
        "ms": {},
        "error": {"code": "invalid_input", "detail": "expected 3, got 4"},
    }


def test_error_of_a_code_nobody_knows_is_read_as_a_plain_error() -> None:
    packed = msgpack.packb({"v": 1, "ms": {}, "error": {"code": "of_tomorrow", "detail": "text"}})
    assert packed
    error = unpack_reply(packed).error
    assert (type(error), str(error)) == (SmartBatchError, "text")


def test_retryable_error_keeps_its_class() -> None:
    error = unpack_reply(pack_reply(Reply(error=QueueFull("1024 wait")))).error
    assert isinstance(error, QueueFull)
    assert (error.detail, error.retryable) == ("1024 wait", True)


def test_reply_without_a_result_and_an_error_is_never_written() -> None:
    with pytest.raises(WireError, match="a result or an error"):
        pack_reply(Reply())


class Label(str):
    """As lxml and Beautiful Soup have them."""


class Share(float):
    pass


def test_what_is_derived_from_a_text_or_a_number_is_written_as_that() -> None:
    values = [Label("cat"), Share(0.5), {"é": Label("é")}]
    reply = unpack_reply(pack_reply(Reply(Result(values=values))))
    assert reply.result == Result(values=["cat", 0.5, {"é": "é"}])
    assert str(unpack_reply(pack_reply(Reply(error=InvalidInput(Label("no"))))).error) == "no"


def test_what_is_no_result_is_never_written() -> None:
    for wrong in (Result(), Result(classes=[], values=[])):
        with pytest.raises(TypeError, match="one of classes, outputs and values"):
            pack_reply(Reply(wrong))
    with pytest.raises(TypeError, match="a value of complex"):
        pack_reply(Reply(Result(values=[1j])))


@pytest.mark.parametrize(
    ("payload", "rows"),
    [
        (Payload("image", [b"a", b"b"]), 2),
        (Payload("text", ["a"]), 1),
        (Payload("tensor", Tensor("uint8", (3, 2), bytes(6))), 3),
        (Payload("raw", Raw(b"abc", "text/plain")), 1),
    ],
)
def test_rows_of_each_kind(payload: Payload, rows: int) -> None:
    assert payload.rows == rows
    assert unpack_payload(pack_payload(payload)).rows == rows


# --- round trips


@given(payloads)
def test_payload_reads_back_as_it_was_written(payload: Payload) -> None:
    assert unpack_payload(pack_payload(payload)) == payload


@given(results, rides, parts)
def test_reply_with_a_result_reads_back_as_it_was_written(result: Result, ride: Ride | None, ms: dict) -> None:
    reply = Reply(result, None, ride, ms)
    assert unpack_reply(pack_reply(reply)) == reply


@given(st.sampled_from(sorted(by_code())), names, rides, parts)
def test_reply_with_an_error_reads_back_as_it_was_written(code: str, detail: str, ride: Ride | None, ms: dict) -> None:
    reply = unpack_reply(pack_reply(Reply(error=by_code()[code](detail), batch=ride, ms=ms)))
    assert (type(reply.error), str(reply.error)) == (by_code()[code], detail)
    assert (reply.result, reply.batch, reply.ms) == (None, ride, ms)


@given(tensors(), st.sampled_from([bytearray, memoryview]))
def test_tensor_is_written_from_any_buffer(tensor: Tensor, buffer: Any) -> None:
    given_as = Tensor(tensor.dtype, tensor.shape, buffer(tensor.data), tensor.order)
    assert unpack_payload(pack_payload(Payload("tensor", given_as))).content == tensor


# --- what is refused


@pytest.mark.parametrize("unpack", [unpack_payload, unpack_reply])
@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_refused_by_name(unpack: Any, version: Any) -> None:
    packed = msgpack.packb({"v": version, "kind": "text", "content": ["a"], "options": {}, "result": {}, "ms": {}})
    with pytest.raises(WireError) as caught:
        unpack(packed)
    assert str(caught.value) == f"expected wire version 1, got {version!r}"


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({"dtype": "float31"}, "unknown dtype 'float31'; known: bool, uint8"),
        ({"dtype": "float32", "shape": [2], "data": b"1234"}, "float32 of shape [2] takes 8 bytes, but 4 came"),
        ({"shape": [2**62] * 4}, "uint8 of shape [4611686018427387904, 4611686018427387904, 46116860184"),
        ({"dtype": "bool", "data": b"\x02"}, "a bool is a byte of 0 or 1"),
        ({"shape": [], "data": b"1"}, "a payload's tensor has rows as its first dimension, so its shape can't be []"),
        ({"shape": [-1]}, "not of wire version 1: Expected `int` >= 0 - at `$.content.shape[0]`"),
        ({"shape": [1] * 33}, "not of wire version 1: Expected `array` of length <= 32 - at `$.content.shape`"),
        ({"shape": [1.0]}, "not of wire version 1: Expected `int`, got `float` - at `$.content.shape[0]`"),
        ({"shape": [True]}, "not of wire version 1: Expected `int`, got `bool` - at `$.content.shape[0]`"),
        ({"data": "1"}, "not of wire version 1: Expected `bytes`, got `str` - at `$.content.data`"),
        ({"order": "X"}, "not of wire version 1: Invalid enum value 'X' - at `$.content.order`"),
    ],
)
def test_tensor_that_contradicts_itself_is_refused(tensor: dict, said: str) -> None:
    content = {"dtype": "uint8", "shape": [1], "data": b"1"} | tensor
    with pytest.raises(WireError) as caught:
        unpack_payload(packed({"v": 1, "kind": "tensor", "content": content, "options": {}}))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"kind": "text"},
        {"kind": "audio", "content": [], "options": {}},
        {"kind": ["text"], "content": [], "options": {}},
        {"kind": "tensor", "content": [], "options": {}},
        {"kind": "tensor", "content": {"dtype": [], "shape": [1], "data": b"1"}, "options": {}},
        {"kind": "tensor", "content": {"dtype": "uint8", "shape": 1, "data": b"1"}, "options": {}},
        {"kind": "tensor", "content": {"dtype": "uint8", "shape": [1], "data": None}, "options": {}},
        {"kind": "raw", "content": b"x", "options": {}},
        {"kind": "raw", "content": {"data": b"x"}, "options": {}},
        {"kind": "raw", "content": {"data": b"x", "content_type": b"text/plain"}, "options": {}},
        {"kind": "raw", "content": {"data": "x", "content_type": "text/plain"}, "options": {}},
        {"kind": "text", "content": "one text", "options": {}},
        {"kind": "text", "content": [b"bytes"], "options": {}},
        {"kind": "text", "content": ["a", None], "options": {}},
        {"kind": "image", "content": ["text"], "options": {}},
        {"kind": "image", "content": b"bytes", "options": {}},
        {"kind": "image", "content": {"0": b"x"}, "options": {}},
        {"kind": "text", "content": ["a"]},
        {"kind": "text", "content": ["a"], "options": None},
        {"kind": "text", "content": ["a"], "options": [["top_k", 5]]},
        {"kind": "text", "content": ["a"], "options": {5: "top_k"}},
        {"kind": "text", "content": ["a"], "options": {"x": msgpack.ExtType(5, b"x")}},
    ],
)
def test_payload_of_another_form_is_refused(wire: dict) -> None:
    with pytest.raises(WireError):
        unpack_payload(packed({"v": 1, **wire}))


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"ms": {}},
        {"result": {"values": [1]}},
        {"result": [], "ms": {}},
        {"result": {"outputs": []}, "ms": {}},
        {"result": {"outputs": {"a": 1}}, "ms": {}},
        {"result": {}, "ms": {}},
        {"result": {"values": [1], "classes": []}, "ms": {}},
        {"result": {"values": {"0": 1}}, "ms": {}},
        {"result": {"values": [msgpack.ExtType(5, b"x")]}, "ms": {}},
        {"result": {"classes": [[[1, "cat"]]]}, "ms": {}},
        {"result": {"classes": [[["1", "cat", 0.5]]]}, "ms": {}},
        {"result": {"values": [1]}, "ms": {"forward": "1"}},
        {"result": {"values": [1]}, "ms": None},
        {"error": "text", "ms": {}},
        {"error": {"code": []}, "ms": {}},
        {"error": {"code": [], "detail": ""}, "ms": {}},
        {"result": {"values": [1]}, "ms": {}, "batch": {"id": "x"}},
        {"result": {"values": [1]}, "ms": {}, "batch": []},
        {"result": {"values": [1]}, "ms": {}, "batch": {"id": "x", "of_tomorrow": 1}},
        {
            "result": {"values": [1]},
            "ms": {},
            "batch": {"id": "x", "rows": "8", "requests": 1, "closed": "full", "worker": "w"},
        },
    ],
)
def test_reply_of_another_form_is_refused(wire: dict) -> None:
    with pytest.raises(WireError):
        unpack_reply(packed({"v": 1, **wire}))


@given(payloads, st.data())
def test_payload_cut_short_is_refused(payload: Payload, data: st.DataObject) -> None:
    packed = pack_payload(payload)
    with pytest.raises(WireError):
        unpack_payload(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(results, rides, parts, st.data())
def test_reply_cut_short_is_refused(result: Result, ride: Ride | None, ms: dict, data: st.DataObject) -> None:
    packed = pack_reply(Reply(result, None, ride, ms))
    with pytest.raises(WireError):
        unpack_reply(packed[: data.draw(st.integers(0, len(packed) - 1))])


@pytest.mark.parametrize("unpack", [unpack_payload, unpack_reply])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"hello",
        b"\x81\xa1v\x01\x00",
        b"\xa1\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x81\x90\x00",
        b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\xdd\xff\xff\xff\xff",
        b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\x91\xdb\xff\xff\xff\xff",
        b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\x91\xa1a\xa7options\x81\xa1a" + b"\x91" * 100_000 + b"\xc0",
        b"\x83\xa1v\x01\xa2ms\x80\xa6result\x81\xa6values" + b"\x91" * 100_000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff" * 1000,
    ],
    ids=[
        *("empty", "reserved", "text", "more after the end", "not UTF-8", "4 Gi of list", "5000 deep", "list as key"),
        *("4 Gi of texts", "4 GiB of text", "100,000 deep options", "100,000 deep values", "maps of 4 Gi"),
    ],
)
def test_what_is_no_map_of_ours_is_refused(unpack: Any, data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


@given(st.binary(max_size=64) | plain.map(lambda value: msgpack.packb({"v": 1, "x": value}) or b""))
def test_random_bytes_raise_nothing_but_wire_error(data: bytes) -> None:
    for unpack in (unpack_payload, unpack_reply):
        with pytest.raises(WireError):
            unpack(data)


@given(payloads, st.data())
def test_payload_with_a_byte_changed_is_read_or_refused(payload: Payload, data: st.DataObject) -> None:
    packed = bytearray(pack_payload(payload))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        unpack_payload(bytes(packed))


@given(results, rides, parts, st.data())
def test_reply_with_a_byte_changed_is_read_or_refused(
    result: Result, ride: Ride | None, ms: dict, data: st.DataObject
) -> None:
    packed = bytearray(pack_reply(Reply(result, None, ride, ms)))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        unpack_reply(bytes(packed))
