from __future__ import annotations

import math

import msgspec
import pytest

from smartbatch.gateway.core.response_types import Batch, ClassScore, OutputTensor, PredictResponse
from smartbatch.gateway.formats import render
from smartbatch.gateway.formats.render import Format
from smartbatch.shared.wire import BatchInfo, Reply, Result, Tensor

TENSOR = Tensor("float32", (1, 2), b"\x00\x00\x80\x3f\x00\x00\xc0\x7f")  # 1 and NaN


@pytest.mark.parametrize(
    ("result", "member", "expected"),
    [
        (Result(classes=[[(3, "cat", 0.5)]]), "predictions", [[ClassScore("cat", 3, 0.5)]]),
        (Result(classes=[[(3, "cat", math.nan)]]), "predictions", [[ClassScore("cat", 3, "NaN")]]),
        (Result(outputs={"y": TENSOR}), "outputs", {"y": OutputTensor("float32", (1, 2), [[1.0, "NaN"]])}),
        (Result(values=[{"any": ["thing"]}]), "values", [{"any": ["thing"]}]),
    ],
)
def test_every_response_has_its_documented_type(result: Result, member: str, expected: object):
    reply = Reply(result=result, batch=BatchInfo("b-1", 2, 1, "full", "w-1"), ms={"queue": 1.0})
    timing = render.timing_ms(reply, admit_ms=1.0, reply_ms=2.0, total_ms=4.0)
    body = render.render(Format.JSON, reply, model="m", request_id="r-1", timing=timing)
    response = msgspec.json.decode(body, type=PredictResponse)  # the type forbids other members
    assert getattr(response, member) == expected
    assert [name for name in ("predictions", "outputs", "values") if getattr(response, name) is not msgspec.UNSET] == [
        member
    ]
    assert response.batch == Batch("b-1", 2, 1, 1, "full", "w-1")
    assert response.timing_ms == {"admit": 1.0, "queue": 1.0, "reply": 2.0, "total": 4.0}
