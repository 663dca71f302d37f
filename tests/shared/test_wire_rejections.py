"""The wire format: invalid data raises WireError and nothing else."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.shared.errors import WireError
from smartbatch.shared.wire import (
    BatchInfo,
    Payload,
    Reply,
    Result,
    Tensor,
    pack_payload,
    pack_reply,
    unpack_payload,
    unpack_reply,
)
from tests.shared.wire_values import batches, packed, parts, payloads, plain, results


@pytest.mark.parametrize("unpack", [unpack_payload, unpack_reply])
@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_rejected_by_name(unpack: Any, version: Any) -> None:
    packed = msgpack.packb({"v": version, "kind": "text", "content": ["a"], "options": {}, "result": {}, "ms": {}})
    with pytest.raises(WireError) as caught:
        unpack(packed)
    assert str(caught.value) == f"expected wire version 1, got {version!r}"


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        ({"dtype": "float31"}, "unknown dtype 'float31'; known: bool, uint8"),
        ({"dtype": "float32", "shape": [2], "data": b"1234"}, "float32 of shape [2] needs 8 bytes, got 4"),
        ({"shape": [2**62] * 4}, "uint8 of shape [4611686018427387904, 4611686018427387904, 46116860184"),
        ({"dtype": "bool", "data": b"\x02"}, "a bool must be a byte of 0 or 1"),
        (
            {"shape": [], "data": b"1"},
            "the first dimension of a payload's tensor is its rows, so its shape can't be []",
        ),
        ({"shape": [-1]}, "not a valid value of wire version 1: Expected `int` >= 0 - at `$.content.shape[0]`"),
        (
            {"shape": [1] * 33},
            "not a valid value of wire version 1: Expected `array` of length <= 32 - at `$.content.shape`",
        ),
        (
            {"shape": [1.0]},
            "not a valid value of wire version 1: Expected `int`, got `float` - at `$.content.shape[0]`",
        ),
        (
            {"shape": [True]},
            "not a valid value of wire version 1: Expected `int`, got `bool` - at `$.content.shape[0]`",
        ),
        ({"data": "1"}, "not a valid value of wire version 1: Expected `bytes`, got `str` - at `$.content.data`"),
        ({"order": "X"}, "not a valid value of wire version 1: Invalid enum value 'X' - at `$.content.order`"),
    ],
)
def test_inconsistent_tensor_is_rejected(tensor: dict, text: str) -> None:
    content = {"dtype": "uint8", "shape": [1], "data": b"1"} | tensor
    with pytest.raises(WireError) as caught:
        unpack_payload(packed({"v": 1, "kind": "tensor", "content": content, "options": {}}))
    assert str(caught.value).startswith(text)


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
        {"kind": "inputs", "content": {}, "options": {}},
        {"kind": "inputs", "content": ["a"], "options": {}},
        {"kind": "inputs", "content": {"a": ["x"]}, "options": {}},
        {"kind": "inputs", "content": {"a": {"kind": "text", "content": ["x"]}}, "options": {}},
        {"kind": "inputs", "content": {"a": {"kind": "text", "content": [b"x"], "options": {}}}, "options": {}},
        {"kind": "inputs", "content": {"../a": {"kind": "text", "content": ["x"], "options": {}}}, "options": {}},
        {"kind": "inputs", "content": {"": {"kind": "text", "content": ["x"], "options": {}}}, "options": {}},
        {"kind": "inputs", "content": {"a": {"kind": "inputs", "content": {}, "options": {}}}, "options": {}},
        {
            "kind": "inputs",
            "content": {f"a{n}": {"kind": "text", "content": ["x"], "options": {}} for n in range(65)},
            "options": {},
        },
        {"kind": "text", "content": ["a"]},
        {"kind": "text", "content": ["a"], "options": None},
        {"kind": "text", "content": ["a"], "options": [["top_k", 5]]},
        {"kind": "text", "content": ["a"], "options": {5: "top_k"}},
        {"kind": "text", "content": ["a"], "options": {"x": msgpack.ExtType(5, b"x")}},
    ],
)
def test_payload_of_another_form_is_rejected(wire: dict) -> None:
    with pytest.raises(WireError):
        unpack_payload(packed({"v": 1, **wire}))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            {"a": Payload("text", ["x"]), "b": Payload("image", [b"1", b"2"])},
            "all inputs of a request must have as many rows, but 'a' has 1 and 'b' has 2",
        ),
        ({"a": Payload("tensor", Tensor("float32", (2, 2), b"1"))}, "needs 16 bytes, got 1"),
        ({"a": Payload("tensor", Tensor("uint8", (), b"1"))}, "its shape can't be []"),
    ],
)
def test_inputs_that_contradict_themselves_are_refused(inputs: dict, text: str) -> None:
    with pytest.raises(WireError, match=re.escape(text)):
        unpack_payload(pack_payload(Payload("inputs", inputs)))


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
def test_reply_of_another_form_is_rejected(wire: dict) -> None:
    with pytest.raises(WireError):
        unpack_reply(packed({"v": 1, **wire}))


@given(payloads, st.data())
def test_truncated_payload_is_rejected(payload: Payload, data: st.DataObject) -> None:
    packed = pack_payload(payload)
    with pytest.raises(WireError):
        unpack_payload(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(results, batches, parts, st.data())
def test_truncated_reply_is_rejected(result: Result, batch: BatchInfo | None, ms: dict, data: st.DataObject) -> None:
    packed = pack_reply(Reply(result, None, batch, ms))
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
def test_other_msgpack_values_are_rejected(unpack: Any, data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


@given(st.binary(max_size=64) | plain.map(lambda value: msgpack.packb({"v": 1, "x": value}) or b""))
def test_random_bytes_raise_only_wire_error(data: bytes) -> None:
    for unpack in (unpack_payload, unpack_reply):
        with pytest.raises(WireError):
            unpack(data)


@given(payloads, st.data())
def test_payload_with_a_changed_byte_is_read_or_rejected(payload: Payload, data: st.DataObject) -> None:
    packed = bytearray(pack_payload(payload))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        unpack_payload(bytes(packed))


@given(results, batches, parts, st.data())
def test_reply_with_a_changed_byte_is_read_or_rejected(
    result: Result, batch: BatchInfo | None, ms: dict, data: st.DataObject
) -> None:
    packed = bytearray(pack_reply(Reply(result, None, batch, ms)))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        unpack_reply(bytes(packed))
