from __future__ import annotations

import io
import json
import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from smartbatch.gateway.formats.render import Format, render, response_headers, timing_ms
from smartbatch.shared.errors import NotAcceptable, WireError
from smartbatch.shared.wire import BatchInfo, Reply, Result, Tensor

BATCH = BatchInfo("b-1", 8, 5, "full", "w-1", 1, 2)
STAGES = {"forward": 4.00049, "queue": 0.1, "decode": 2.5, "batch_wait": 1.25}
CLASSES = Result(classes=[[(281, "tabby", 0.75), (282, "tiger cat", 0.25)], [(1, "goldfish", 1.0)]])


def rendered(result: Result, chosen: Format = Format.JSON, batch: BatchInfo | None = BATCH) -> tuple[str, bytes]:
    reply = Reply(result, batch=batch, ms=STAGES)
    timing = timing_ms(reply, admit_ms=0.41249, reply_ms=0.5, total_ms=9)
    name, media_type = chosen.header
    assert name == b"content-type"
    return media_type.decode(), render(chosen, reply, model="m", request_id="r-1", timing=timing)


def outputs(array: np.ndarray, name: str = "logits") -> dict[str, Tensor]:
    return {name: Tensor(array.dtype.name, array.shape, array.tobytes())}


def test_classes_as_json():
    content_type, body = rendered(CLASSES)
    assert content_type == "application/json"
    assert json.loads(body) == {
        "model": "m",
        "version": 1,
        "request_id": "r-1",
        "predictions": [
            [
                {"label": "tabby", "class_id": 281, "probability": 0.75},
                {"label": "tiger cat", "class_id": 282, "probability": 0.25},
            ],
            [{"label": "goldfish", "class_id": 1, "probability": 1.0}],
        ],
        "batch": {"id": "b-1", "rows": 8, "requests": 5, "position": 2, "closed": "full", "worker": "w-1"},
        "timing_ms": {
            "admit": 0.412,
            "queue": 0.1,
            "decode": 2.5,
            "batch_wait": 1.25,
            "forward": 4.0,
            "reply": 0.5,
            "total": 9,
        },
    }


def test_outputs_as_json_are_nested_lists():
    body = json.loads(rendered(Result(outputs=outputs(np.array([[1.5, -2.0]], np.float32))))[1])
    assert body["outputs"] == {"logits": {"dtype": "float32", "shape": [1, 2], "data": [[1.5, -2.0]]}}


def test_values_as_json_and_msgpack():
    result = Result(values=[{"text": "ä"}, None])
    assert json.loads(rendered(result, batch=None)[1])["values"] == [{"text": "ä"}, None]
    assert "batch" not in json.loads(rendered(result, batch=None)[1])
    content_type, body = rendered(result, Format.MSGPACK)
    assert content_type == "application/msgpack"
    assert msgpack.unpackb(body)["values"] == [{"text": "ä"}, None]


def test_msgpack_has_the_fields_of_json_and_tensors_as_bytes():
    array = np.array([[1, 2]], np.int64)
    body = msgpack.unpackb(rendered(Result(outputs=outputs(array)), Format.MSGPACK)[1])
    assert body["outputs"] == {"logits": {"dtype": "int64", "shape": [1, 2], "data": array.tobytes()}}
    assert msgpack.unpackb(rendered(CLASSES, Format.MSGPACK)[1]) == json.loads(rendered(CLASSES)[1])


def test_one_output_as_npy():
    content_type, body = rendered(Result(outputs=outputs(np.eye(2, dtype=np.float16))), Format.NPY)
    assert content_type == "application/x-npy"
    assert np.load(io.BytesIO(body)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "result",
    [CLASSES, Result(values=[1]), Result(outputs={**outputs(np.zeros(1), "a"), **outputs(np.zeros(1), "b")})],
)
def test_several_or_no_tensors_cannot_be_npy(result):
    with pytest.raises(NotAcceptable, match="npy"):
        rendered(result, Format.NPY)


def test_nan_and_infinity_are_text_in_json_and_unchanged_elsewhere():
    array = np.array([[math.nan, math.inf, -math.inf, 1.0]], np.float32)
    assert json.loads(rendered(Result(outputs=outputs(array)))[1])["outputs"]["logits"]["data"] == [
        ["NaN", "Infinity", "-Infinity", 1.0]
    ]
    row = [(0, "a", math.nan)]
    assert json.loads(rendered(Result(classes=[row]))[1])["predictions"][0][0]["probability"] == "NaN"
    own = {"a": [None, math.inf, (math.nan, -math.inf)], "b": "null"}
    assert json.loads(rendered(Result(values=[own]))[1])["values"] == [
        {"a": [None, "Infinity", ["NaN", "-Infinity"]], "b": "null"}
    ]
    kept = msgpack.unpackb(rendered(Result(classes=[row]), Format.MSGPACK)[1])
    assert math.isnan(kept["predictions"][0][0]["probability"])
    saved = np.load(io.BytesIO(rendered(Result(outputs=outputs(array)), Format.NPY)[1]))
    assert np.array_equal(saved, array, equal_nan=True)


@given(
    st.sampled_from(["bool", "uint8", "int16", "uint32", "int64", "uint64", "float16", "float32", "float64"]).flatmap(
        lambda dtype: npst.arrays(
            np.dtype(dtype),
            npst.array_shapes(min_dims=0, min_side=0, max_side=3),
            elements={"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None,
        )
    )
)
def test_json_data_equals_numpys_view_of_the_bytes(array):
    assert json.loads(rendered(Result(outputs=outputs(array)))[1])["outputs"]["logits"]["data"] == array.tolist()


def test_bfloat16_is_widened():
    result = Result(outputs={"x": Tensor("bfloat16", (1, 2), b"\x80\x3f\x00\xc0")})
    assert json.loads(rendered(result)[1])["outputs"]["x"]["data"] == [[1.0, -2.0]]


@pytest.mark.parametrize("chosen", [Format.JSON, Format.MSGPACK])
def test_fortran_order_in_a_reply_is_a_wire_error(chosen):
    tensor = Tensor("uint8", (2, 2), b"1234", "F")
    with pytest.raises(WireError):
        rendered(Result(outputs={"x": tensor}), chosen)


def test_headers_have_the_parts_of_the_time():
    reply = Reply(CLASSES, batch=BATCH, ms={"queue": 0.1})
    timing = timing_ms(reply, admit_ms=0.412, reply_ms=0.5, total_ms=1.012)
    assert response_headers("r-1", BATCH, timing) == [
        (b"x-request-id", b"r-1"),
        (b"server-timing", b"admit;dur=0.412, queue;dur=0.1, reply;dur=0.5, total;dur=1.012"),
        (b"x-batch-rows", b"8"),
        (b"x-batch-closed", b"full"),
    ]
    assert [name for name, _ in response_headers("r-1", None, timing)] == [b"x-request-id", b"server-timing"]


def test_an_unknown_part_is_in_no_header():
    timing = timing_ms(Reply(CLASSES, ms={"x\r\nevil: 1": 1.0, "queue": 0.1}), admit_ms=1, reply_ms=1, total_ms=3)
    assert list(timing) == ["admit", "queue", "reply", "total"]


def test_json_starts_with_model_and_result():
    _, body = rendered(CLASSES)
    assert list(json.loads(body)) == ["model", "version", "request_id", "predictions", "batch", "timing_ms"]
