"""The wire format: exact bytes of known values, and round trips. test_wire_rejections.py has invalid values."""

from __future__ import annotations

from typing import Any, Literal

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.shared.errors import InvalidInput, QueueFull, SmartBatchError, WireError, by_code
from smartbatch.shared.wire import (
    BatchInfo,
    Payload,
    Raw,
    Reply,
    Result,
    Tensor,
    pack_payload,
    pack_reply,
    unpack_payload,
    unpack_reply,
)
from tests.shared.wire_values import batches, names, parts, payloads, results, tensors

# --- exact bytes


def test_payload_of_images_has_these_bytes() -> None:
    packed = pack_payload(Payload("image", [b"\xff\xd8", b""], {"top_k": 5}))
    assert msgpack.unpackb(packed) == {
        "v": 1,
        "kind": "image",
        "content": [b"\xff\xd8", b""],
        "options": {"top_k": 5},
    }


def test_payload_of_a_tensor_has_these_bytes() -> None:
    packed = pack_payload(Payload("tensor", Tensor("uint16", (2, 1), b"\1\0\2\0")))
    assert packed == (
        b"\x84\xa1v\x01\xa4kind\xa6tensor\xa7content\x83\xa5dtype\xa6uint16\xa5shape\x92\x02\x01"
        b"\xa4data\xc4\x04\x01\x00\x02\x00\xa7options\x80"
    )


def test_payload_of_several_inputs_holds_a_payload_of_each() -> None:
    inputs = {"words": Payload("text", ["a", "b"]), "x": Payload("tensor", Tensor("uint8", (2, 1), b"12"))}
    payload = Payload("inputs", inputs, {"top_k": 5})
    assert msgpack.unpackb(pack_payload(payload)) == {
        "v": 1,
        "kind": "inputs",
        "content": {
            "words": {"kind": "text", "content": ["a", "b"], "options": {}},
            "x": {"kind": "tensor", "content": {"dtype": "uint8", "shape": [2, 1], "data": b"12"}, "options": {}},
        },
        "options": {"top_k": 5},
    }
    first, second = payload.split(1)
    assert (first.options, second.rows) == ({"top_k": 5}, 1)
    assert second.content == {
        "words": Payload("text", ["b"]),
        "x": Payload("tensor", Tensor("uint8", (1, 1), b"2")),
    }


def test_fortran_order_is_written_and_c_order_is_not() -> None:
    written: list[tuple[Any, dict[str, str]]] = [("F", {"order": "F"}), ("C", {})]
    for order, written_order in written:
        packed = pack_payload(Payload("tensor", Tensor("bool", (1,), b"\1", order)))
        assert msgpack.unpackb(packed)["content"] == {"dtype": "bool", "shape": [1], "data": b"\1", **written_order}


def test_reply_with_classes_has_these_bytes() -> None:
    batch = BatchInfo("w-1", 8, 3, "window", "w", position=2)
    packed = pack_reply(Reply(Result(classes=[[(281, "tabby", 0.5)]]), None, batch, {"queue": 0.25}))
    assert msgpack.unpackb(packed) == {
        "v": 1,
        "ms": {"queue": 0.25},
        "batch": {"id": "w-1", "rows": 8, "requests": 3, "closed": "window", "worker": "w", "deliveries": 1}
        | {"position": 2},
        "result": {"classes": [[[281, "tabby", 0.5]]]},
    }


def test_reply_with_an_error_holds_only_its_code_and_detail() -> None:
    packed = pack_reply(Reply(error=InvalidInput("expected 3, got 4")))
    assert msgpack.unpackb(packed) == {
        "v": 1,
        "ms": {},
        "error": {"code": "invalid_input", "detail": "expected 3, got 4"},
    }


def test_unknown_error_code_becomes_a_plain_error() -> None:
    packed = msgpack.packb({"v": 1, "ms": {}, "error": {"code": "of_tomorrow", "detail": "text"}})
    assert packed
    error = unpack_reply(packed).error
    assert (type(error), str(error)) == (SmartBatchError, "text")


def test_retryable_error_keeps_its_class() -> None:
    error = unpack_reply(pack_reply(Reply(error=QueueFull("1024 wait")))).error
    assert isinstance(error, QueueFull)
    assert (error.detail, error.retryable) == ("1024 wait", True)


def test_reply_without_result_and_error_is_never_written() -> None:
    with pytest.raises(WireError, match="a result or an error"):
        pack_reply(Reply())


class Label(str):
    """A subclass of str, as lxml and Beautiful Soup return."""


class Share(float):
    pass


def test_subclasses_of_text_and_numbers_are_written_as_their_base() -> None:
    values = [Label("cat"), Share(0.5), {"é": Label("é")}]
    reply = unpack_reply(pack_reply(Reply(Result(values=values))))
    assert reply.result == Result(values=["cat", 0.5, {"é": "é"}])
    assert str(unpack_reply(pack_reply(Reply(error=InvalidInput(Label("no"))))).error) == "no"


def test_invalid_result_is_never_written() -> None:
    for wrong in (Result(), Result(classes=[], values=[])):
        with pytest.raises(TypeError, match="one of classes, outputs and values"):
            pack_reply(Reply(wrong))
    with pytest.raises(TypeError, match="a value of type complex"):
        pack_reply(Reply(Result(values=[1j])))


@pytest.mark.parametrize(
    ("payload", "rows"),
    [
        (Payload("image", [b"a", b"b"]), 2),
        (Payload("text", ["a"]), 1),
        (Payload("tensor", Tensor("uint8", (3, 2), bytes(6))), 3),
        (Payload("raw", Raw(b"abc", "text/plain")), 1),
        (Payload("inputs", {"a": Payload("text", ["x", "y"]), "b": Payload("image", [b"1", b"2"])}), 2),
    ],
)
def test_payload_of_each_kind_knows_its_rows(payload: Payload, rows: int) -> None:
    assert payload.rows == rows
    assert unpack_payload(pack_payload(payload)).rows == rows


# --- round trips


@given(payloads)
def test_payload_reads_back_as_it_was_written(payload: Payload) -> None:
    assert unpack_payload(pack_payload(payload)) == payload


@given(results, batches, parts)
def test_reply_with_a_result_reads_back_as_it_was_written(result: Result, batch: BatchInfo | None, ms: dict) -> None:
    reply = Reply(result, None, batch, ms)
    assert unpack_reply(pack_reply(reply)) == reply


@given(st.sampled_from(sorted(by_code())), names, batches, parts)
def test_reply_with_an_error_reads_back_as_it_was_written(
    code: str, detail: str, batch: BatchInfo | None, ms: dict
) -> None:
    reply = unpack_reply(pack_reply(Reply(error=by_code()[code](detail), batch=batch, ms=ms)))
    assert (type(reply.error), str(reply.error)) == (by_code()[code], detail)
    assert (reply.result, reply.batch, reply.ms) == (None, batch, ms)


@given(tensors(), st.sampled_from([bytearray, memoryview]))
def test_tensor_is_written_from_any_buffer(tensor: Tensor, buffer: Any) -> None:
    given_as = Tensor(tensor.dtype, tensor.shape, buffer(tensor.data), tensor.order)
    assert unpack_payload(pack_payload(Payload("tensor", given_as))).content == tensor


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_tensor_is_split_by_rows(order: Literal["C", "F"]):
    array = np.arange(15, dtype=np.int16).reshape(5, 3)
    parts = Payload("tensor", Tensor("int16", (5, 3), array.tobytes(order), order), {"top_k": 1}).split(2)
    assert [part.options for part in parts] == [{"top_k": 1}] * 3
    tensors = [part.content for part in parts if isinstance(part.content, Tensor)]
    assert [(tensor.shape, tensor.order) for tensor in tensors] == [((2, 3), order), ((2, 3), order), ((1, 3), order)]
    rows = [np.frombuffer(tensor.data, np.int16).reshape(tensor.shape, order=order) for tensor in tensors]
    assert np.concatenate(rows).tolist() == array.tolist()


def test_lists_are_split_by_rows_and_raw_bodies_are_not():
    assert [part.content for part in Payload("text", ["a", "b", "c"]).split(2)] == [["a", "b"], ["c"]]
    raw = Payload("raw", Raw(b"x", "a/b"))
    assert raw.split(1) == [raw]
